-- Distributing tables and taking it back. The public functions run with the caller's rights and connect as
-- the caller; only the registry is written by SECURITY DEFINER functions, which look at who asks.

CREATE FUNCTION citus_standin.qualified(relation oid) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = relation
$$;

-- Groups that new shards go to, in the order that Citus deals them out.
CREATE FUNCTION citus_standin.target_groups() RETURNS integer[]
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(groupid ORDER BY nodename, nodeport), '{}') FROM pg_dist_node
    WHERE noderole = 'primary' AND isactive AND shouldhaveshards
$$;

CREATE FUNCTION citus_standin.check_distributable(relation regclass) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c pg_class;
BEGIN
    PERFORM citus_standin.require_coordinator();
    SELECT * INTO c FROM pg_class WHERE oid = relation;
    PERFORM citus_standin.require_owner(relation);
    IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = relation) THEN
        RAISE EXCEPTION 'table "%" is already distributed', c.relname USING ERRCODE = 'invalid_table_definition';
    END IF;
    IF c.relkind NOT IN ('r', 'f', 'p') THEN
        RAISE EXCEPTION '% is not a regular, foreign or partitioned table', c.relname USING ERRCODE = 'wrong_object_type';
    END IF;
    IF c.relpersistence = 't' THEN
        RAISE EXCEPTION 'cannot distribute a temporary table' USING ERRCODE = 'feature_not_supported';
    END IF;
    IF c.relkind <> 'r' OR c.relispartition OR c.relrowsecurity
       OR EXISTS (SELECT FROM pg_inherits WHERE inhrelid = relation OR inhparent = relation)
       OR EXISTS (SELECT FROM pg_rewrite AS r JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                  WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = relation AND r.ev_class <> relation) THEN
        RAISE EXCEPTION 'the stand-in for Citus cannot distribute "%"', c.relname
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = 'It takes plain tables only: no partitions, inheritance, foreign tables, row level security, or views on the table.';
    END IF;
    IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND NOT tgisinternal) THEN
        RAISE EXCEPTION 'cannot distribute relation "%" because it has triggers', c.relname
            USING ERRCODE = 'feature_not_supported', HINT = 'Drop all the triggers on "' || c.relname || '" and retry.';
    END IF;
END $$;

-- Keys must include the distribution column, because each shard can only look at itself.
CREATE FUNCTION citus_standin.check_keys(relation regclass, attribute smallint) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_index AS x
        WHERE x.indrelid = relation AND (x.indisunique OR x.indisexclusion)
          AND (attribute IS NULL OR NOT EXISTS (
              SELECT FROM generate_series(0, x.indnkeyatts - 1) AS k
              LEFT JOIN pg_constraint AS c ON c.conindid = x.indexrelid AND c.contype = 'x'
              LEFT JOIN pg_amop AS o ON o.amopopr = c.conexclop[k + 1]
              WHERE x.indkey[k] = attribute AND (c.oid IS NULL OR o.amopstrategy = 3)))) THEN
        RAISE EXCEPTION 'cannot create constraint on "%"', (SELECT relname FROM pg_class WHERE oid = relation)
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = 'Distributed relations cannot have UNIQUE, EXCLUDE, or PRIMARY KEY constraints that do not include the '
                           'partition column (with an equality operator if EXCLUDE).';
    END IF;
END $$;

