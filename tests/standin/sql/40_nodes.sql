-- The registry of nodes. Everything here is for superusers, as in Citus: EXECUTE is revoked at the end.

CREATE FUNCTION citus_standin.find_node(name text, port integer) RETURNS pg_dist_node
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    node pg_dist_node;
BEGIN
    SELECT * INTO node FROM pg_dist_node WHERE nodename = name AND nodeport = port;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'node at "%:%" does not exist', name, port USING ERRCODE = 'internal_error';
    END IF;
    RETURN node;
END $$;

-- A cluster of one node registers itself, as in Citus.
CREATE FUNCTION citus_standin.register_coordinator_if_empty() RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO pg_dist_node (groupid, nodename, nodeport, hasmetadata, metadatasynced, shouldhaveshards)
    SELECT 0, 'localhost', current_setting('port')::integer, true, true, true
    WHERE NOT EXISTS (SELECT FROM pg_dist_node) AND citus_standin.local_group() = 0;
    SELECT citus_standin.refresh_connections();
$$;

CREATE FUNCTION citus_standin.add_node(name text, port integer, wanted_group integer, role noderole, cluster name, activate boolean)
    RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_id integer;
    has_metadata boolean := activate AND (role = 'primary' OR wanted_group = 0);  -- of standbys only the coordinator's
BEGIN
    PERFORM citus_standin.require_coordinator();
    PERFORM citus_standin.lock_registry();
    SELECT nodeid INTO new_id FROM pg_dist_node WHERE nodename = name AND nodeport = port;
    IF FOUND THEN
        IF activate AND role = 'primary' AND NOT (SELECT isactive FROM pg_dist_node WHERE nodeid = new_id) THEN
            PERFORM citus_standin.activate(new_id);
        END IF;
        RETURN new_id;
    END IF;
    IF wanted_group <> 0 AND name <> 'localhost'
       AND EXISTS (SELECT FROM pg_dist_node WHERE groupid = 0 AND noderole = 'primary' AND nodename = 'localhost') THEN
        RAISE EXCEPTION 'cannot add a worker node when the coordinator hostname is set to localhost'
            USING ERRCODE = 'internal_error',
                  DETAIL = 'Worker nodes need to be able to connect to the coordinator to transfer data.',
                  HINT = 'Use SELECT citus_set_coordinator_host(''<hostname>'') to configure the coordinator hostname';
    END IF;
    IF wanted_group = -1 THEN
        wanted_group := nextval('pg_dist_groupid_seq');  -- which knows nothing of groups that were given by number, as in Citus
    END IF;
    IF role = 'primary' AND EXISTS (SELECT FROM pg_dist_node WHERE groupid = wanted_group AND noderole = 'primary') THEN
        RAISE EXCEPTION 'group % already has a primary node', wanted_group USING ERRCODE = 'internal_error';
    END IF;
    IF role = 'primary' AND wanted_group <> 0 THEN
        PERFORM citus_standin.check_connection(0, name, port);
    END IF;
    INSERT INTO pg_dist_node (groupid, nodename, nodeport, isactive, noderole, nodecluster, hasmetadata, metadatasynced, shouldhaveshards)
    VALUES (wanted_group, name, port, activate, role, cluster, has_metadata, has_metadata, wanted_group <> 0)
    RETURNING nodeid INTO new_id;
    IF role = 'primary' AND activate THEN
        PERFORM citus_standin.activate(new_id);
    ELSE
        PERFORM citus_standin.publish();
    END IF;
    RETURN new_id;
END $$;

