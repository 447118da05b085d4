-- What PostgreSQL does not carry to the shards by itself. Event triggers see that a table changed, not how:
-- so its shape is remembered, compared, and the difference repeated on the shards.
CREATE TABLE citus_standin.shape (
    logicalrelid oid NOT NULL PRIMARY KEY,
    schema name NOT NULL,
    name name NOT NULL,
    owner name NOT NULL,
    columns jsonb NOT NULL
);
GRANT SELECT ON citus_standin.shape TO PUBLIC;

CREATE FUNCTION citus_standin.shape_of(relation regclass) RETURNS citus_standin.shape
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ROW(c.oid, n.nspname, c.relname, pg_get_userbyid(c.relowner), (
        SELECT jsonb_object_agg(a.attnum, jsonb_build_object(
                   'name', quote_ident(a.attname), 'null', NOT a.attnotnull, 'type', format_type(a.atttypid, a.atttypmod),
                   'collate', CASE WHEN a.attcollation <> t.typcollation THEN ' COLLATE ' || a.attcollation::regcollation ELSE '' END))
        FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))::citus_standin.shape
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = relation
$$;
CREATE FUNCTION citus_standin.remember_shape(relation regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM citus_standin.require_owner(relation);
    DELETE FROM citus_standin.shape WHERE logicalrelid = relation;
    INSERT INTO citus_standin.shape SELECT s.* FROM citus_standin.shape_of(relation) AS s;
END $$;

-- Commands that bring a shard from the old shape to the new one; @shard@ stands for its (new) name.
CREATE FUNCTION citus_standin.column_changes(relation regclass, was citus_standin.shape, now citus_standin.shape) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(change, '; ' ORDER BY rank, number)
    FROM (SELECT coalesce(o.key, n.key)::smallint AS number, o.value AS old, n.value AS new
          FROM jsonb_each(was.columns) AS o FULL JOIN jsonb_each(now.columns) AS n ON n.key = o.key) AS c,
    LATERAL (
        SELECT 1, format('ALTER TABLE @shard@ DROP COLUMN %s', c.old ->> 'name') WHERE c.new IS NULL
        UNION ALL
        SELECT 2, format('ALTER TABLE @shard@ RENAME COLUMN %s TO %s', c.old ->> 'name', c.new ->> 'name')
        WHERE c.old ->> 'name' <> c.new ->> 'name'
        UNION ALL
        SELECT 3, format('ALTER TABLE @shard@ ALTER COLUMN %1$s TYPE %2$s%3$s USING %1$s::%2$s', c.new ->> 'name', c.new ->> 'type', c.new ->> 'collate')
        WHERE (c.old ->> 'type', c.old ->> 'collate') <> (c.new ->> 'type', c.new ->> 'collate')
        UNION ALL
        -- The default fills the rows that are there; for new ones the node that takes them does.
        SELECT 4, format('ALTER TABLE @shard@ ADD COLUMN %s %s%s', c.new ->> 'name', c.new ->> 'type', c.new ->> 'collate')
                  || CASE WHEN a.attgenerated = 's' THEN format(' GENERATED ALWAYS AS (%s) STORED', pg_get_expr(d.adbin, d.adrelid))
                          WHEN d.adbin IS NOT NULL THEN format(' DEFAULT %s; ALTER TABLE @shard@ ALTER COLUMN %s DROP DEFAULT',
                                                               pg_get_expr(d.adbin, d.adrelid), c.new ->> 'name') ELSE '' END
        FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE c.old IS NULL AND a.attrelid = relation AND a.attnum = c.number
        UNION ALL
        SELECT 5, format('ALTER TABLE @shard@ ALTER COLUMN %s %s NOT NULL', c.new ->> 'name', CASE WHEN (c.new -> 'null')::boolean THEN 'DROP' ELSE 'SET' END)
        WHERE c.new -> 'null' <> coalesce(c.old -> 'null', 'true')
    ) AS l (rank, change)
$$;

CREATE FUNCTION citus_standin.carry_changes(relation regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was citus_standin.shape;
    now citus_standin.shape := citus_standin.shape_of(relation);
    shown_as "char" := (SELECT relkind FROM pg_class WHERE oid = relation);
    saved citus_standin.definition[] := ARRAY(SELECT d FROM citus_standin.definition AS d WHERE d.logicalrelid = relation ORDER BY d.position);
    live citus_standin.definition[];
    d citus_standin.definition;
    changes text;
    target record;
    moved boolean;
    any_change boolean := false;
BEGIN
    SELECT * INTO was FROM citus_standin.shape WHERE logicalrelid = relation;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    moved := (was.schema, was.name) <> (now.schema, now.name);
    changes := citus_standin.column_changes(relation, was, now);
    -- A partitioned or foreign table shows its checks and plain indexes only; the other keys are known from before.
    SELECT coalesce(array_agg(ROW(relation, 1000, r.kind, r.name, r.is_unique, r.refers_to, r.body)::citus_standin.definition), '{}')
    INTO live FROM citus_standin.read_definitions(relation) AS r;
    FOR d IN SELECT s.* FROM unnest(saved) AS s
             WHERE (shown_as = 'r' OR s.body LIKE 'CHECK%' OR s.kind = 'index' AND NOT s.is_unique AND shown_as = 'p')
               AND NOT EXISTS (SELECT FROM unnest(live) AS l WHERE l.name = s.name AND l.kind = s.kind) LOOP
        changes := concat_ws('; ', changes, CASE d.kind WHEN 'constraint' THEN format('ALTER TABLE @shard@ DROP CONSTRAINT IF EXISTS @%s@', d.name)
                                                        ELSE format('DROP INDEX IF EXISTS %I.@%s@', now.schema, d.name) END);
        saved := ARRAY(SELECT s FROM unnest(saved) AS s WHERE (s.kind, s.name) <> (d.kind, d.name));
    END LOOP;
    live := ARRAY(SELECT l FROM unnest(live) AS l WHERE NOT EXISTS (SELECT FROM unnest(saved) AS s WHERE l.name = s.name AND l.kind = s.kind));
    IF changes IS NULL AND cardinality(live) = 0 AND NOT moved AND was.owner = now.owner
       AND cardinality(saved) = (SELECT count(*) FROM citus_standin.definition AS x WHERE x.logicalrelid = relation) THEN
        RETURN;
    END IF;
    PERFORM citus_standin.prepare_workers(relation);
    FOR target IN
        SELECT s.shardid, p.groupid FROM pg_dist_shard AS s JOIN pg_dist_placement AS p USING (shardid)
        WHERE s.logicalrelid = relation AND (shown_as <> 'r' OR p.groupid <> 0)
    LOOP
        IF moved THEN
            PERFORM citus_standin.run_on_group(target.groupid, format('ALTER TABLE %I.%I RENAME TO %I; ALTER TABLE %1$I.%3$I SET SCHEMA %4$I',
                was.schema, citus_standin.shard_relname(was.name, target.shardid), citus_standin.shard_relname(now.name, target.shardid), now.schema));
        END IF;
        IF was.owner <> now.owner THEN
            PERFORM citus_standin.run_on_group(target.groupid, format('ALTER TABLE %s OWNER TO %I', shard_name(relation, target.shardid, false), now.owner));
        END IF;
        IF changes IS NOT NULL THEN
            PERFORM citus_standin.run_on_group(target.groupid, citus_standin.with_shard_names(changes, relation, target.shardid), now.owner);
        END IF;
        FOREACH d IN ARRAY live LOOP
            PERFORM citus_standin.run_on_group(target.groupid, citus_standin.definition_command(
                d, shard_name(relation, target.shardid, false), target.shardid::text,
                (SELECT shard_name(d.refers_to, s.shardid, false) FROM pg_dist_shard AS s WHERE s.logicalrelid = d.refers_to LIMIT 1)), now.owner);
        END LOOP;
    END LOOP;
    PERFORM citus_standin.save_definitions(relation, saved || live);
    PERFORM citus_standin.remember_shape(relation);
    PERFORM citus_standin.renew_foreign_tables(relation, moved OR changes IS NOT NULL);
    PERFORM citus_standin.publish();
END $$;

-- "@name@" in a command is the name of a constraint or index on this shard.
CREATE FUNCTION citus_standin.with_shard_names(commands text, relation regclass, shard bigint) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    d record;
BEGIN
    FOR d IN SELECT name FROM citus_standin.definition WHERE logicalrelid = relation LOOP
        commands := replace(commands, '@' || d.name || '@', quote_ident(citus_standin.shard_relname(d.name, shard)));
    END LOOP;
    RETURN replace(commands, '@shard@', shard_name(relation, shard, false));
END $$;

-- The foreign tables are made anew when their shards have another name or, for copies of reference tables, other columns.
CREATE FUNCTION citus_standin.renew_foreign_tables(relation regclass, needed boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET citus_standin.own_work = 'on' AS $$
DECLARE
    part record;
BEGIN
    PERFORM citus_standin.require_owner(relation);
    IF NOT needed THEN
        RETURN;
    END IF;
    FOR part IN
        SELECT i.inhrelid::regclass AS foreign_table FROM pg_inherits AS i WHERE i.inhparent = relation
        UNION ALL SELECT copy::regclass FROM citus_standin.copies(relation) WHERE to_regclass(copy) IS NOT NULL
    LOOP
        EXECUTE format('DROP FOREIGN TABLE %s', part.foreign_table);
    END LOOP;
    IF (SELECT relkind FROM pg_class WHERE oid = relation) = 'f' THEN
        EXECUTE (SELECT format('ALTER FOREIGN TABLE %s OPTIONS (SET schema_name %L, SET table_name %L)', relation, n.nspname,
                               citus_standin.shard_relname(c.relname, s.shardid))
                 FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_dist_shard AS s ON s.logicalrelid = c.oid
                 WHERE c.oid = relation);
    END IF;
    PERFORM citus_standin.ensure_partitions(relation);
END $$;

CREATE FUNCTION citus_standin.on_alter() RETURNS event_trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed record;
BEGIN
    IF current_setting('citus_standin.own_work', true) = 'on' OR citus_standin.local_group() <> 0 THEN
        RETURN;
    END IF;
    FOR changed IN
        SELECT DISTINCT p.logicalrelid AS relation
        FROM pg_event_trigger_ddl_commands() AS e
        LEFT JOIN pg_index AS x ON x.indexrelid = e.objid
        JOIN pg_dist_partition AS p ON p.logicalrelid IN (e.objid, x.indrelid)
        WHERE e.classid = 'pg_class'::regclass
        UNION
        SELECT p.logicalrelid FROM pg_dist_partition AS p JOIN pg_class AS c ON c.oid = p.logicalrelid
        WHERE TG_TAG = 'DROP INDEX' AND pg_has_role(c.relowner, 'USAGE')
    LOOP
        PERFORM citus_standin.carry_changes(changed.relation);
    END LOOP;
END $$;
CREATE EVENT TRIGGER citus_standin_alter ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'ALTER FOREIGN TABLE', 'CREATE INDEX', 'DROP INDEX') EXECUTE FUNCTION citus_standin.on_alter();

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
