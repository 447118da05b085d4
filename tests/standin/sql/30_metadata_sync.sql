-- Functions that change tables themselves set citus_standin.own_work, so that the event triggers of
-- 70_ddl.sql leave them alone.

-- Workers hold a copy of the registry and of every distributed table's face, so that they answer the
-- same questions as the coordinator. The coordinator sends the whole truth each time and the worker makes
-- itself agree: slower than a change log, and right again after whatever was missed.
CREATE FUNCTION citus_standin.snapshot() RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    -- Without nulls: an empty list is then a missing key, which counts as no rows.
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'nodes', (SELECT jsonb_agg(to_jsonb(n)) FROM pg_dist_node AS n),
        'colocations', (SELECT jsonb_agg(to_jsonb(c) || jsonb_build_object(
                            'type', c.distributioncolumntype::regtype::text,
                            'collated', nullif(c.distributioncolumncollation, 0)::regcollation::text))
                        FROM pg_dist_colocation AS c),
        'schemas', (SELECT jsonb_agg(jsonb_build_object('name', n.nspname, 'colocationid', s.colocationid))
                    FROM pg_dist_schema AS s JOIN pg_namespace AS n ON n.oid = s.schemaid),
        'sequences', (SELECT jsonb_agg(citus_standin.qualified(q.oid)) FROM pg_class AS q WHERE q.relkind = 'S' AND q.relnamespace <> 'pg_catalog'::regnamespace),
        'tables', (
            SELECT jsonb_agg(jsonb_build_object(
                'schema', n.nspname, 'name', c.relname, 'owner', pg_get_userbyid(c.relowner),
                'columns', citus_standin.column_list(c.oid, true),
                'grants', citus_standin.grant_commands(c.oid, '@table@'),
                'sequences', (SELECT jsonb_agg(jsonb_build_object('name', q.oid::regclass::text, 'type', format_type(s.seqtypid, NULL),
                                                                  'bits', CASE s.seqtypid WHEN 'int8'::regtype THEN 48
                                                                                          WHEN 'int4'::regtype THEN 28 ELSE 12 END))
                              FROM citus_standin.sequences_of(c.oid) AS q JOIN pg_sequence AS s ON s.seqrelid = q.oid),
                'partmethod', d.partmethod, 'column', column_to_column_name(d.logicalrelid, d.partkey),
                'colocationid', d.colocationid, 'repmodel', d.repmodel, 'autoconverted', d.autoconverted,
                'shards', (SELECT jsonb_agg(to_jsonb(s) - 'logicalrelid') FROM pg_dist_shard AS s WHERE s.logicalrelid = d.logicalrelid),
                'placements', (SELECT jsonb_agg(to_jsonb(p)) FROM pg_dist_placement AS p JOIN pg_dist_shard AS s USING (shardid)
                               WHERE s.logicalrelid = d.logicalrelid)))
            FROM pg_dist_partition AS d
            JOIN pg_class AS c ON c.oid = d.logicalrelid
            JOIN pg_namespace AS n ON n.oid = c.relnamespace)))
$$;

-- Sequences that a table's defaults and identity columns use.
CREATE FUNCTION citus_standin.sequences_of(relation oid) RETURNS TABLE (oid oid)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT q.oid FROM pg_attrdef AS d
    JOIN pg_depend AS p ON p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass
    JOIN pg_class AS q ON q.oid = p.refobjid AND q.relkind = 'S'
    WHERE d.adrelid = relation
    UNION
    SELECT q.oid FROM pg_depend AS p JOIN pg_class AS q ON q.oid = p.objid AND q.relkind = 'S'
    WHERE p.classid = 'pg_class'::regclass AND p.refclassid = 'pg_class'::regclass AND p.refobjid = relation AND p.deptype = 'i'
$$;

