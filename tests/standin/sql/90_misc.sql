CREATE FUNCTION pg_catalog.citus_version() RETURNS text
    LANGUAGE sql STABLE STRICT AS $$SELECT 'Citus 14.0.1 stand-in (laboratory and tests only) on ' || pg_catalog.version()$$;
CREATE FUNCTION pg_catalog.citus_server_id() RETURNS uuid
    LANGUAGE sql STABLE STRICT AS $$SELECT (metadata ->> 'server_id')::uuid FROM pg_catalog.pg_dist_node_metadata$$;

-- Commands on nodes run as the calling role, each in a session and a transaction of its own.
CREATE FUNCTION citus_standin.run_on_node(node integer, command text) RETURNS TABLE (success boolean, result text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT true, answer.text INTO success, result
    FROM pg_dist_node AS n,
         citus_standin.dblink(citus_standin.conninfo(n.nodeid, n.nodename, n.nodeport, citus_standin.caller()), command) AS answer (text text)
    WHERE n.nodeid = node LIMIT 1;
    success := true;
    RETURN NEXT;
EXCEPTION WHEN sqlclient_unable_to_establish_sqlconnection THEN
    SELECT false, format('failed to connect to %s:%s', n.nodename, n.nodeport) INTO success, result FROM pg_dist_node AS n WHERE n.nodeid = node;
    RETURN NEXT;
WHEN OTHERS THEN
    success := false;
    result := 'ERROR:  ' || SQLERRM;
    RETURN NEXT;
END $$;

CREATE FUNCTION pg_catalog.run_command_on_workers(command text, parallel boolean DEFAULT true,
        OUT nodename text, OUT nodeport integer, OUT success boolean, OUT result text) RETURNS SETOF record
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT w.nodename, w.nodeport, answer.success, answer.result
    FROM citus_standin.worker_groups() AS w, citus_standin.run_on_node(w.nodeid, command) AS answer ORDER BY w.nodename, w.nodeport
$$;
CREATE FUNCTION pg_catalog.run_command_on_all_nodes(command text, parallel boolean DEFAULT true, give_warning_for_connection_errors boolean DEFAULT false,
        OUT nodeid integer, OUT success boolean, OUT result text) RETURNS SETOF record
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT n.nodeid, answer.success, answer.result
    FROM pg_dist_node AS n, citus_standin.run_on_node(n.nodeid, command) AS answer
    WHERE n.noderole = 'primary' AND n.isactive ORDER BY n.nodeid
$$;
CREATE FUNCTION pg_catalog.run_command_on_coordinator(command text, give_warning_for_connection_errors boolean DEFAULT false,
        OUT nodeid integer, OUT success boolean, OUT result text) RETURNS SETOF record
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT n.nodeid, answer.success, answer.result
    FROM pg_dist_node AS n, citus_standin.run_on_node(n.nodeid, command) AS answer WHERE n.noderole = 'primary' AND n.groupid = 0
$$;

-- In which shard a value is. "any" is not open to SQL functions, hence two of them.
CREATE FUNCTION citus_standin.shard_of(relation regclass, value text) RETURNS bigint
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shard record;
    column_type regtype;
    found_here boolean;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = relation) THEN
        RAISE EXCEPTION 'relation is not distributed' USING ERRCODE = 'wrong_object_type';
    END IF;
    SELECT a.atttypid INTO column_type FROM pg_dist_partition AS p JOIN pg_attribute AS a ON a.attrelid = p.logicalrelid
    WHERE p.logicalrelid = relation AND p.partmethod = 'h' AND a.attname = column_to_column_name(p.logicalrelid, p.partkey);
    IF column_type IS NULL THEN
        RETURN (SELECT shardid FROM pg_dist_shard WHERE logicalrelid = relation);
    END IF;
    IF value IS NULL THEN
        RAISE EXCEPTION 'distribution value cannot be NULL for tables other than reference and local tables.' USING ERRCODE = 'feature_not_supported';
    END IF;
    FOR shard IN SELECT shardid, count(*) OVER () AS shards, row_number() OVER (ORDER BY shardminvalue::bigint) - 1 AS place
                 FROM pg_dist_shard WHERE logicalrelid = relation LOOP
        EXECUTE format('SELECT satisfies_hash_partition(%s, %s, %s, %L::%s)', relation::oid, shard.shards, shard.place, value, column_type) INTO found_here;
        IF found_here THEN
            RETURN shard.shardid;
        END IF;
    END LOOP;
    RETURN 0;
END $$;
CREATE FUNCTION pg_catalog.get_shard_id_for_distribution_column(table_name regclass, distribution_value text DEFAULT NULL) RETURNS bigint
    LANGUAGE sql STABLE AS 'SELECT citus_standin.shard_of($1, $2)';
CREATE FUNCTION pg_catalog.get_shard_id_for_distribution_column(table_name regclass, distribution_value anyelement) RETURNS bigint
    LANGUAGE sql STABLE AS 'SELECT citus_standin.shard_of($1, $2::text)';

