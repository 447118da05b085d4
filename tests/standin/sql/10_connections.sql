-- How nodes reach each other: one foreign server per group (its primary), one user mapping per role.
-- Everybody connects as himself; the stand-in never lends a session of a superuser to a caller.
CREATE FUNCTION citus_standin.postgres_fdw_handler() RETURNS fdw_handler
    LANGUAGE c STRICT AS '$libdir/postgres_fdw', 'postgres_fdw_handler';
CREATE FUNCTION citus_standin.postgres_fdw_validator(text[], oid) RETURNS void
    LANGUAGE c STRICT AS '$libdir/postgres_fdw', 'postgres_fdw_validator';
CREATE FOREIGN DATA WRAPPER citus_standin
    HANDLER citus_standin.postgres_fdw_handler VALIDATOR citus_standin.postgres_fdw_validator;

-- dblink runs what must not be part of the caller's transaction. Called by the functions below only.
CREATE FUNCTION citus_standin.dblink_connect(text, text) RETURNS text
    LANGUAGE c STRICT AS '$libdir/dblink', 'dblink_connect';
CREATE FUNCTION citus_standin.dblink_disconnect(text) RETURNS text
    LANGUAGE c STRICT AS '$libdir/dblink', 'dblink_disconnect';
CREATE FUNCTION citus_standin.dblink_send_query(text, text) RETURNS integer
    LANGUAGE c STRICT AS '$libdir/dblink', 'dblink_send_query';
CREATE FUNCTION citus_standin.dblink_exec(text, text) RETURNS text
    LANGUAGE c STRICT AS '$libdir/dblink', 'dblink_exec';
CREATE FUNCTION citus_standin.dblink(text, text) RETURNS SETOF record
    LANGUAGE c STRICT AS '$libdir/dblink', 'dblink_record';

-- The role whose rights count, also inside a SECURITY DEFINER function.
CREATE FUNCTION citus_standin.caller() RETURNS name
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN current_setting('role') = 'none' THEN session_user ELSE current_setting('role')::name END
$$;

CREATE FUNCTION citus_standin.require_owner(relation oid) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_class WHERE oid = relation AND pg_has_role(citus_standin.caller(), relowner, 'USAGE')) THEN
        RAISE EXCEPTION 'must be owner of table %', (SELECT relname FROM pg_class WHERE oid = relation)
            USING ERRCODE = 'insufficient_privilege';
    END IF;
END $$;

CREATE FUNCTION citus_standin.local_group() RETURNS integer
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT groupid FROM pg_dist_local_group
$$;

CREATE FUNCTION citus_standin.require_coordinator() RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF citus_standin.local_group() <> 0 THEN
        RAISE EXCEPTION 'operation is not allowed on this node'
            USING ERRCODE = 'internal_error', HINT = 'Connect to the coordinator and run it again.';
    END IF;
END $$;

-- Changes of the registry come one after the other, here and on the workers that get a copy.
CREATE FUNCTION citus_standin.lock_registry() RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS
    'SELECT pg_advisory_xact_lock(hashtext(''citus_standin.registry''))';

CREATE FUNCTION citus_standin.parse_conninfo(conninfo text) RETURNS TABLE (key text, value text)
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT part[1],
           CASE WHEN part[2] LIKE '''%'
                THEN regexp_replace(substr(part[2], 2, length(part[2]) - 2), '\\(.)', '\1', 'g')
                ELSE part[2] END
    FROM regexp_matches(conninfo, '(\w+)\s*=\s*(''(?:[^''\\]|\\.)*''|[^\s'']*)', 'g') AS part
$$;

CREATE FUNCTION citus_standin.quote_conninfo(value text) RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT '''' || replace(replace(value, '\', '\\'), '''', '\''') || ''''
$$;