-- Runs on a worker, as the superuser of the coordinator's session.
CREATE FUNCTION citus_standin.apply(truth jsonb, own_group integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET citus_standin.own_work = 'on' AS $$
DECLARE
    t record;
    q record;
    relation regclass;
    qualified text;
    on_coordinator boolean;
    gone_sequences text[];
BEGIN
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = citus_standin.caller()) THEN
        RAISE EXCEPTION 'only a superuser may change the metadata' USING ERRCODE = 'insufficient_privilege';
    END IF;
    UPDATE pg_dist_local_group SET groupid = own_group WHERE groupid <> own_group;
    DELETE FROM pg_dist_node;
    INSERT INTO pg_dist_node SELECT * FROM jsonb_populate_recordset(NULL::pg_dist_node, truth -> 'nodes');
    PERFORM citus_standin.refresh_connections();
    DELETE FROM pg_dist_colocation;
    INSERT INTO pg_dist_colocation
    SELECT c.colocationid, c.shardcount, c.replicationfactor, coalesce(to_regtype(c.type)::oid, 0), coalesce(to_regcollation(c.collated)::oid, 0)
    FROM jsonb_to_recordset(truth -> 'colocations')
         AS c (colocationid integer, shardcount integer, replicationfactor integer, type text, collated text);
    DELETE FROM pg_dist_schema;
    INSERT INTO pg_dist_schema
    SELECT n.oid, s.colocationid FROM jsonb_to_recordset(truth -> 'schemas') AS s (name name, colocationid integer)
    JOIN pg_namespace AS n ON n.nspname = s.name;

    -- Faces whose table is gone or has other columns, or another shape.
    FOR t IN
        SELECT p.logicalrelid::oid AS oid, c.relname, n.nspname, wanted.name IS NOT NULL AND f.columns = wanted.columns
               AND f.shape = citus_standin.face_shape(wanted.partmethod, wanted.repmodel, wanted.shards) AS right
        FROM pg_dist_partition AS p
        LEFT JOIN pg_class AS c ON c.oid = p.logicalrelid
        LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace
        LEFT JOIN citus_standin.face AS f ON f.logicalrelid = p.logicalrelid
        LEFT JOIN jsonb_to_recordset(truth -> 'tables')
                  AS wanted (schema name, name name, columns text, partmethod text, repmodel text, shards jsonb)
               ON wanted.schema = n.nspname AND wanted.name = c.relname
    LOOP
        IF t.right IS NOT TRUE THEN
            -- A sequence outlives a face that is made anew, and goes when the coordinator has it no more.
            gone_sequences := ARRAY(SELECT citus_standin.qualified(s.oid) FROM citus_standin.sequences_of(t.oid) AS s
                                    WHERE NOT coalesce(truth -> 'sequences', '[]') ? citus_standin.qualified(s.oid));
            PERFORM citus_standin.forget(t.oid);
            IF t.relname IS NOT NULL THEN
                EXECUTE format('DROP %s %I.%I CASCADE', CASE (SELECT relkind FROM pg_class WHERE oid = t.oid)
                                                        WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, t.nspname, t.relname);
            END IF;
            IF cardinality(gone_sequences) > 0 THEN
                EXECUTE 'DROP SEQUENCE ' || array_to_string(gone_sequences, ', ');
            END IF;
        END IF;
    END LOOP;

    DELETE FROM pg_dist_placement;
    DELETE FROM pg_dist_shard;
    DELETE FROM pg_dist_partition;
    FOR t IN
        SELECT * FROM jsonb_to_recordset(truth -> 'tables')
            AS t (schema name, name name, owner name, columns text, grants text, sequences jsonb, partmethod "char", "column" name,
                  colocationid integer, repmodel "char", autoconverted boolean, shards jsonb, placements jsonb)
    LOOP
        qualified := format('%I.%I', t.schema, t.name);
        EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I', t.schema);
        FOR q IN SELECT * FROM jsonb_to_recordset(t.sequences) AS q (name text, type text, bits integer) LOOP
            -- Each group draws from a range of its own, as in Citus.
            EXECUTE format('CREATE SEQUENCE IF NOT EXISTS %s AS %s MINVALUE %s MAXVALUE %s', q.name, q.type,
                           (own_group::bigint << q.bits) + 1, least((own_group + 1)::bigint << q.bits, CASE q.type
                               WHEN 'integer' THEN 2147483647 WHEN 'smallint' THEN 32767 ELSE 9223372036854775807 END));
            EXECUTE format('ALTER SEQUENCE %s OWNER TO %I', q.name, t.owner);
        END LOOP;
        relation := to_regclass(qualified);
        IF relation IS NULL THEN
            IF t.partmethod = 'h' THEN
                EXECUTE format('CREATE TABLE %s (%s) PARTITION BY HASH (%I)', qualified, t.columns, t.column);
            ELSE
                -- A reference table is written through the coordinator, which forwards to all copies; local tables are there anyway.
                on_coordinator := (t.repmodel = 't' OR t.colocationid = 0) AND EXISTS (SELECT FROM pg_dist_node WHERE groupid = 0);
                EXECUTE format('CREATE FOREIGN TABLE %s (%s) SERVER %I OPTIONS (schema_name %L, table_name %L)', qualified, t.columns,
                               citus_standin.server_name(CASE WHEN on_coordinator THEN 0 ELSE (t.placements -> 0 ->> 'groupid')::integer END),
                               t.schema, CASE WHEN on_coordinator THEN t.name
                                         ELSE citus_standin.shard_relname(t.name, (t.shards -> 0 ->> 'shardid')::bigint) END);
            END IF;
            relation := qualified::regclass;
            INSERT INTO citus_standin.face VALUES (relation, t.columns,
                citus_standin.face_shape(t.partmethod::text, t.repmodel::text, t.shards));
        END IF;
        EXECUTE format('ALTER TABLE %s OWNER TO %I', qualified, t.owner);
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', qualified) || replace(t.grants, '@table@', qualified);
        INSERT INTO pg_dist_partition
        VALUES (relation, t.partmethod,
                (SELECT citus_standin.partkey(relation, attnum) FROM pg_attribute WHERE attrelid = relation AND attname = t.column),
                t.colocationid, t.repmodel, t.autoconverted);
        INSERT INTO pg_dist_shard
        SELECT relation, s.shardid, s.shardstorage, s.shardminvalue, s.shardmaxvalue
        FROM jsonb_to_recordset(t.shards) AS s (shardid bigint, shardstorage "char", shardminvalue text, shardmaxvalue text);
        INSERT INTO pg_dist_placement SELECT * FROM jsonb_populate_recordset(NULL::pg_dist_placement, t.placements);
        PERFORM citus_standin.ensure_partitions(relation);
        IF t.partmethod = 'n' AND t.repmodel <> 't' AND t.colocationid <> 0 THEN
            PERFORM citus_standin.ensure_single_shard(relation);
        END IF;
    END LOOP;
