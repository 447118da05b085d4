-- A reference table stays a plain table on the coordinator. Each worker holds a copy, <table>_<shardid>,
-- and triggers on the coordinator's table repeat every change on the copies, in the same transaction.
CREATE FUNCTION citus_standin.forward_lock() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- One writer at a time: the copies then see the changes in the order in which the table saw them.
    PERFORM pg_advisory_xact_lock(hashtext('citus_standin.reference'), TG_RELID::integer);
    RETURN NULL;
END $$;

CREATE FUNCTION citus_standin.copies(relation oid) RETURNS TABLE (groupid integer, copy text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.groupid, format('citus_standin.%I', citus_standin.reference_copy(s.shardid, p.groupid))
    FROM pg_dist_shard AS s JOIN pg_dist_placement AS p USING (shardid)
    WHERE s.logicalrelid = relation AND p.groupid <> 0 ORDER BY p.groupid
$$;

CREATE FUNCTION citus_standin.forward_rows() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    key text;
    copy_key text;
    fresh_key text;
    columns text := citus_standin.copied_columns(TG_RELID);
    assignments text;
    target record;
BEGIN
    SELECT string_agg(format('%I', a.attname), ', '), string_agg(format('copy.%I', a.attname), ', '), string_agg(format('fresh.%I', a.attname), ', ')
    INTO key, copy_key, fresh_key
    FROM pg_index AS x JOIN pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = ANY (x.indkey)
    WHERE x.indrelid = TG_RELID AND x.indisprimary;
    SELECT string_agg(format('%1$I = fresh.%1$I', attname), ', ') INTO assignments FROM pg_attribute
    WHERE attrelid = TG_RELID AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
    FOR target IN SELECT * FROM citus_standin.copies(TG_RELID) LOOP
        IF TG_OP = 'INSERT' THEN
            EXECUTE format('INSERT INTO %1$s (%2$s) SELECT %2$s FROM fresh', target.copy, columns);
        ELSIF key IS NULL THEN
            -- Equal rows cannot be told apart without a key: write the whole table again.
            EXECUTE format('DELETE FROM %s', target.copy);
            EXECUTE format('INSERT INTO %1$s (%2$s) SELECT %2$s FROM %3$I.%4$I', target.copy, columns, TG_TABLE_SCHEMA, TG_TABLE_NAME);
        ELSIF TG_OP = 'DELETE' THEN
            EXECUTE format('DELETE FROM %s AS copy WHERE (%s) IN (SELECT %s FROM gone)',
                           target.copy, copy_key, key);
        ELSE
            -- In an order that foreign keys to the copy allow: rows with new keys, rows that kept theirs, rows that are gone.
            EXECUTE format('INSERT INTO %1$s (%2$s) SELECT %2$s FROM fresh WHERE (%3$s) NOT IN (SELECT %3$s FROM gone)', target.copy, columns, key);
            EXECUTE format('UPDATE %s AS copy SET %s FROM fresh WHERE (%s) = (%s) AND (%s) IN (SELECT %s FROM gone)', target.copy, assignments,
                           copy_key, fresh_key, fresh_key, key);
            EXECUTE format('DELETE FROM %s AS copy WHERE (%s) IN (SELECT %s FROM gone) AND (%s) NOT IN (SELECT %s FROM fresh)',
                           target.copy, copy_key, key, copy_key, key);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
CREATE FUNCTION citus_standin.forward_truncate() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target record;
BEGIN
    FOR target IN SELECT * FROM citus_standin.copies(TG_RELID) LOOP
        EXECUTE format('DELETE FROM %s', target.copy);
    END LOOP;
    RETURN NULL;
END $$;

CREATE FUNCTION pg_catalog.create_reference_table(table_name regclass) RETURNS void
    LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    colocation integer;
    had_rows boolean;
    target record;
BEGIN
    PERFORM citus_standin.register_coordinator_if_empty();
    PERFORM citus_standin.unregister_if_local(table_name);
    PERFORM citus_standin.check_distributable(table_name);
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', table_name);
    SELECT min(colocationid) INTO colocation FROM pg_dist_colocation WHERE replicationfactor = -1;
    colocation := coalesce(colocation, citus_standin.new_reference_colocation());
    PERFORM citus_standin.check_foreign_keys(table_name, NULL, NULL);
    PERFORM citus_standin.replicate_reference_tables();
    PERFORM citus_standin.prepare_workers(table_name);
    PERFORM citus_standin.register(table_name, 'n', NULL, colocation, 1, 't');
    PERFORM citus_standin.save_definitions(table_name, citus_standin.read_definition_array(table_name));
    PERFORM citus_standin.create_shards(table_name, 0);
    PERFORM citus_standin.ensure_partitions(table_name);
    had_rows := citus_standin.has_rows(table_name);
    IF had_rows THEN
        RAISE NOTICE 'Copying data from local table...';
        FOR target IN SELECT * FROM citus_standin.copies(table_name) LOOP
            PERFORM citus_standin.copy_rows(table_name, target.copy::regclass);
        END LOOP;
        PERFORM citus_standin.say_copied(citus_standin.qualified(table_name));
    END IF;
    PERFORM citus_standin.make_forward_triggers(table_name);
    PERFORM citus_standin.remember_shape(table_name);
    PERFORM citus_standin.publish();
END $$;

CREATE FUNCTION citus_standin.new_reference_colocation() RETURNS integer
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO pg_dist_colocation
    SELECT nextval('pg_dist_colocationid_seq'), 1, -1, 0, 0
    WHERE NOT EXISTS (SELECT FROM pg_dist_colocation WHERE replicationfactor = -1);
    SELECT colocationid FROM pg_dist_colocation WHERE replicationfactor = -1;
$$;

CREATE FUNCTION citus_standin.make_forward_triggers(relation regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET citus_standin.own_work = 'on' AS $$
BEGIN
    PERFORM citus_standin.require_owner(relation);
    EXECUTE format('CREATE TRIGGER citus_standin_lock BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s '
                   'FOR EACH STATEMENT EXECUTE FUNCTION citus_standin.forward_lock()', relation);
    EXECUTE format('CREATE TRIGGER citus_standin_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS fresh '
                   'FOR EACH STATEMENT EXECUTE FUNCTION citus_standin.forward_rows()', relation);
    EXECUTE format('CREATE TRIGGER citus_standin_update AFTER UPDATE ON %s REFERENCING OLD TABLE AS gone NEW TABLE AS fresh '
                   'FOR EACH STATEMENT EXECUTE FUNCTION citus_standin.forward_rows()', relation);
    EXECUTE format('CREATE TRIGGER citus_standin_delete AFTER DELETE ON %s REFERENCING OLD TABLE AS gone '
                   'FOR EACH STATEMENT EXECUTE FUNCTION citus_standin.forward_rows()', relation);
    EXECUTE format('CREATE TRIGGER citus_standin_truncate AFTER TRUNCATE ON %s '
                   'FOR EACH STATEMENT EXECUTE FUNCTION citus_standin.forward_truncate()', relation);
END $$;

-- The coordinator's table stays as it is, without triggers and copies.
CREATE FUNCTION citus_standin.unregister_reference(relation regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    item record;
BEGIN
    PERFORM citus_standin.require_owner(relation);
    FOR item IN SELECT tgname FROM pg_trigger WHERE tgrelid = relation AND tgname LIKE 'citus\_standin\_%' LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', item.tgname, relation);
    END LOOP;
    PERFORM citus_standin.drop_reference_foreign_tables(relation);
    PERFORM citus_standin.forget(relation);
END $$;

CREATE FUNCTION citus_standin.drop_reference_foreign_tables(relation oid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET citus_standin.own_work = 'on' AS $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT copy FROM citus_standin.copies(relation) WHERE to_regclass(copy) IS NOT NULL LOOP
        EXECUTE format('DROP FOREIGN TABLE %s', item.copy);
    END LOOP;
END $$;

-- Bring reference tables to nodes that joined after they were made. Done before shards go to a node.
CREATE FUNCTION citus_standin.replicate_reference_tables() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing record;
    owner name;
    columns text;
BEGIN
    FOR missing IN
        SELECT s.logicalrelid AS relation, s.shardid, n.groupid
        FROM pg_dist_partition AS p JOIN pg_dist_shard AS s USING (logicalrelid)
        CROSS JOIN pg_dist_node AS n
        WHERE p.repmodel = 't' AND n.noderole = 'primary' AND n.isactive
          AND NOT EXISTS (SELECT FROM pg_dist_placement AS o WHERE o.shardid = s.shardid AND o.groupid = n.groupid)
        ORDER BY s.shardid
    LOOP
        INSERT INTO pg_dist_placement (shardid, shardstate, shardlength, groupid) VALUES (missing.shardid, 1, 0, missing.groupid);
        CONTINUE WHEN missing.groupid = 0;
        PERFORM citus_standin.prepare_workers(missing.relation);
        EXECUTE format('LOCK TABLE %s IN SHARE MODE', missing.relation);
        -- A copy may be left there from before the node was removed.
        owner := citus_standin.owner_of(missing.relation);
        columns := citus_standin.copied_columns(missing.relation);
        PERFORM citus_standin.insert_as(owner, format('citus_standin.%I', 'command_' || missing.groupid), 'command', format('VALUES (%L)',
            format('DROP TABLE IF EXISTS %s CASCADE; ', shard_name(missing.relation, missing.shardid, false))
            || citus_standin.shard_commands(missing.relation, missing.shardid)));
        PERFORM citus_standin.ensure_partitions(missing.relation);
        PERFORM citus_standin.insert_as(owner, format('citus_standin.%I', citus_standin.reference_copy(missing.shardid, missing.groupid)),
                                        columns, format('SELECT %s FROM %s', columns, missing.relation));
    END LOOP;
END $$;

CREATE FUNCTION pg_catalog.replicate_reference_tables(shard_transfer_mode citus.shard_transfer_mode DEFAULT 'auto') RETURNS void
    LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM citus_standin.require_coordinator();
    PERFORM citus_standin.replicate_reference_tables();
    PERFORM citus_standin.publish();
END $$;
