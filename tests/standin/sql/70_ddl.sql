-- What PostgreSQL does not carry to the shards by itself.

-- DROP TABLE: the shards go with it.
CREATE FUNCTION citus_standin.on_drop() RETURNS event_trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone record;
    target record;
    any_gone boolean := false;
BEGIN
    IF current_setting('citus_standin.own_work', true) = 'on' OR citus_standin.local_group() <> 0 THEN
        RETURN;
    END IF;
    FOR gone IN
        SELECT d.objid, d.schema_name, d.object_name FROM pg_event_trigger_dropped_objects() AS d
        WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0
          AND EXISTS (SELECT FROM pg_dist_partition AS p WHERE p.logicalrelid = d.objid)
    LOOP
        any_gone := true;
        FOR target IN
            SELECT p.groupid, string_agg(format('%I.%I', gone.schema_name, citus_standin.shard_relname(gone.object_name, s.shardid)), ', ') AS shards
            FROM pg_dist_shard AS s JOIN pg_dist_placement AS p USING (shardid)
            WHERE s.logicalrelid = gone.objid GROUP BY p.groupid
        LOOP
            PERFORM citus_standin.run_on_group(target.groupid, format('DROP TABLE IF EXISTS %s CASCADE', target.shards));
        END LOOP;
        PERFORM citus_standin.forget_dropped(gone.objid);
    END LOOP;
    IF any_gone THEN
        PERFORM citus_standin.publish();
    END IF;
END $$;
CREATE EVENT TRIGGER citus_standin_drop ON sql_drop EXECUTE FUNCTION citus_standin.on_drop();

-- Anyone may ask to forget a table that does not exist any more.
CREATE FUNCTION citus_standin.forget_dropped(relation oid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE oid = relation) THEN
        RAISE EXCEPTION 'table % still exists', relation::regclass;
    END IF;
    PERFORM citus_standin.drop_reference_foreign_tables(relation);
    PERFORM citus_standin.forget(relation);
END $$;

-- GRANT: repeated on the shards; it is also the moment when a new role may need a user mapping.
CREATE FUNCTION citus_standin.on_grant() RETURNS event_trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target record;
BEGIN
    IF current_setting('citus_standin.own_work', true) = 'on' OR citus_standin.local_group() <> 0
       OR NOT EXISTS (SELECT FROM pg_dist_node) OR pg_trigger_depth() > 0 THEN
        RETURN;
    END IF;
    PERFORM citus_standin.carry_roles();
    FOR target IN
        SELECT s.logicalrelid, p.groupid, string_agg(
                   'REVOKE ALL ON ' || shard_name(s.logicalrelid, s.shardid, false) || ' FROM PUBLIC'
                   || citus_standin.grant_commands(s.logicalrelid, shard_name(s.logicalrelid, s.shardid, false)), '; ') AS commands
        FROM pg_dist_shard AS s JOIN pg_dist_placement AS p USING (shardid) JOIN pg_class AS c ON c.oid = s.logicalrelid
        WHERE pg_has_role(c.relowner, 'USAGE') AND c.relacl IS NOT NULL AND (p.groupid <> 0 OR c.relkind <> 'r')
        GROUP BY s.logicalrelid, p.groupid
    LOOP
        PERFORM citus_standin.run_on_group(target.groupid, target.commands, citus_standin.owner_of(target.logicalrelid));
    END LOOP;
END $$;
CREATE EVENT TRIGGER citus_standin_grant ON ddl_command_end WHEN TAG IN ('GRANT') EXECUTE FUNCTION citus_standin.on_grant();

CREATE FUNCTION citus_standin.carry_roles() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    node record;
BEGIN
    PERFORM citus_standin.refresh_connections();
    FOR node IN SELECT * FROM citus_standin.worker_groups() LOOP
        PERFORM citus_standin.dblink_exec(citus_standin.conninfo(node.nodeid, node.nodename, node.nodeport),
                                          citus_standin.role_commands());
    END LOOP;
END $$;