-- A table of a distributed schema is a single shard; its schema's tables are colocated.
CREATE FUNCTION citus_standin.schema_tables(schema regnamespace) RETURNS TABLE (relation regclass)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.oid::regclass FROM pg_class AS c WHERE c.relnamespace = schema AND c.relkind = 'r' ORDER BY c.oid
$$;
CREATE FUNCTION citus_standin.require_schema_owner(schema regnamespace) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE oid = schema AND pg_has_role(citus_standin.caller(), nspowner, 'USAGE')) THEN
        RAISE EXCEPTION 'must be owner of schema %', (SELECT nspname FROM pg_namespace WHERE oid = schema) USING ERRCODE = 'insufficient_privilege';
    END IF;
END $$;
CREATE FUNCTION citus_standin.set_schema_colocation(schema regnamespace, colocation integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM citus_standin.require_schema_owner(schema);
    DELETE FROM pg_dist_schema WHERE schemaid = schema;
    INSERT INTO pg_dist_schema SELECT schema, colocation WHERE colocation IS NOT NULL;
END $$;
CREATE FUNCTION pg_catalog.citus_schema_distribute(schemaname regnamespace) RETURNS void
    LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    colocation integer;
    item record;
BEGIN
    PERFORM citus_standin.require_coordinator();
    PERFORM citus_standin.require_schema_owner(schemaname);
    IF schemaname = 'public'::regnamespace THEN
        RAISE EXCEPTION 'public schema cannot be distributed' USING ERRCODE = 'feature_not_supported';
    END IF;
    IF EXISTS (SELECT FROM pg_dist_schema WHERE schemaid = schemaname) THEN
        RAISE NOTICE 'schema % is already distributed', schemaname;
        RETURN;
    END IF;
    RAISE NOTICE 'distributing the schema %', schemaname;
    colocation := citus_standin.new_colocation(1, 0, 0);
    PERFORM citus_standin.set_schema_colocation(schemaname, colocation);
    FOR item IN SELECT * FROM citus_standin.schema_tables(schemaname) AS t
                WHERE NOT EXISTS (SELECT FROM pg_dist_partition AS p WHERE p.logicalrelid = t.relation) LOOP
        PERFORM citus_standin.distribute(item.relation, NULL, NULL, false, 1, false, colocation);
    END LOOP;
    PERFORM citus_standin.publish();
END $$;
CREATE FUNCTION pg_catalog.citus_schema_undistribute(schemaname regnamespace) RETURNS void
    LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    colocation integer := (SELECT colocationid FROM pg_dist_schema WHERE schemaid = schemaname);
    item record;
BEGIN
    PERFORM citus_standin.require_coordinator();
    PERFORM citus_standin.require_schema_owner(schemaname);
    IF colocation IS NULL THEN
        RAISE EXCEPTION 'schema % is not distributed', schemaname USING ERRCODE = 'feature_not_supported';
    END IF;
    RAISE NOTICE 'undistributing schema %', schemaname;
    FOR item IN SELECT logicalrelid AS relation FROM pg_dist_partition WHERE colocationid = colocation LOOP
        PERFORM citus_standin.collect(item.relation);
    END LOOP;
    PERFORM citus_standin.set_schema_colocation(schemaname, NULL);
    PERFORM citus_standin.publish();
END $$;

-- Things that the stand-in has no use for, so that callers need not ask which one they talk to.
CREATE FUNCTION pg_catalog.recover_prepared_transactions() RETURNS integer LANGUAGE sql STRICT AS 'SELECT 0';
CREATE FUNCTION pg_catalog.citus_finalize_upgrade_to_citus11(enforce_version_check boolean DEFAULT true) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE PROCEDURE pg_catalog.citus_finish_citus_upgrade() LANGUAGE plpgsql AS 'BEGIN END';
CREATE FUNCTION pg_catalog.citus_prepare_pg_upgrade() RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
CREATE FUNCTION pg_catalog.citus_finish_pg_upgrade() RETURNS void LANGUAGE plpgsql AS 'BEGIN END';

-- A restore point of the same name on every node, while the registry and the tables stand still. Commits are
-- not held back: rows that are on their way to two nodes may fall on both sides.
CREATE FUNCTION pg_catalog.citus_create_restore_point(text) RETURNS pg_lsn
    LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    node record;
BEGIN
    PERFORM citus_standin.require_coordinator();
    LOCK TABLE pg_dist_node, pg_dist_partition, pg_dist_placement IN EXCLUSIVE MODE;
    FOR node IN SELECT * FROM citus_standin.worker_groups() LOOP
        PERFORM FROM citus_standin.dblink(citus_standin.conninfo(node.nodeid, node.nodename, node.nodeport),
                                          format('SELECT pg_create_restore_point(%L)', $1)) AS answer (lsn pg_lsn);
    END LOOP;
    RETURN pg_create_restore_point($1);
END $$;

CREATE FUNCTION pg_catalog.get_all_active_transactions(OUT datid oid, OUT process_id integer, OUT initiator_node_identifier integer,
        OUT worker_query boolean, OUT transaction_number bigint, OUT transaction_stamp timestamptz, OUT global_pid bigint) RETURNS SETOF record
    LANGUAGE sql STRICT AS $$
    SELECT datid, pid, citus_standin.local_group(), application_name = 'citus_standin', 0::bigint, xact_start, pid::bigint
    FROM pg_catalog.pg_stat_activity WHERE xact_start IS NOT NULL AND backend_type = 'client backend'
$$;