-- Foreign keys may point to a reference table, or to a colocated table with the distribution columns paired.
CREATE FUNCTION citus_standin.check_foreign_keys(relation regclass, attribute smallint, colocation integer) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    key record;
BEGIN
    FOR key IN
        SELECT c.conkey, c.confkey, c.confrelid, target.partmethod, target.repmodel, target.colocationid,
               (SELECT attnum FROM pg_attribute WHERE attrelid = c.confrelid
                AND attname = column_to_column_name(target.logicalrelid, target.partkey)) AS target_attribute
        FROM pg_constraint AS c LEFT JOIN pg_dist_partition AS target ON target.logicalrelid = c.confrelid
        WHERE c.conrelid = relation AND c.contype = 'f' AND c.confrelid <> relation
        UNION ALL
        SELECT NULL, NULL, target.logicalrelid, target.partmethod, target.repmodel, target.colocationid, NULL
        FROM citus_standin.definition AS d JOIN pg_dist_partition AS target ON target.logicalrelid = d.refers_to
        WHERE d.logicalrelid = relation AND d.refers_to <> relation
    LOOP
        IF key.partmethod IS NULL THEN
            RAISE EXCEPTION 'referenced table "%" must be a distributed table or a reference table',
                (SELECT relname FROM pg_class WHERE oid = key.confrelid)
                USING ERRCODE = 'feature_not_supported',
                      DETAIL = 'To enforce foreign keys, the referencing and referenced rows need to be stored on the same node.',
                      HINT = 'You could use SELECT create_reference_table(''' || (SELECT relname FROM pg_class WHERE oid = key.confrelid)
                             || ''') to replicate the referenced table to all nodes or consider dropping the foreign key';
        END IF;
        CONTINUE WHEN key.repmodel = 't';
        IF key.colocationid <> colocation
           OR attribute IS NOT NULL AND key.conkey IS NOT NULL AND array_position(key.conkey, attribute) IS DISTINCT FROM array_position(key.confkey, key.target_attribute) THEN
            RAISE EXCEPTION 'cannot create foreign key constraint since relations are not colocated or not referencing a reference table'
                USING ERRCODE = 'feature_not_supported',
                      DETAIL = 'A distributed table can only have foreign keys if it is referencing another colocated hash distributed table or a reference table';
        END IF;
    END LOOP;
END $$;

-- Write a table into the registry: its row, its shards and where they are. Returns nothing; the caller
-- then makes the shards. Only for a table of the caller's.
CREATE FUNCTION citus_standin.register(relation regclass, method "char", attribute smallint, colocation integer, shards integer,
        replication "char") RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    groups integer[] := citus_standin.target_groups();
    peer regclass;
    new_shard bigint;
    step bigint := 4294967296 / shards;
BEGIN
    PERFORM citus_standin.require_owner(relation);
    IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = relation) THEN
        RAISE EXCEPTION 'table % is registered already', relation;
    END IF;
    IF colocation = 0 THEN
        groups := '{0}';
    END IF;
    SELECT logicalrelid INTO peer FROM pg_dist_partition WHERE colocationid = colocation AND colocation <> 0 ORDER BY logicalrelid::oid LIMIT 1;
    INSERT INTO pg_dist_partition VALUES (relation, method, citus_standin.partkey(relation, attribute), colocation, replication, false);
    FOR place IN 0 .. shards - 1 LOOP
        new_shard := nextval('pg_dist_shardid_seq');
        INSERT INTO pg_dist_shard VALUES (relation, new_shard, 't',
            CASE method WHEN 'h' THEN -2147483648 + place * step END,
            CASE method WHEN 'h' THEN CASE place WHEN shards - 1 THEN 2147483647 ELSE -2147483648 + (place + 1) * step - 1 END END);
        IF replication = 't' THEN
            INSERT INTO pg_dist_placement (shardid, shardstate, shardlength, groupid)
            SELECT new_shard, 1, 0, groupid FROM pg_dist_node WHERE noderole = 'primary' AND isactive ORDER BY groupid;
        ELSIF peer IS NOT NULL THEN
            INSERT INTO pg_dist_placement (shardid, shardstate, shardlength, groupid)
            SELECT new_shard, 1, 0, groupid FROM (
                SELECT p.groupid, row_number() OVER (ORDER BY s.shardminvalue::bigint) - 1 AS slot
                FROM pg_dist_shard AS s JOIN pg_dist_placement AS p USING (shardid) WHERE s.logicalrelid = peer) AS peers
            WHERE peers.slot = place;
        ELSE
            -- A single shard goes to the next group in turn, many are dealt out from the first.
            INSERT INTO pg_dist_placement (shardid, shardstate, shardlength, groupid)
            VALUES (new_shard, 1, 0, groups[1 + (CASE shards WHEN 1 THEN colocation ELSE place END) % cardinality(groups)]);
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION citus_standin.new_colocation(shards integer, column_type oid, column_collation oid) RETURNS integer
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO pg_dist_colocation
    SELECT nextval('pg_dist_colocationid_seq'), shards, CASE shards WHEN -1 THEN -1 ELSE 1 END, column_type, column_collation
    RETURNING colocationid
$$;

CREATE FUNCTION citus_standin.save_definitions(relation regclass, definitions citus_standin.definition[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM citus_standin.require_owner(relation);
    DELETE FROM citus_standin.definition WHERE logicalrelid = relation;
    INSERT INTO citus_standin.definition
    SELECT relation, row_number() OVER (ORDER BY position), kind, name, is_unique, refers_to, body FROM unnest(definitions);
END $$;

-- A rebuilt table has another identity: what is known of the old one is known of the new one.
CREATE FUNCTION citus_standin.rename_identity(old regclass, new regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM citus_standin.require_owner(old);
    PERFORM citus_standin.require_owner(new);
    UPDATE citus_standin.definition SET refers_to = new WHERE refers_to = old;
    DELETE FROM citus_standin.definition WHERE logicalrelid = old;
END $$;

-- Foreign keys that point to a table about to be distributed, from tables that are not (yet). PostgreSQL cannot keep
-- them; they are put down and come back when their own table is distributed.
CREATE FUNCTION citus_standin.put_down_foreign_keys(target regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    key record;
BEGIN
    FOR key IN
        SELECT c.conrelid::regclass AS relation, c.conname, d.*
        FROM pg_constraint AS c
        JOIN LATERAL citus_standin.read_definitions(c.conrelid) AS d ON d.kind = 'constraint' AND d.name = c.conname
        WHERE c.contype = 'f' AND c.confrelid = target AND c.conrelid <> target
    LOOP
        IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = key.relation) THEN
            RAISE EXCEPTION 'cannot create foreign key constraint since foreign keys from reference tables to distributed tables are not supported'
                USING ERRCODE = 'feature_not_supported',
                      DETAIL = 'A reference table can only have foreign keys to other reference tables';
        END IF;
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', key.relation, key.conname);
        PERFORM citus_standin.save_definitions(key.relation,
            (SELECT coalesce(array_agg(o), '{}') FROM citus_standin.definition AS o WHERE o.logicalrelid = key.relation)
            || ROW(key.relation, 1000, 'constraint', key.name, false, target, key.body)::citus_standin.definition);
    END LOOP;
END $$;

-- Those that can stand again, because both tables are plain ones or the target is a reference table.
CREATE FUNCTION citus_standin.put_up_foreign_keys(relation regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    d citus_standin.definition;
    rest citus_standin.definition[] := '{}';
BEGIN
    FOR d IN SELECT * FROM citus_standin.definition WHERE logicalrelid = relation ORDER BY position LOOP
        IF EXISTS (SELECT FROM pg_class WHERE oid = d.refers_to AND relkind = 'r') THEN
            EXECUTE citus_standin.definition_command(d, citus_standin.qualified(relation), '', citus_standin.qualified(d.refers_to));
        ELSE
            rest := rest || d;
        END IF;
    END LOOP;
    PERFORM citus_standin.save_definitions(relation, rest);
END $$;

-- Make a table's shards on the groups that the registry names.
CREATE FUNCTION citus_standin.create_shards(relation regclass, but_not_on integer DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target record;
BEGIN
    FOR target IN
        SELECT p.groupid, string_agg(citus_standin.shard_commands(relation, s.shardid), '; ' ORDER BY s.shardid) AS commands
        FROM pg_dist_shard AS s JOIN pg_dist_placement AS p USING (shardid)
        WHERE s.logicalrelid = relation AND p.groupid IS DISTINCT FROM but_not_on
        GROUP BY p.groupid
    LOOP
        PERFORM citus_standin.run_on_group(target.groupid, target.commands, citus_standin.owner_of(relation));
    END LOOP;
END $$;

-- Columns that a row is copied by: all but the generated ones.
CREATE FUNCTION citus_standin.copied_columns(relation regclass) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
$$;

-- Give a table another body of the same name: PostgreSQL cannot turn a plain table into a partitioned one.
-- Columns, defaults, checks, comments, grants, owner and sequences stay; rows are copied; the old body is dropped.
CREATE FUNCTION citus_standin.rebuild(old regclass, clause text, INOUT new regclass DEFAULT NULL) RETURNS regclass
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET citus_standin.own_work = 'on' AS $$
DECLARE
    qualified text := citus_standin.qualified(old);
    old_name name := (SELECT relname FROM pg_class WHERE oid = old);
    parked_name name := 'citus_standin_old_' || old::oid;
    seq record;
BEGIN
    EXECUTE format('ALTER TABLE %s RENAME TO %I', qualified, parked_name);
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL EXCLUDING INDEXES) %s', qualified, old, clause);
    new := qualified::regclass;
    EXECUTE format('ALTER TABLE %s OWNER TO %I', qualified, citus_standin.owner_of(old)) || citus_standin.grant_commands(old, qualified);
    EXECUTE format('COMMENT ON TABLE %s IS %L', qualified, obj_description(old, 'pg_class'));
    FOR seq IN
        SELECT a.attname, d.objid::regclass AS sequence, d.deptype
        FROM pg_depend AS d
        JOIN pg_class AS c ON c.oid = d.objid AND c.relkind = 'S'
        JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = old AND d.deptype IN ('a', 'i')
    LOOP
        IF seq.deptype = 'a' THEN
            EXECUTE format('ALTER SEQUENCE %s OWNED BY %s.%I', seq.sequence, qualified, seq.attname);
        ELSE
            EXECUTE format('SELECT setval(pg_get_serial_sequence(%L, %L), last_value, is_called) FROM %s', qualified, seq.attname, seq.sequence);
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION citus_standin.copy_rows(source regclass, target regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('INSERT INTO %1$s (%2$s) OVERRIDING SYSTEM VALUE SELECT %2$s FROM %3$s',
                   target, citus_standin.copied_columns(target), source);
END $$;

CREATE FUNCTION citus_standin.say_copied(qualified text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    RAISE NOTICE 'copying the data has completed'
        USING DETAIL = 'The local data in the table is no longer visible, but is still on disk.',
              HINT = format('To remove the local data, run: SELECT truncate_local_data_after_distributing_table($$%s$$)', qualified);
END $body$;

CREATE FUNCTION citus_standin.has_rows(relation regclass) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', relation) INTO answer;
    RETURN answer;
END $$;

CREATE FUNCTION citus_standin.read_definition_array(relation regclass) RETURNS citus_standin.definition[]
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- Keys before foreign keys, constraints before indexes.
    SELECT coalesce(array_agg(ROW(relation, number, kind, name, is_unique, refers_to, body)::citus_standin.definition), '{}')
    FROM (SELECT *, row_number() OVER (ORDER BY kind, refers_to IS NOT NULL, name) AS number
          FROM (SELECT * FROM citus_standin.read_definitions(relation)
                UNION ALL SELECT kind, name, is_unique, refers_to, body FROM citus_standin.definition WHERE logicalrelid = relation) AS every) AS d
$$;

-- Distribute by hash, or as a single shard when there is no distribution column.
CREATE FUNCTION citus_standin.distribute(relation regclass, distribution_column text, colocate regclass, own_group boolean,
        shards integer, quiet boolean DEFAULT false, in_colocation integer DEFAULT NULL) RETURNS regclass
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    attribute pg_attribute;
    peer record;
    colocation integer := in_colocation;
    definitions citus_standin.definition[];
    new regclass;
    qualified text;
    named name := (SELECT relname FROM pg_class WHERE oid = relation);
BEGIN
    PERFORM citus_standin.register_coordinator_if_empty();
    PERFORM citus_standin.unregister_if_local(relation);
    PERFORM citus_standin.check_distributable(relation);
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', relation);
    IF distribution_column IS NOT NULL THEN
        SELECT a.* INTO attribute
        FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attname = distribution_column AND a.attnum > 0 AND NOT a.attisdropped;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'column "%" of relation "%" does not exist', distribution_column, named USING ERRCODE = 'undefined_column';
        END IF;
        IF attribute.attgenerated <> '' THEN
            RAISE EXCEPTION 'cannot distribute relation: %', named
                USING ERRCODE = 'feature_not_supported', DETAIL = 'Distribution column must not use GENERATED ALWAYS AS (...) STORED.';
        END IF;
        IF NOT citus_standin.can_hash(attribute.atttypid) THEN
            RAISE EXCEPTION 'data type % has no default operator class for specified partition method', attribute.atttypid::regtype
                USING ERRCODE = 'undefined_object', DETAIL = 'Partition column types must have a default operator class defined.';
        END IF;
        PERFORM citus_standin.check_keys(relation, attribute.attnum);
    END IF;

    IF colocate IS NOT NULL THEN
        SELECT p.logicalrelid, p.partmethod, p.colocationid, k.shardcount, k.distributioncolumntype, k.distributioncolumncollation INTO peer
        FROM pg_dist_partition AS p JOIN pg_dist_colocation AS k USING (colocationid) WHERE p.logicalrelid = colocate;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'relation % is not distributed', (SELECT relname FROM pg_class WHERE oid = colocate)
                USING ERRCODE = 'invalid_table_definition';
        END IF;
        IF (peer.partmethod = 'h') IS DISTINCT FROM (distribution_column IS NOT NULL) THEN
            RAISE EXCEPTION 'cannot colocate tables % and %', (SELECT relname FROM pg_class WHERE oid = colocate), named
                USING ERRCODE = 'internal_error', DETAIL = format('Distribution methods don''t match for %s and %s.',
                    (SELECT relname FROM pg_class WHERE oid = colocate), named);
        END IF;
        IF distribution_column IS NOT NULL AND (peer.distributioncolumntype, peer.distributioncolumncollation)
                                               IS DISTINCT FROM (attribute.atttypid, attribute.attcollation) THEN
            RAISE EXCEPTION 'cannot colocate tables % and %', (SELECT relname FROM pg_class WHERE oid = colocate), named
                USING ERRCODE = 'internal_error', DETAIL = format('Distribution column types don''t match for %s and %s.',
                    (SELECT relname FROM pg_class WHERE oid = colocate), named);
        END IF;
        colocation := peer.colocationid;
        shards := peer.shardcount;
    ELSIF colocation IS NULL AND NOT own_group AND distribution_column IS NOT NULL THEN
        SELECT min(k.colocationid) INTO colocation FROM pg_dist_colocation AS k
        WHERE k.shardcount = shards AND k.distributioncolumntype = attribute.atttypid
          AND k.distributioncolumncollation = attribute.attcollation AND k.replicationfactor = 1
          AND k.colocationid NOT IN (SELECT s.colocationid FROM pg_dist_schema AS s);
    ELSIF colocation IS NULL AND NOT own_group THEN
        SELECT min(k.colocationid) INTO colocation FROM pg_dist_colocation AS k
        WHERE k.shardcount = 1 AND k.distributioncolumntype = 0 AND k.replicationfactor = 1
          AND k.colocationid NOT IN (SELECT s.colocationid FROM pg_dist_schema AS s);
    END IF;
    IF cardinality(citus_standin.target_groups()) = 0 THEN
        RAISE EXCEPTION 'replication_factor (1) exceeds number of worker nodes (0)'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Add more worker nodes or try again with a lower replication factor.';
    END IF;
    IF colocation IS NULL THEN
        colocation := citus_standin.new_colocation(shards, coalesce(attribute.atttypid, 0), coalesce(attribute.attcollation, 0));
    END IF;
    PERFORM citus_standin.check_foreign_keys(relation, attribute.attnum, colocation);
    PERFORM citus_standin.put_down_foreign_keys(relation);

    PERFORM citus_standin.replicate_reference_tables();
    PERFORM citus_standin.prepare_workers(relation);
    definitions := citus_standin.read_definition_array(relation);
    qualified := citus_standin.qualified(relation);
    IF distribution_column IS NOT NULL THEN
        new := citus_standin.rebuild(relation, format('PARTITION BY HASH (%I)', distribution_column));
    ELSE
        new := citus_standin.rebuild(relation, '');
    END IF;
    PERFORM citus_standin.register(new, CASE WHEN distribution_column IS NULL THEN 'n' ELSE 'h' END::"char",
        (SELECT a.attnum FROM pg_attribute AS a WHERE a.attrelid = new AND a.attname = distribution_column), colocation, shards, 's');
    PERFORM citus_standin.save_definitions(new, definitions);
    PERFORM citus_standin.rename_identity(relation, new);
    PERFORM citus_standin.create_shards(new);
    IF distribution_column IS NULL THEN
        new := citus_standin.become_foreign(new);
    END IF;
    PERFORM citus_standin.ensure_partitions(new);
    IF citus_standin.has_rows(relation) THEN
        IF NOT quiet THEN
            RAISE NOTICE 'Copying data from local table...';
        END IF;
        PERFORM citus_standin.copy_rows(relation, new);
        IF NOT quiet THEN
            PERFORM citus_standin.say_copied(qualified);
        END IF;
    END IF;
    EXECUTE format('DROP TABLE %s', relation);
    IF distribution_column IS NOT NULL THEN
        PERFORM citus_standin.show_indexes(new);
    END IF;
    PERFORM citus_standin.remember_shape(new);
    PERFORM citus_standin.publish();
    RETURN new;
END $$;

-- Plain indexes can stand on the partitioned table, too, where people look for them.
CREATE FUNCTION citus_standin.show_indexes(relation regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET citus_standin.own_work = 'on' AS $$
DECLARE
    d citus_standin.definition;
BEGIN
    FOR d IN SELECT * FROM citus_standin.definition WHERE logicalrelid = relation AND kind = 'index' AND NOT is_unique LOOP
        EXECUTE citus_standin.definition_command(d, relation::text, '', NULL);
    END LOOP;
END $$;

CREATE FUNCTION citus_standin.can_hash(column_type oid) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_opclass AS o JOIN pg_am AS m ON m.oid = o.opcmethod JOIN pg_type AS t ON t.oid = column_type
        WHERE m.amname = 'hash' AND o.opcdefault
          AND (o.opcintype IN (t.oid, t.typbasetype)
               OR o.opcintype = 'anyenum'::regtype AND t.typtype = 'e'
               OR o.opcintype = 'anyarray'::regtype AND t.typcategory = 'A'
               OR o.opcintype = 'record'::regtype AND t.typtype = 'c'
               OR o.opcintype = 'anyrange'::regtype AND t.typtype = 'r'
               OR EXISTS (SELECT FROM pg_cast AS c WHERE c.castsource = t.oid AND c.casttarget = o.opcintype
                          AND c.castmethod = 'b' AND c.castcontext = 'i')))
$$;

-- The plain table made by rebuild() becomes a foreign table in front of its only shard.
CREATE FUNCTION citus_standin.become_foreign(relation regclass) RETURNS regclass
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET citus_standin.own_work = 'on' AS $$
DECLARE
    qualified text := citus_standin.qualified(relation);
    owner name := citus_standin.owner_of(relation);
    defaults text := citus_standin.column_list(relation, true);
    grants text := citus_standin.grant_commands(relation, qualified);
    comment text := obj_description(relation, 'pg_class');
    shard record;
    seq record;
    owned text := '';
    next_value bigint;
    new regclass;
BEGIN
    PERFORM citus_standin.require_owner(relation);
    SELECT s.shardid, p.groupid, n.nspname, c.relname INTO STRICT shard
    FROM pg_dist_shard AS s JOIN pg_dist_placement AS p USING (shardid)
    JOIN pg_class AS c ON c.oid = s.logicalrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE s.logicalrelid = relation;
    FOR seq IN
        SELECT a.attname, citus_standin.qualified(d.objid) AS sequence, d.deptype
        FROM pg_depend AS d JOIN pg_class AS c ON c.oid = d.objid AND c.relkind = 'S'
        JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = relation AND d.deptype IN ('a', 'i')
    LOOP
        IF seq.deptype = 'i' THEN
            EXECUTE format('SELECT last_value + is_called::integer FROM %s', seq.sequence) INTO next_value;
            EXECUTE format('ALTER TABLE %s ALTER COLUMN %I DROP IDENTITY', qualified, seq.attname);
            EXECUTE format('CREATE SEQUENCE %s START %s', seq.sequence, next_value);
        ELSE
            EXECUTE format('ALTER SEQUENCE %s OWNED BY NONE', seq.sequence);
        END IF;
        EXECUTE format('ALTER SEQUENCE %s OWNER TO %I', seq.sequence, owner);
        owned := owned || format('; ALTER SEQUENCE %s OWNED BY %s.%I', seq.sequence, qualified, seq.attname);
    END LOOP;
    EXECUTE format('DROP TABLE %s', qualified);
    EXECUTE format('CREATE FOREIGN TABLE %s (%s) SERVER %I OPTIONS (schema_name %L, table_name %L)', qualified, defaults,
                   citus_standin.server_name(shard.groupid), shard.nspname, citus_standin.shard_relname(shard.relname, shard.shardid));
    EXECUTE format('ALTER TABLE %s OWNER TO %I', qualified, owner) || grants || owned;
    EXECUTE format('COMMENT ON FOREIGN TABLE %s IS %L', qualified, comment);
    new := qualified::regclass;
    UPDATE pg_dist_partition SET logicalrelid = new WHERE logicalrelid = relation;
    UPDATE pg_dist_shard SET logicalrelid = new WHERE logicalrelid = relation;
    UPDATE citus_standin.definition SET logicalrelid = new WHERE logicalrelid = relation;
    UPDATE citus_standin.definition SET refers_to = new WHERE refers_to = relation;
    RETURN new;
END $$;

CREATE FUNCTION pg_catalog.create_distributed_table(table_name regclass, distribution_column text,
        distribution_type citus.distribution_type DEFAULT 'hash', colocate_with text DEFAULT 'default', shard_count integer DEFAULT NULL)
    RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    colocate regclass;
BEGIN
    IF table_name IS NULL OR colocate_with IS NULL OR distribution_column IS NOT NULL AND distribution_type IS NULL THEN
        RETURN;
    END IF;
    IF distribution_type <> 'hash' THEN
        RAISE EXCEPTION 'the stand-in for Citus distributes by hash only' USING ERRCODE = 'feature_not_supported';
    END IF;
    IF lower(colocate_with) NOT IN ('default', 'none') THEN
        IF shard_count IS NOT NULL THEN
            RAISE EXCEPTION 'Cannot use colocate_with with a table and shard_count at the same time' USING ERRCODE = 'internal_error';
        END IF;
        colocate := colocate_with::regclass;  -- by the caller's search_path
    END IF;
    IF shard_count NOT BETWEEN 1 AND 64000 THEN
        RAISE EXCEPTION '% is outside the valid range for parameter "shard_count" (1 .. 64000)', shard_count USING ERRCODE = 'internal_error';
    END IF;
    PERFORM citus_standin.distribute(table_name, distribution_column, colocate, lower(colocate_with) = 'none',
        CASE WHEN distribution_column IS NULL THEN 1
             ELSE coalesce(shard_count, nullif(current_setting('citus.shard_count', true), '')::integer, 32) END);
END $$;
CREATE FUNCTION pg_catalog.create_distributed_table_concurrently(table_name regclass, distribution_column text,
        distribution_type citus.distribution_type DEFAULT 'hash', colocate_with text DEFAULT 'default', shard_count integer DEFAULT NULL)
    RETURNS void LANGUAGE sql AS 'SELECT pg_catalog.create_distributed_table($1, $2, $3, $4, $5)';

CREATE FUNCTION pg_catalog.truncate_local_data_after_distributing_table(function_name regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = function_name) THEN
        RAISE EXCEPTION 'supplied parameter is not a distributed relation'
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = 'This UDF only truncates local data for distributed relations.';
    END IF;
    -- The stand-in leaves no local copy behind.
END $$;

-- In a transaction that read from the nodes before, the sessions to them still see what was there then: rows that others
-- wrote since would not be copied, and lost. Fresh sessions count again. A shard that they cannot see, or that this
-- transaction has locked, was made or changed here: nobody else wrote to it.
CREATE FUNCTION citus_standin.check_nothing_missed(source regclass, copied regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    node record;
    on_node bigint;
    on_shards bigint := 0;
    here bigint;
BEGIN
    PERFORM citus_standin.require_owner(source);
    FOR node IN
        SELECT n.nodeid, n.nodename, n.nodeport,
               string_agg(format('(SELECT count(*) FROM %I.%I)', c.schema, citus_standin.shard_relname(c.name, s.shardid)), ' + ') AS counts
        FROM pg_dist_shard AS s JOIN pg_dist_placement AS p USING (shardid)
        JOIN pg_dist_node AS n ON n.groupid = p.groupid AND n.noderole = 'primary'
        JOIN citus_standin.shape AS c ON c.logicalrelid = s.logicalrelid
        WHERE s.logicalrelid = source GROUP BY n.nodeid, n.nodename, n.nodeport
    LOOP
        BEGIN
            SELECT answer.rows INTO on_node
            FROM citus_standin.dblink(citus_standin.conninfo(node.nodeid, node.nodename, node.nodeport) || ' options=''-c lock_timeout=2s''',
                                      'SELECT ' || node.counts) AS answer (rows bigint);
        EXCEPTION WHEN undefined_table OR lock_not_available THEN
            RETURN;
        END;
        on_shards := on_shards + on_node;
    END LOOP;
    EXECUTE format('SELECT count(*) FROM %s', copied) INTO here;
    IF here <> on_shards THEN
        RAISE EXCEPTION 'rows of % were written since this transaction began: % copied, % on the shards', source, here, on_shards
            USING ERRCODE = 'serialization_failure', HINT = 'Run it again, in a transaction of its own.';
    END IF;