-- Roles first (in a transaction of their own: other sessions need them), then the registry.
CREATE FUNCTION citus_standin.activate(node integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_node pg_dist_node;
    extension_missing boolean;
BEGIN
    PERFORM citus_standin.lock_registry();
    SELECT * INTO found_node FROM pg_dist_node WHERE nodeid = node;
    UPDATE pg_dist_node SET isactive = true, hasmetadata = true, metadatasynced = true WHERE nodeid = node;
    IF found_node.groupid <> 0 THEN
        PERFORM citus_standin.check_connection(node, found_node.nodename, found_node.nodeport);
        SELECT missing INTO extension_missing
        FROM citus_standin.dblink(citus_standin.conninfo(node, found_node.nodename, found_node.nodeport),
                                  'SELECT to_regclass(''citus_standin.command'') IS NULL') AS answer (missing boolean);
        IF extension_missing THEN
            RAISE EXCEPTION 'the extension citus (stand-in) is missing on node %:%', found_node.nodename, found_node.nodeport
                USING HINT = 'Run CREATE EXTENSION citus there, in database ' || current_database() || '.';
        END IF;
        PERFORM citus_standin.dblink_exec(citus_standin.conninfo(node, found_node.nodename, found_node.nodeport),
                                          citus_standin.role_commands());
    END IF;
    PERFORM citus_standin.refresh_connections();
    PERFORM citus_standin.publish();
END $$;

CREATE FUNCTION pg_catalog.citus_add_node(nodename text, nodeport integer, groupid integer DEFAULT -1,
        noderole noderole DEFAULT 'primary', nodecluster name DEFAULT 'default') RETURNS integer
    LANGUAGE sql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT citus_standin.add_node($1, $2, $3, $4, $5, true)';
CREATE FUNCTION pg_catalog.master_add_node(nodename text, nodeport integer, groupid integer DEFAULT -1,
        noderole noderole DEFAULT 'primary', nodecluster name DEFAULT 'default') RETURNS integer
    LANGUAGE sql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT citus_standin.add_node($1, $2, $3, $4, $5, true)';
CREATE FUNCTION pg_catalog.citus_add_inactive_node(nodename text, nodeport integer, groupid integer DEFAULT -1,
        noderole noderole DEFAULT 'primary', nodecluster name DEFAULT 'default') RETURNS integer
    LANGUAGE sql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT citus_standin.add_node($1, $2, $3, $4, $5, false)';
CREATE FUNCTION pg_catalog.citus_add_secondary_node(nodename text, nodeport integer, primaryname text, primaryport integer,
        nodecluster name DEFAULT 'default') RETURNS integer
    LANGUAGE sql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
    'SELECT citus_standin.add_node($1, $2, (citus_standin.find_node($3, $4)).groupid, ''secondary'', $5, true)';

CREATE FUNCTION pg_catalog.citus_activate_node(nodename text, nodeport integer) RETURNS integer
    LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    node pg_dist_node := citus_standin.find_node(nodename, nodeport);
BEGIN
    PERFORM citus_standin.require_coordinator();
    PERFORM citus_standin.activate(node.nodeid);
    RETURN node.nodeid;
END $$;

CREATE FUNCTION pg_catalog.citus_set_coordinator_host(host text, port integer DEFAULT current_setting('port')::integer,
        node_role noderole DEFAULT 'primary', node_cluster name DEFAULT 'default') RETURNS void
    LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM citus_standin.require_coordinator();
    PERFORM citus_standin.lock_registry();
    UPDATE pg_dist_node SET nodename = host, nodeport = port
    WHERE groupid = 0 AND noderole = node_role AND (nodename, nodeport) IS DISTINCT FROM (host, port);
    IF NOT EXISTS (SELECT FROM pg_dist_node WHERE groupid = 0 AND noderole = node_role) THEN
        INSERT INTO pg_dist_node (groupid, nodename, nodeport, noderole, nodecluster, hasmetadata, metadatasynced, shouldhaveshards)
        VALUES (0, host, port, node_role, node_cluster, true, true, false);
    END IF;
    PERFORM citus_standin.refresh_connections();
    PERFORM citus_standin.publish();
END $$;

-- Hold back every query that goes to the group until this transaction ends: how Patroni pauses a worker.
-- LOCK TABLE does not take foreign tables; changing an option to what it is takes the same lock.
CREATE FUNCTION citus_standin.pause_group(paused_group integer, force boolean, cooldown integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET citus_standin.own_work = 'on' AS $$
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT f.ftrelid::regclass AS relation, f.ftrelid AS oid, o.option_value AS table_name
        FROM pg_foreign_table AS f
        JOIN pg_foreign_server AS s ON s.oid = f.ftserver AND s.srvname = citus_standin.server_name(paused_group)
        JOIN LATERAL pg_options_to_table(f.ftoptions) AS o ON o.option_name = 'table_name'
        WHERE f.ftrelid::regclass::text NOT LIKE 'citus_standin.command_%'
        ORDER BY f.ftrelid
    LOOP
        LOOP
            BEGIN
                PERFORM set_config('lock_timeout', CASE WHEN force THEN cooldown ELSE 0 END || 'ms', true);
                EXECUTE format('ALTER FOREIGN TABLE %s OPTIONS (SET table_name %L)', part.relation, part.table_name);
                EXIT;
            EXCEPTION WHEN lock_not_available THEN
                PERFORM pg_terminate_backend(pid, 1000) FROM pg_locks
                WHERE locktype = 'relation' AND relation = part.oid AND granted AND pid <> pg_backend_pid()
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
                cooldown := 1000;  -- the patience is used up
            END;
        END LOOP;
    END LOOP;
    PERFORM set_config('lock_timeout', '0', true);
END $$;

CREATE FUNCTION pg_catalog.citus_update_node(node_id integer, new_node_name text, new_node_port integer,
        force boolean DEFAULT false, lock_cooldown integer DEFAULT 10000) RETURNS void
    LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    node pg_dist_node;
BEGIN
    PERFORM citus_standin.lock_registry();
    SELECT * INTO node FROM pg_dist_node WHERE nodeid = node_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'node % not found', node_id USING ERRCODE = 'no_data_found';
    END IF;
    IF node.nodename = new_node_name AND node.nodeport = new_node_port THEN
        RETURN;
    END IF;
    PERFORM citus_standin.require_coordinator();
    IF EXISTS (SELECT FROM pg_dist_node WHERE nodename = new_node_name AND nodeport = new_node_port) THEN
        RAISE EXCEPTION 'there is already another node with the specified hostname and port'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF node.noderole = 'primary' THEN
        PERFORM citus_standin.pause_group(node.groupid, force, lock_cooldown);
    END IF;
    -- The node may be down or not yet promoted: the workers hear of it after the commit.
    UPDATE pg_dist_node SET nodename = new_node_name, nodeport = new_node_port WHERE nodeid = node_id;
    UPDATE pg_dist_node SET metadatasynced = false WHERE noderole = 'primary' AND groupid <> 0 AND hasmetadata AND metadatasynced;
    PERFORM citus_standin.refresh_connections();
    PERFORM citus_standin.start_in_background('CALL citus_standin.sync_in_background()');
END $$;
CREATE FUNCTION pg_catalog.master_update_node(node_id integer, new_node_name text, new_node_port integer,
        force boolean DEFAULT false, lock_cooldown integer DEFAULT 10000) RETURNS void
    LANGUAGE sql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT citus_update_node($1, $2, $3, $4, $5)';

-- A second session of this server runs the command after this transaction; nobody waits for it. It outlives
-- the connection that started it because it sends nothing until it is done. A server that stops takes it
-- along: what it leaves is picked up by the next change of the registry.
CREATE FUNCTION citus_standin.start_in_background(command text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext('citus_standin.background'));
    PERFORM citus_standin.dblink_connect('citus_standin_background', citus_standin.local_conninfo());
    PERFORM citus_standin.dblink_send_query('citus_standin_background', command);
    PERFORM citus_standin.dblink_disconnect('citus_standin_background');
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'could not start "%" in the background: %', command, SQLERRM
        USING HINT = 'SELECT start_metadata_sync_to_all_nodes() brings the workers up to date.';
END $$;

-- Returns when the transaction that started this session's command has ended.
CREATE FUNCTION citus_standin.wait_for_starter() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('client_min_messages', 'error', false);
    PERFORM pg_advisory_lock(hashtext('citus_standin.background'));
    PERFORM pg_advisory_unlock(hashtext('citus_standin.background'));
END $$;

CREATE FUNCTION citus_standin.try_sync(node integer) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM citus_standin.lock_registry();
    UPDATE pg_dist_node SET metadatasynced = true WHERE nodeid = node;
    PERFORM citus_standin.publish_to(groupid, citus_standin.snapshot()) FROM pg_dist_node WHERE nodeid = node;
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    RETURN false;
END $$;

CREATE PROCEDURE citus_standin.sync_in_background()
    LANGUAGE plpgsql AS $$
DECLARE
    node integer;
    attempt integer;
    all_done boolean;
BEGIN
    PERFORM citus_standin.wait_for_starter();
    COMMIT;
    FOR attempt IN 1 .. 60 LOOP
        all_done := true;
        FOR node IN SELECT nodeid FROM pg_catalog.pg_dist_node
                    WHERE noderole = 'primary' AND isactive AND groupid <> 0 AND NOT metadatasynced LOOP
            all_done := citus_standin.try_sync(node) AND all_done;
            COMMIT;
        END LOOP;
        EXIT WHEN all_done;
        PERFORM pg_catalog.pg_sleep(1);
    END LOOP;
END $$;

CREATE FUNCTION citus_standin.refuse_if_only_placement(node pg_dist_node) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last record;
BEGIN
    SELECT p.shardid, format('%I.%I', n.nspname, c.relname) AS relation INTO last
    FROM pg_dist_placement AS p JOIN pg_dist_shard AS s USING (shardid)
    JOIN pg_class AS c ON c.oid = s.logicalrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE p.groupid = node.groupid
      AND NOT EXISTS (SELECT FROM pg_dist_placement AS other WHERE other.shardid = p.shardid AND other.groupid <> p.groupid)
    ORDER BY p.shardid LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'cannot remove or disable the node %:% because because it contains the only shard placement for shard %',
            node.nodename, node.nodeport, last.shardid
            USING ERRCODE = 'internal_error',
                  DETAIL = 'One of the table(s) that prevents the operation complete successfully is ' || last.relation,
                  HINT = 'To proceed, either drop the tables or use undistribute_table() function to convert them to local tables';
    END IF;
END $$;

-- Take a group's copies of reference tables out of the registry.
CREATE FUNCTION citus_standin.drop_reference_copies(gone_group integer) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    copy bigint;
BEGIN
    FOR copy IN DELETE FROM pg_dist_placement WHERE groupid = gone_group RETURNING shardid LOOP
        EXECUTE format('DROP FOREIGN TABLE IF EXISTS citus_standin.%I', citus_standin.reference_copy(copy, gone_group));
    END LOOP;
END $$;

CREATE FUNCTION pg_catalog.citus_remove_node(nodename text, nodeport integer) RETURNS void
    LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET client_min_messages = 'warning' AS $$
DECLARE
    node pg_dist_node := citus_standin.find_node(nodename, nodeport);
BEGIN
    PERFORM citus_standin.require_coordinator();
    PERFORM citus_standin.lock_registry();
    IF node.noderole = 'primary' THEN
        PERFORM citus_standin.refuse_if_only_placement(node);
        PERFORM citus_standin.drop_reference_copies(node.groupid);
        EXECUTE format('DROP SERVER %I CASCADE', citus_standin.server_name(node.groupid));
    END IF;
    DELETE FROM pg_dist_node AS n WHERE n.nodeid = node.nodeid;
    PERFORM citus_standin.publish();
END $$;

CREATE FUNCTION pg_catalog.citus_disable_node(nodename text, nodeport integer, synchronous boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    node pg_dist_node := citus_standin.find_node(nodename, nodeport);
BEGIN
    PERFORM citus_standin.require_coordinator();
    PERFORM citus_standin.lock_registry();
    IF node.noderole = 'primary' THEN
        PERFORM citus_standin.refuse_if_only_placement(node);
        PERFORM citus_standin.drop_reference_copies(node.groupid);
    END IF;
    UPDATE pg_dist_node AS n SET isactive = false, hasmetadata = false, metadatasynced = false WHERE n.nodeid = node.nodeid;
    PERFORM citus_standin.publish();
END $$;

CREATE FUNCTION pg_catalog.citus_set_node_property(nodename text, nodeport integer, property text, value boolean) RETURNS void
    LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    node pg_dist_node := citus_standin.find_node(nodename, nodeport);
BEGIN
    PERFORM citus_standin.require_coordinator();
    PERFORM citus_standin.lock_registry();
    IF property <> 'shouldhaveshards' THEN
        RAISE EXCEPTION 'only the ''shouldhaveshards'' property can be set using this function' USING ERRCODE = 'internal_error';
    END IF;
    UPDATE pg_dist_node AS n SET shouldhaveshards = value WHERE n.nodeid = node.nodeid;
    PERFORM citus_standin.publish();
END $$;

CREATE FUNCTION pg_catalog.start_metadata_sync_to_node(nodename text, nodeport integer) RETURNS void
    LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM citus_standin.require_coordinator();
    PERFORM citus_standin.find_node(nodename, nodeport);
    PERFORM citus_standin.refresh_connections();
    PERFORM citus_standin.publish();
END $$;
CREATE FUNCTION pg_catalog.start_metadata_sync_to_all_nodes() RETURNS boolean
    LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM citus_standin.require_coordinator();
    PERFORM citus_standin.refresh_connections();
    PERFORM citus_standin.publish();
    RETURN true;
END $$;
CREATE FUNCTION pg_catalog.stop_metadata_sync_to_node(nodename text, nodeport integer, clear_metadata boolean DEFAULT true) RETURNS void
    LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    node pg_dist_node := citus_standin.find_node(nodename, nodeport);
BEGIN
    PERFORM citus_standin.require_coordinator();
    PERFORM citus_standin.lock_registry();
    UPDATE pg_dist_node AS n SET hasmetadata = false, metadatasynced = false WHERE n.nodeid = node.nodeid;
END $$;

CREATE FUNCTION pg_catalog.citus_is_coordinator() RETURNS boolean
    LANGUAGE sql STABLE STRICT AS
    'SELECT citus_standin.local_group() = 0 AND EXISTS (SELECT FROM pg_catalog.pg_dist_node)';
CREATE FUNCTION pg_catalog.citus_is_primary_node() RETURNS boolean
    LANGUAGE sql STABLE STRICT AS 'SELECT NOT pg_catalog.pg_is_in_recovery()';
CREATE FUNCTION pg_catalog.citus_coordinator_nodeid() RETURNS integer
    LANGUAGE sql STABLE STRICT AS
    'SELECT nodeid FROM pg_catalog.pg_dist_node WHERE groupid = 0 AND noderole = ''primary''';
CREATE FUNCTION pg_catalog.citus_nodename_for_nodeid(nodeid integer) RETURNS text
    LANGUAGE sql STABLE STRICT AS 'SELECT n.nodename FROM pg_catalog.pg_dist_node AS n WHERE n.nodeid = $1';
CREATE FUNCTION pg_catalog.citus_nodeport_for_nodeid(nodeid integer) RETURNS integer
    LANGUAGE sql STABLE STRICT AS 'SELECT n.nodeport FROM pg_catalog.pg_dist_node AS n WHERE n.nodeid = $1';
CREATE FUNCTION pg_catalog.citus_get_active_worker_nodes(OUT node_name text, OUT node_port bigint) RETURNS SETOF record
    LANGUAGE sql STABLE STRICT AS 'SELECT nodename, nodeport FROM citus_standin.worker_groups()';
CREATE FUNCTION pg_catalog.master_get_active_worker_nodes(OUT node_name text, OUT node_port bigint) RETURNS SETOF record
    LANGUAGE sql STABLE STRICT AS 'SELECT nodename, nodeport FROM citus_standin.worker_groups()';

CREATE FUNCTION pg_catalog.citus_check_connection_to_node(nodename text, nodeport integer DEFAULT 5432) RETURNS boolean
    LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM citus_standin.check_connection(0, nodename, nodeport);
    RETURN true;
EXCEPTION WHEN connection_failure THEN
    RAISE WARNING '%', SQLERRM USING ERRCODE = 'connection_failure';
    RETURN false;
END $$;

CREATE FUNCTION pg_catalog.citus_check_cluster_node_health(OUT from_nodename text, OUT from_nodeport integer,
        OUT to_nodename text, OUT to_nodeport integer, OUT result boolean) RETURNS SETOF record
    LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source record;
    target record;
BEGIN
    FOR source IN SELECT * FROM pg_dist_node WHERE noderole = 'primary' AND isactive ORDER BY groupid LOOP
        FOR target IN SELECT * FROM pg_dist_node WHERE noderole = 'primary' AND isactive ORDER BY groupid LOOP
            from_nodename := source.nodename; from_nodeport := source.nodeport;
            to_nodename := target.nodename; to_nodeport := target.nodeport;
            BEGIN
                SELECT answer.ok INTO result
                FROM citus_standin.dblink(citus_standin.conninfo(source.nodeid, source.nodename, source.nodeport),
                    format('SELECT citus_check_connection_to_node(%L, %s)', target.nodename, target.nodeport)) AS answer (ok boolean);
            EXCEPTION WHEN OTHERS THEN
                result := NULL;  -- the source itself does not answer
            END;
            RETURN NEXT;
        END LOOP;
    END LOOP;
END $$;
