-- Sizes are asked from the nodes that hold the shards; a node that does not answer fails the query, as in Citus.
CREATE FUNCTION citus_standin.sizes(kind text, wanted regclass DEFAULT NULL) RETURNS TABLE (logicalrelid regclass, shardid bigint, groupid integer, size bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    node record;
    measured text := format('%I(to_regclass(name))', CASE kind WHEN 'table' THEN 'pg_table_size' WHEN 'relation' THEN 'pg_relation_size'
                                                               ELSE 'pg_total_relation_size' END);
    question text;
BEGIN
    FOR node IN
        SELECT n.nodeid, n.groupid, n.nodename, n.nodeport, jsonb_agg(jsonb_build_object('shard', s.shardid, 'name',
                   CASE WHEN p.groupid = 0 AND c.relkind = 'r' THEN citus_standin.qualified(c.oid)
                        ELSE shard_name(s.logicalrelid, s.shardid, false) END)) AS shards
        FROM pg_dist_shard AS s JOIN pg_dist_placement AS p USING (shardid) JOIN pg_class AS c ON c.oid = s.logicalrelid
        JOIN pg_dist_node AS n ON n.groupid = p.groupid AND n.noderole = 'primary'
        WHERE wanted IS NULL OR s.logicalrelid = wanted
        GROUP BY n.nodeid, n.groupid, n.nodename, n.nodeport
    LOOP
        question := format('SELECT shard, %s FROM jsonb_to_recordset(%L) AS s (shard bigint, name text)', measured, node.shards);
        RETURN QUERY
        SELECT s.logicalrelid, s.shardid, node.groupid, coalesce(answer.size, 0)
        FROM citus_standin.dblink(citus_standin.conninfo(node.nodeid, node.nodename, node.nodeport), question) AS answer (shard bigint, size bigint)
        JOIN pg_dist_shard AS s ON s.shardid = answer.shard;
    END LOOP;
END $$;

CREATE FUNCTION pg_catalog.citus_shard_sizes(OUT shard_id integer, OUT size bigint) RETURNS SETOF record
    LANGUAGE sql STRICT AS 'SELECT shardid::integer, size FROM citus_standin.sizes(''total'')';

CREATE FUNCTION citus_standin.size_of(relation regclass, kind text) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = relation) THEN
        RAISE EXCEPTION 'cannot calculate the size because relation ''%'' is not distributed', (SELECT relname FROM pg_class WHERE oid = relation)
            USING ERRCODE = 'internal_error';
    END IF;
    RETURN (SELECT coalesce(sum(size), 0) FROM citus_standin.sizes(kind, relation));
END $$;
CREATE FUNCTION pg_catalog.citus_table_size(logicalrelid regclass) RETURNS bigint
    LANGUAGE sql STRICT AS 'SELECT citus_standin.size_of($1, ''table'')';
CREATE FUNCTION pg_catalog.citus_relation_size(logicalrelid regclass) RETURNS bigint
    LANGUAGE sql STRICT AS 'SELECT citus_standin.size_of($1, ''relation'')';
CREATE FUNCTION pg_catalog.citus_total_relation_size(logicalrelid regclass, fail_on_error boolean DEFAULT true) RETURNS bigint
    LANGUAGE sql STRICT AS 'SELECT citus_standin.size_of($1, ''total'')';

CREATE FUNCTION citus_standin.table_type(d pg_dist_partition) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN d.colocationid IN (SELECT colocationid FROM pg_dist_schema) THEN 'schema'
                WHEN d.partmethod = 'h' THEN 'distributed'
                WHEN d.repmodel = 't' THEN 'reference'
                WHEN d.colocationid = 0 THEN 'local'
                ELSE 'distributed' END
$$;

-- In the schema public, as in Citus.
CREATE VIEW public.citus_tables AS
SELECT d.logicalrelid AS table_name,
       citus_standin.table_type(d) AS citus_table_type,
       coalesce(column_to_column_name(d.logicalrelid, d.partkey), '<none>') AS distribution_column,
       d.colocationid AS colocation_id,
       pg_size_pretty(coalesce((SELECT sum(z.size) FROM citus_standin.sizes('total', d.logicalrelid) AS z), 0)) AS table_size,
       (SELECT count(*) FROM pg_dist_shard AS s WHERE s.logicalrelid = d.logicalrelid) AS shard_count,
       pg_get_userbyid(c.relowner) AS table_owner,
       'heap'::name AS access_method
FROM pg_dist_partition AS d JOIN pg_class AS c ON c.oid = d.logicalrelid
ORDER BY d.logicalrelid::text;
GRANT SELECT ON public.citus_tables TO PUBLIC;

CREATE VIEW citus.citus_shards AS
SELECT s.logicalrelid AS table_name, s.shardid, shard_name(s.logicalrelid, s.shardid) AS shard_name,
       citus_standin.table_type(d) AS citus_table_type, d.colocationid AS colocation_id, n.nodename, n.nodeport, z.size AS shard_size
FROM pg_dist_shard AS s
JOIN pg_dist_partition AS d ON d.logicalrelid = s.logicalrelid
JOIN pg_dist_placement AS p ON p.shardid = s.shardid AND p.shardstate = 1
JOIN pg_dist_node AS n ON n.groupid = p.groupid
LEFT JOIN (SELECT shardid, max(size) AS size FROM citus_standin.sizes('total') GROUP BY shardid) AS z ON z.shardid = s.shardid
ORDER BY s.logicalrelid::text, s.shardid;
ALTER VIEW citus.citus_shards SET SCHEMA pg_catalog;
GRANT SELECT ON pg_catalog.citus_shards TO PUBLIC;

CREATE VIEW citus.citus_nodes AS
SELECT nodename, nodeport, CASE groupid WHEN 0 THEN 'coordinator' ELSE 'worker' END AS role, isactive AS active FROM pg_dist_node;
ALTER VIEW citus.citus_nodes SET SCHEMA pg_catalog;
GRANT SELECT ON pg_catalog.citus_nodes TO PUBLIC;

CREATE VIEW public.citus_schemas AS
SELECT s.schemaid::regnamespace AS schema_name, s.colocationid AS colocation_id,
       CASE WHEN has_schema_privilege(s.schemaid, 'USAGE') THEN pg_size_pretty(coalesce(
           (SELECT sum(z.size) FROM citus_standin.sizes('total') AS z JOIN pg_class AS c ON c.oid = z.logicalrelid WHERE c.relnamespace = s.schemaid), 0)) END AS schema_size,
       pg_get_userbyid(n.nspowner) AS schema_owner
FROM pg_dist_schema AS s JOIN pg_namespace AS n ON n.oid = s.schemaid
ORDER BY schema_name;
GRANT SELECT ON public.citus_schemas TO PUBLIC;

CREATE VIEW citus.pg_dist_shard_placement AS
SELECT p.shardid, p.shardstate, p.shardlength, n.nodename, n.nodeport, p.placementid
FROM pg_dist_placement AS p JOIN pg_dist_node AS n ON n.groupid = p.groupid AND n.noderole = 'primary';
ALTER VIEW citus.pg_dist_shard_placement SET SCHEMA pg_catalog;
GRANT SELECT ON pg_catalog.pg_dist_shard_placement TO PUBLIC;