END $$;

-- Back to a plain table, with its keys, foreign keys and indexes.
CREATE FUNCTION citus_standin.collect(relation regclass) RETURNS regclass
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    definitions citus_standin.definition[];
    qualified text := citus_standin.qualified(relation);
    partition pg_dist_partition;
    new regclass;
    d citus_standin.definition;
BEGIN
    PERFORM citus_standin.require_coordinator();
    SELECT * INTO partition FROM pg_dist_partition WHERE logicalrelid = relation;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'cannot undistribute table because the table is not distributed' USING ERRCODE = 'internal_error';
    END IF;
    PERFORM citus_standin.require_owner(relation);
    IF partition.repmodel = 't' OR partition.colocationid = 0 THEN
        PERFORM citus_standin.drop_shards(relation);
        PERFORM citus_standin.unregister_reference(relation);
        PERFORM citus_standin.publish();
        RETURN relation;
    END IF;
    RAISE NOTICE 'creating a new table for %', qualified;
    SELECT coalesce(array_agg(s), '{}') INTO definitions FROM citus_standin.definition AS s WHERE s.logicalrelid = relation;
    PERFORM citus_standin.hide_indexes(relation);
    new := citus_standin.rebuild(relation, '');
    RAISE NOTICE 'moving the data of %', qualified;
    PERFORM citus_standin.copy_rows(relation, new);
    PERFORM citus_standin.check_nothing_missed(relation, new);
    RAISE NOTICE 'dropping the old %', qualified;
    PERFORM citus_standin.rename_identity(relation, new);
    EXECUTE format('DROP %s %s', CASE (SELECT relkind FROM pg_class WHERE oid = relation) WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, relation);
    RAISE NOTICE 'renaming the new table to %', qualified;
    FOR d IN SELECT s.* FROM unnest(definitions) AS s
             WHERE s.refers_to IS NULL AND NOT (s.kind = 'constraint' AND s.body LIKE 'CHECK%' AND partition.partmethod = 'h')
             ORDER BY s.position LOOP
        EXECUTE citus_standin.definition_command(d, qualified, '', NULL);
    END LOOP;
    SELECT coalesce(array_agg(ROW(new, s.position, s.kind, s.name, s.is_unique, CASE s.refers_to WHEN relation THEN new ELSE s.refers_to END,
                                  s.body)::citus_standin.definition), '{}')
    INTO definitions FROM unnest(definitions) AS s WHERE s.refers_to IS NOT NULL;
    PERFORM citus_standin.save_definitions(new, definitions);
    PERFORM citus_standin.put_up_foreign_keys(new);
    RETURN new;