-- From the configuration files, not from the session: citus.node_conninfo is no known setting here, so
-- that any role could SET it and send superuser sessions to a host of his own.
CREATE FUNCTION citus_standin.node_conninfo() RETURNS TABLE (key text, value text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT parsed.* FROM citus_standin.parse_conninfo(coalesce(
        (SELECT setting FROM pg_file_settings WHERE name = 'citus.node_conninfo' ORDER BY seqno DESC LIMIT 1),
        'sslmode=prefer')) AS parsed
    WHERE parsed.key NOT IN ('host', 'hostaddr', 'port', 'dbname', 'user', 'password')
$$;

-- The most specific row of pg_dist_authinfo wins; nodeid 0 stands for every node.
CREATE FUNCTION citus_standin.authinfo(node integer, role name) RETURNS TABLE (key text, value text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT parsed.*
    FROM (SELECT authinfo FROM pg_dist_authinfo
          WHERE rolename = role AND nodeid IN (0, node) ORDER BY nodeid DESC LIMIT 1) AS found,
         citus_standin.parse_conninfo(found.authinfo) AS parsed
$$;

-- A libpq connection string to another node, by default for the superuser that owns the extension.
CREATE FUNCTION citus_standin.conninfo(node integer, host text, port integer, role name DEFAULT NULL) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(key || '=' || citus_standin.quote_conninfo(value), ' ')
    FROM (SELECT DISTINCT ON (key) key, value
          FROM (SELECT 1 AS rank, * FROM (VALUES ('host', host), ('port', port::text),
                                                 ('dbname', current_database()::text), ('user', coalesce(role, current_user)::text)) AS fixed (key, value)
                UNION ALL SELECT 2, * FROM citus_standin.authinfo(node, coalesce(role, current_user))
                UNION ALL SELECT 3, * FROM citus_standin.node_conninfo()
                UNION ALL SELECT 4, 'connect_timeout', '5'
                UNION ALL SELECT 4, 'application_name', 'citus_standin') AS known
          ORDER BY key, rank) AS chosen
$$;

-- A libpq connection string to this server itself, over its Unix socket.
CREATE FUNCTION citus_standin.local_conninfo() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('host=%s port=%s dbname=%s user=%s application_name=citus_standin',
                  citus_standin.quote_conninfo(trim(split_part(current_setting('unix_socket_directories'), ',', 1))),
                  current_setting('port'),
                  citus_standin.quote_conninfo(current_database()), citus_standin.quote_conninfo(current_user))
$$;

-- Fails as Citus does when a node cannot be reached.
CREATE FUNCTION citus_standin.check_connection(node integer, host text, port integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reason text;
BEGIN
    PERFORM FROM citus_standin.dblink(citus_standin.conninfo(node, host, port), 'SELECT 1') AS answer (one integer);
EXCEPTION WHEN sqlclient_unable_to_establish_sqlconnection OR connection_exception THEN
    GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL;
    RAISE EXCEPTION 'connection to the remote node %@%:% failed with the following error: %', current_user, host, port, reason
        USING ERRCODE = 'connection_failure';
END $$;

CREATE FUNCTION citus_standin.server_name(groupid integer) RETURNS name
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ('citus_group_' || groupid)::name
$$;

-- Options that differ are set, new ones added, gone ones dropped; nothing when all is as wanted,
-- because a changed server or mapping closes every session to it.
CREATE FUNCTION citus_standin.options_change(current_options text[], wanted jsonb) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(CASE WHEN w.key IS NULL THEN format('DROP %I', c.option_name)
                           WHEN c.option_name IS NULL THEN format('ADD %I %L', w.key, w.value)
                           ELSE format('SET %I %L', w.key, w.value) END, ', ')
    FROM pg_options_to_table(current_options) AS c
    FULL JOIN jsonb_each_text(wanted) AS w ON w.key = c.option_name
    WHERE w.value IS DISTINCT FROM c.option_value
$$;

-- A channel to each group: a command inserted into it runs on the group's primary, as the inserting
-- role and inside the distributed transaction.
CREATE TABLE citus_standin.command (command text NOT NULL);
GRANT INSERT ON citus_standin.command TO PUBLIC;
CREATE FUNCTION citus_standin.run_command() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE NEW.command;
    RETURN NULL;
END $$;
CREATE TRIGGER run_command BEFORE INSERT ON citus_standin.command
    FOR EACH ROW EXECUTE FUNCTION citus_standin.run_command();

-- Servers, mappings and channels as pg_dist_node, pg_dist_authinfo and pg_roles want them.
CREATE FUNCTION citus_standin.refresh_connections() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET citus_standin.own_work = 'on' AS $$
DECLARE
    node record;
    mapping record;
    server name;
    wanted jsonb;
    change text;
BEGIN
    PERFORM citus_standin.lock_registry();
    FOR node IN SELECT nodeid, groupid, nodename, nodeport FROM pg_dist_node WHERE noderole = 'primary' ORDER BY groupid LOOP
        server := citus_standin.server_name(node.groupid);
        SELECT jsonb_object_agg(key, value) INTO wanted FROM (
            SELECT DISTINCT ON (key) key, value FROM (
                SELECT 1 AS rank, * FROM (VALUES ('host', node.nodename), ('port', node.nodeport::text),
                                                 ('dbname', current_database()::text)) AS fixed (key, value)
                UNION ALL SELECT 2, * FROM citus_standin.node_conninfo()
                UNION ALL SELECT 3, * FROM (VALUES
                    ('connect_timeout', '5'), ('application_name', 'citus_standin'), ('options', '-c lock_timeout=60s'),
                    ('batch_size', '100'), ('fetch_size', '1000')) AS defaults) AS known
            ORDER BY key, rank) AS chosen;
        IF NOT EXISTS (SELECT FROM pg_foreign_server WHERE srvname = server) THEN
            EXECUTE format('CREATE SERVER %I FOREIGN DATA WRAPPER citus_standin', server);
            EXECUTE format('GRANT USAGE ON FOREIGN SERVER %I TO PUBLIC', server);
            EXECUTE format('CREATE FOREIGN TABLE citus_standin.%I (command text) SERVER %I'
                           ' OPTIONS (schema_name ''citus_standin'', table_name ''command'', batch_size ''1'')',
                           'command_' || node.groupid, server);
            EXECUTE format('GRANT INSERT ON citus_standin.%I TO PUBLIC', 'command_' || node.groupid);
        END IF;
        SELECT citus_standin.options_change(srvoptions, wanted) INTO change FROM pg_foreign_server WHERE srvname = server;
        IF change IS NOT NULL THEN
            EXECUTE format('ALTER SERVER %I OPTIONS (%s)', server, change);
        END IF;

        FOR mapping IN
            SELECT r.rolname, m.umid, citus_standin.options_change(m.umoptions, o.wanted) AS change, o.wanted
            FROM pg_roles AS r
            LEFT JOIN pg_user_mappings AS m ON m.umuser = r.oid AND m.srvname = server
            CROSS JOIN LATERAL (
                SELECT jsonb_build_object('user', r.rolname, 'password_required', 'false')
                       || coalesce(jsonb_object_agg(a.key, a.value), '{}') AS wanted
                FROM citus_standin.authinfo(node.nodeid, r.rolname) AS a
                WHERE a.key IN ('password', 'sslcert', 'sslkey')) AS o
            WHERE r.rolcanlogin
        LOOP
            IF mapping.umid IS NULL THEN
                EXECUTE format('CREATE USER MAPPING FOR %I SERVER %I OPTIONS (%s)', mapping.rolname, server,
                               (SELECT string_agg(format('%I %L', key, value), ', ') FROM jsonb_each_text(mapping.wanted)));
            ELSIF mapping.change IS NOT NULL THEN
                EXECUTE format('ALTER USER MAPPING FOR %I SERVER %I OPTIONS (%s)', mapping.rolname, server, mapping.change);
            END IF;
        END LOOP;
    END LOOP;
END $$;

CREATE FUNCTION citus_standin.authinfo_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM citus_standin.refresh_connections();
    RETURN NULL;
END $$;
CREATE TRIGGER authinfo_changed AFTER INSERT OR UPDATE OR DELETE ON pg_catalog.pg_dist_authinfo
    FOR EACH STATEMENT EXECUTE FUNCTION citus_standin.authinfo_changed();

-- Run a command on a group's primary as the given role (a role the caller may take).
CREATE FUNCTION citus_standin.run_on_group(groupid integer, command text, as_role name DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF as_role IS NOT NULL THEN
        command := format('SET LOCAL ROLE %I; %s; RESET ROLE', as_role, command);
    END IF;
    EXECUTE format('INSERT INTO citus_standin.%I VALUES ($1)', 'command_' || groupid) USING command;
END $$;

-- Groups whose primary takes part in metadata: active workers.
CREATE FUNCTION citus_standin.worker_groups() RETURNS TABLE (nodeid integer, groupid integer, nodename text, nodeport integer)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT nodeid, groupid, nodename, nodeport FROM pg_dist_node
    WHERE noderole = 'primary' AND isactive AND groupid <> 0 ORDER BY nodename, nodeport
$$;