END $$;

-- What a worker's copy of a table was made from: when that changes, the copy is made anew.
CREATE TABLE citus_standin.face (logicalrelid oid NOT NULL PRIMARY KEY, columns text NOT NULL, shape text NOT NULL);
CREATE FUNCTION citus_standin.face_shape(partmethod text, repmodel text, shards jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT partmethod || repmodel || (SELECT string_agg(s ->> 'shardid', ' ' ORDER BY s ->> 'shardid') FROM jsonb_array_elements(shards) AS s)
$$;

-- Take a table out of the registry, and its colocation group when it was the last one in it.
CREATE FUNCTION citus_standin.forget(relation oid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM pg_dist_placement AS p USING pg_dist_shard AS s WHERE s.shardid = p.shardid AND s.logicalrelid = relation;
    DELETE FROM pg_dist_shard WHERE logicalrelid = relation;
    DELETE FROM pg_dist_partition WHERE logicalrelid = relation;
    DELETE FROM pg_dist_colocation AS k WHERE NOT EXISTS (SELECT FROM pg_dist_partition AS p WHERE p.colocationid = k.colocationid)
                                          AND NOT EXISTS (SELECT FROM pg_dist_schema AS s WHERE s.colocationid = k.colocationid);
    DELETE FROM citus_standin.definition WHERE logicalrelid = relation;
    DELETE FROM citus_standin.face WHERE logicalrelid = relation;
    DELETE FROM citus_standin.shape WHERE logicalrelid = relation;
END $$;

-- The foreign table of a single-shard table follows its shard to another group.
CREATE FUNCTION citus_standin.ensure_single_shard(relation regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- ALTER FOREIGN TABLE cannot change the server; the catalogue can.
    UPDATE pg_foreign_table AS f SET ftserver = s.oid
    FROM pg_foreign_server AS s, pg_dist_shard AS d, pg_dist_placement AS p
    WHERE f.ftrelid = relation AND d.logicalrelid = relation AND p.shardid = d.shardid
      AND s.srvname = citus_standin.server_name(p.groupid) AND f.ftserver <> s.oid;
END $$;

-- Send the truth to every active worker, inside the caller's transaction.
CREATE FUNCTION citus_standin.publish() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    truth jsonb;
    node record;
BEGIN
    IF citus_standin.local_group() <> 0 THEN
        RETURN;
    END IF;
    PERFORM citus_standin.lock_registry();
    UPDATE pg_dist_node SET hasmetadata = true, metadatasynced = true
    WHERE noderole = 'primary' AND isactive AND NOT (hasmetadata AND metadatasynced);
    truth := citus_standin.snapshot();
    FOR node IN SELECT * FROM citus_standin.worker_groups() LOOP
        PERFORM citus_standin.publish_to(node.groupid, truth);
    END LOOP;
END $$;

CREATE FUNCTION citus_standin.publish_to(target_group integer, truth jsonb) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT citus_standin.run_on_group(target_group, format('SELECT citus_standin.apply(%L, %s)', truth, target_group))
$$;

-- What a worker must have before shards can be made on it, committed at once and left there by a rollback:
-- roles, and the schema with the rights to create in it.
CREATE FUNCTION citus_standin.prepare_workers(relation regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    node record;
    commands text;
BEGIN
    PERFORM citus_standin.refresh_connections();
    SELECT citus_standin.role_commands() || format(
               'CREATE SCHEMA IF NOT EXISTS %1$I; GRANT USAGE, CREATE ON SCHEMA %1$I TO %2$I; ',
               n.nspname, pg_get_userbyid(c.relowner))
           || coalesce((SELECT string_agg(format('GRANT USAGE ON SCHEMA %I TO %s; ', n.nspname,
                                    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END), '')
                        FROM aclexplode(n.nspacl) AS a WHERE a.privilege_type = 'USAGE'), '')
    INTO commands
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = relation;
    FOR node IN SELECT * FROM citus_standin.worker_groups() LOOP
        PERFORM citus_standin.dblink_exec(citus_standin.conninfo(node.nodeid, node.nodename, node.nodeport), commands);
    END LOOP;
END $$;

-- Roles of the coordinator, made where they are missing; existing ones are left as they are.
CREATE FUNCTION citus_standin.role_commands() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(string_agg(format('DO %L; ', format(
        'BEGIN IF to_regrole(%L) IS NULL THEN CREATE ROLE %s %s%s; END IF; END',
        oid::regrole::text, oid::regrole,
        concat_ws(' ', CASE WHEN rolcanlogin THEN 'LOGIN' END, CASE WHEN rolsuper THEN 'SUPERUSER' END,
                  CASE WHEN rolcreatedb THEN 'CREATEDB' END, CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
                  CASE WHEN rolreplication THEN 'REPLICATION' END, CASE WHEN rolbypassrls THEN 'BYPASSRLS' END),
        coalesce(' PASSWORD ' || quote_literal(rolpassword), ''))), ''), '')
    FROM pg_authid WHERE rolname !~ '^pg_'
$$;