END $$;

CREATE FUNCTION citus_standin.hide_indexes(relation regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET citus_standin.own_work = 'on' AS $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT indexrelid::regclass AS index FROM pg_index WHERE indrelid = relation LOOP
        EXECUTE format('DROP INDEX %s', item.index);
    END LOOP;
END $$;

-- Drop the shard tables on every node; for a table that is about to go, or to be collected.
CREATE FUNCTION citus_standin.drop_shards(relation oid) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target record;
BEGIN
    FOR target IN SELECT * FROM citus_standin.doomed_shards(relation) LOOP
        PERFORM citus_standin.run_on_group(target.groupid, target.commands);
    END LOOP;
END $$;
CREATE FUNCTION citus_standin.doomed_shards(relation oid) RETURNS TABLE (groupid integer, commands text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.groupid, format('DROP TABLE IF EXISTS %s CASCADE', string_agg(shard_name(relation, s.shardid, false), ', '))
    FROM pg_dist_shard AS s JOIN pg_dist_placement AS p USING (shardid)
    WHERE s.logicalrelid = relation AND (p.groupid <> 0 OR EXISTS (SELECT FROM pg_class WHERE oid = relation AND relkind <> 'r'))
    GROUP BY p.groupid
$$;

-- Registered tables that hang together by foreign keys.
CREATE FUNCTION citus_standin.related_tables(relation regclass) RETURNS TABLE (related regclass)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE link AS (
        SELECT logicalrelid AS a, refers_to AS b FROM citus_standin.definition WHERE refers_to IS NOT NULL
        UNION SELECT refers_to, logicalrelid FROM citus_standin.definition WHERE refers_to IS NOT NULL
    ), reached AS (
        SELECT relation AS r UNION SELECT link.b FROM reached JOIN link ON link.a = reached.r
    )
    SELECT r FROM reached WHERE r <> relation AND r IN (SELECT logicalrelid FROM pg_dist_partition) ORDER BY r::oid
$$;

CREATE FUNCTION pg_catalog.undistribute_table(table_name regclass, cascade_via_foreign_keys boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    others regclass[] := ARRAY(SELECT related FROM citus_standin.related_tables(table_name));
    item regclass;
    collected regclass[] := '{}';
BEGIN
    IF cardinality(others) > 0 AND NOT cascade_via_foreign_keys
       AND EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = table_name) THEN
        RAISE EXCEPTION 'cannot complete operation because table % has a foreign key', (SELECT relname FROM pg_class WHERE oid = table_name)
            USING ERRCODE = 'internal_error',
                  HINT = format('Use cascade option to undistribute all the relations involved in a foreign key relationship with %1$s '
                                'by executing SELECT undistribute_table(%2$s%1$s%2$s, cascade_via_foreign_keys=>true)',
                                citus_standin.qualified(table_name), repeat('$', 2));
    END IF;
    FOREACH item IN ARRAY table_name || others LOOP
        collected := collected || citus_standin.collect(item);
    END LOOP;
    FOREACH item IN ARRAY collected LOOP
        PERFORM citus_standin.put_up_foreign_keys(item);
    END LOOP;
END $$;

-- A local table that Citus knows: workers get a face of it.
CREATE FUNCTION pg_catalog.citus_add_local_table_to_metadata(table_name regclass, cascade_via_foreign_keys boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM citus_standin.check_distributable(table_name);
    IF NOT EXISTS (SELECT FROM pg_dist_node WHERE groupid = 0) THEN
        RAISE EXCEPTION 'operation cannot be completed: the coordinator is not added as a node' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    PERFORM citus_standin.prepare_workers(table_name);
    PERFORM citus_standin.register(table_name, 'n', NULL, 0, 1, 's');
    PERFORM citus_standin.publish();
END $$;
CREATE FUNCTION citus_standin.unregister_if_local(relation regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = relation AND colocationid = 0) THEN
        PERFORM citus_standin.unregister_reference(relation);
    END IF;
END $$;

CREATE FUNCTION pg_catalog.alter_distributed_table(table_name regclass, distribution_column text DEFAULT NULL, shard_count integer DEFAULT NULL,
        colocate_with text DEFAULT NULL, cascade_to_colocated boolean DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    colocate regclass;
BEGIN
    IF colocate_with IS NOT NULL AND lower(colocate_with) NOT IN ('default', 'none') THEN
        colocate := colocate_with::regclass;
    END IF;
    PERFORM citus_standin.alter_table(table_name, distribution_column, shard_count, colocate, lower(colocate_with) = 'none', cascade_to_colocated);
END $$;

CREATE FUNCTION citus_standin.alter_table(relation regclass, new_column text, new_count integer, colocate regclass, own_group boolean,
        with_colocated boolean) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now_is record;
    peer record;
    member record;
    first regclass;
    old_column text;
    named name := (SELECT relname FROM pg_class WHERE oid = relation);
BEGIN
    PERFORM citus_standin.require_coordinator();
    SELECT p.*, k.shardcount, column_to_column_name(p.logicalrelid, p.partkey) AS column INTO now_is
    FROM pg_dist_partition AS p JOIN pg_dist_colocation AS k USING (colocationid) WHERE p.logicalrelid = relation AND p.partmethod = 'h';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'cannot alter table because the table is not distributed' USING ERRCODE = 'internal_error';
    END IF;
    PERFORM citus_standin.require_owner(relation);
    old_column := now_is.column;
    IF new_column IS NULL AND new_count IS NULL AND colocate IS NULL AND own_group IS NOT TRUE THEN
        RAISE EXCEPTION 'you have to specify at least one of the distribution_column, shard_count or colocate_with parameters'
            USING ERRCODE = 'internal_error';
    END IF;
    IF colocate IS NOT NULL THEN
        SELECT p.colocationid, k.shardcount, k.distributioncolumntype INTO peer
        FROM pg_dist_partition AS p JOIN pg_dist_colocation AS k USING (colocationid) WHERE p.logicalrelid = colocate;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'cannot colocate with % because it is not distributed', colocate USING ERRCODE = 'internal_error';
        END IF;
        IF new_count <> peer.shardcount THEN
            RAISE EXCEPTION 'shard_count cannot be different than the shard count of the table in colocate_with'
                USING ERRCODE = 'internal_error', HINT = 'if no shard_count is specified shard count will be same with colocate_with table''s';
        END IF;
        IF peer.distributioncolumntype <> (SELECT atttypid FROM pg_attribute WHERE attrelid = relation
                                           AND attname = coalesce(new_column, old_column)) THEN
            RAISE EXCEPTION 'cannot colocate with % because data type of its distribution column is different than %',
                (SELECT relname FROM pg_class WHERE oid = colocate), named USING ERRCODE = 'internal_error';
        END IF;
    END IF;
    IF coalesce(new_column, old_column) = old_column AND coalesce(new_count, now_is.shardcount) = now_is.shardcount
       AND own_group IS NOT TRUE AND (colocate IS NULL OR now_is.colocationid = (SELECT p.colocationid FROM pg_dist_partition AS p
                                                                                 WHERE p.logicalrelid = colocate)) THEN
        RAISE EXCEPTION 'this call doesn''t change any properties of the table'
            USING ERRCODE = 'internal_error', HINT = 'check citus_tables view to see current properties of the table';
    END IF;
    IF new_count IS NOT NULL AND with_colocated IS NULL
       AND EXISTS (SELECT FROM pg_dist_partition WHERE colocationid = now_is.colocationid AND logicalrelid <> relation) THEN
        RAISE EXCEPTION 'cascade_to_colocated parameter is necessary'
            USING ERRCODE = 'internal_error',
                  DETAIL = 'this table is colocated with some other tables',
                  HINT = 'cascade_to_colocated => false will break the current colocation, cascade_to_colocated => true will change the shard count of colocated tables too.';
    END IF;
    IF new_column IS NOT NULL THEN
        PERFORM citus_standin.check_saved_keys(relation, new_column);
    END IF;

    first := citus_standin.distribute(citus_standin.collect(relation), coalesce(new_column, old_column), colocate,
        coalesce(own_group, false) OR new_count IS NOT NULL, coalesce(new_count, now_is.shardcount), true);
    IF with_colocated THEN
        FOR member IN
            SELECT p.logicalrelid AS relation, column_to_column_name(p.logicalrelid, p.partkey) AS column
            FROM pg_dist_partition AS p WHERE p.colocationid = now_is.colocationid
        LOOP
            PERFORM citus_standin.distribute(citus_standin.collect(member.relation), member.column, first, false, NULL, true);
        END LOOP;
    END IF;
END $$;

-- Keys of a distributed table are on its shards: the saved definitions say which columns they have.
CREATE FUNCTION citus_standin.check_saved_keys(relation regclass, new_column text) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM citus_standin.definition AS d WHERE d.logicalrelid = relation AND d.is_unique
               AND NOT quote_ident(new_column) = ANY (regexp_split_to_array(substring(d.body FROM '\((.*)\)'), ',\s*'))) THEN
        RAISE EXCEPTION 'cannot create constraint on "%"', (SELECT relname FROM pg_class WHERE oid = relation)
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = 'Distributed relations cannot have UNIQUE, EXCLUDE, or PRIMARY KEY constraints that do not include the '
                           'partition column (with an equality operator if EXCLUDE).';
    END IF;
END $$;
