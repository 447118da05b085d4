-- Names and definitions of shards.
CREATE FUNCTION citus_standin.shard_relname(relname name, shardid bigint) RETURNS name
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    -- Long names are cut and told apart by a hash, as Citus does.
    SELECT (CASE WHEN octet_length(relname) + length(suffix) < 64 THEN relname || suffix
                 ELSE (SELECT left(relname, n) FROM generate_series(0, length(relname)) AS n
                       WHERE octet_length(left(relname, n)) <= 54 - length(suffix) ORDER BY n DESC LIMIT 1)
                      || '_' || lpad(to_hex(hashtext(relname)), 8, '0') || suffix END)::name
    FROM (SELECT '_' || shardid AS suffix) AS s
$$;

CREATE FUNCTION pg_catalog.shard_name(object_name regclass, shard_id bigint, skip_qualify_public boolean DEFAULT true) RETURNS text
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN skip_qualify_public AND n.nspname = 'public' THEN '' ELSE quote_ident(n.nspname) || '.' END
           || quote_ident(citus_standin.shard_relname(c.relname, shard_id))
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = object_name
$$;

-- pg_dist_partition.partkey holds a serialized column reference; only its attribute number is read.
CREATE FUNCTION citus_standin.partkey(relation regclass, attribute smallint) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('{VAR :varno 1 :varattno %s :vartype %s :vartypmod %s :varcollid %s :varnullingrels (b) '
                  ':varlevelsup 0 :varnosyn 1 :varattnosyn %s :location -1}',
                  attnum, atttypid::integer, atttypmod, attcollation::integer, attnum)
    FROM pg_attribute WHERE attrelid = relation AND attnum = attribute
$$;
CREATE FUNCTION pg_catalog.column_to_column_name(table_name regclass, column_var_text text) RETURNS text
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT attname::text FROM pg_attribute
    WHERE attrelid = table_name AND attnum = substring(column_var_text FROM ':varattno (\d+)')::smallint
$$;

-- Column list of a shard (no defaults: the node that takes the row fills them in) or, with defaults,
-- of the table that stands for the distributed one on a worker.
CREATE FUNCTION citus_standin.column_list(relation regclass, with_defaults boolean) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(
        format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod))
        || CASE WHEN a.attcollation <> t.typcollation THEN ' COLLATE ' || a.attcollation::regcollation ELSE '' END
        || CASE WHEN a.attgenerated = 's' THEN format(' GENERATED ALWAYS AS (%s) STORED', pg_get_expr(d.adbin, d.adrelid))
                WHEN with_defaults AND d.adbin IS NOT NULL THEN ' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid)
                WHEN with_defaults AND a.attidentity <> '' THEN
                    format(' DEFAULT nextval(%L)', pg_get_serial_sequence(relation::text, a.attname)) ELSE '' END
        || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END, ', ' ORDER BY a.attnum)
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
$$;

-- Keys, checks, foreign keys and indexes of a plain table, ready for citus_standin.definition.
CREATE FUNCTION citus_standin.read_definitions(relation regclass)
    RETURNS TABLE (kind text, name name, is_unique boolean, refers_to regclass, body text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'constraint', c.conname, c.contype IN ('p', 'u', 'x'), nullif(c.confrelid, 0)::regclass,
           CASE c.contype WHEN 'f'
                THEN replace(pg_get_constraintdef(c.oid), ' REFERENCES ' || c.confrelid::regclass || '(', ' REFERENCES @target@(')
                ELSE pg_get_constraintdef(c.oid) END
    FROM pg_constraint AS c
    WHERE c.conrelid = relation AND c.contype IN ('p', 'u', 'x', 'c', 'f')
    UNION ALL
    SELECT 'index', i.relname, x.indisunique, NULL,
           -- "CREATE [UNIQUE] INDEX name ON table USING ...": what stands before USING is known to the letter.
           substr(pg_get_indexdef(i.oid), length(format('CREATE %sINDEX %I ON %s%s ', CASE WHEN x.indisunique THEN 'UNIQUE ' END,
                                                        i.relname, CASE i.relkind WHEN 'I' THEN 'ONLY ' END, relation)) + 1)
    FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid
    WHERE x.indrelid = relation AND NOT EXISTS (SELECT FROM pg_constraint AS c
                                                WHERE c.conindid = i.oid AND c.conrelid = relation AND c.contype IN ('p', 'u', 'x'))
$$;

CREATE FUNCTION citus_standin.definition_command(d citus_standin.definition, target_table text, suffix text, target text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE d.kind
        WHEN 'constraint' THEN format('ALTER TABLE %s ADD CONSTRAINT %I %s', target_table,
                                      CASE WHEN suffix = '' THEN d.name ELSE citus_standin.shard_relname(d.name, suffix::bigint) END,
                                      replace(d.body, '@target@', coalesce(target, '')))
        ELSE format('CREATE %sINDEX %I ON %s %s', CASE WHEN d.is_unique THEN 'UNIQUE ' END,
                    CASE WHEN suffix = '' THEN d.name ELSE citus_standin.shard_relname(d.name, suffix::bigint) END,
                    target_table, d.body) END
$$;

-- GRANTs of a table, to be repeated on another one.
CREATE FUNCTION citus_standin.grant_commands(relation regclass, target_table text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(string_agg(format('; GRANT %s ON %s TO %s%s', a.privilege_type, target_table,
                             CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
                             CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), ''), '')
    FROM pg_class AS c, aclexplode(c.relacl) AS a
    WHERE c.oid = relation AND a.grantee <> c.relowner
$$;

-- Everything that makes one shard: table, keys, indexes, foreign keys to shards beside it, grants.
CREATE FUNCTION citus_standin.shard_commands(relation regclass, shard bigint) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    commands text := format('CREATE TABLE %s (%s)', shard_name(relation, shard, false), citus_standin.column_list(relation, false));
    d citus_standin.definition;
    target text;
BEGIN
    FOR d IN SELECT * FROM citus_standin.definition WHERE logicalrelid = relation ORDER BY position LOOP
        target := NULL;
        IF d.refers_to IS NOT NULL THEN
            -- The shard with the same place in its table; a reference table has only one.
            SELECT shard_name(d.refers_to, s.shardid, false) INTO target
            FROM pg_dist_shard AS s
            WHERE s.logicalrelid = d.refers_to
              AND (s.shardminvalue IS NULL
                   OR s.shardminvalue = (SELECT own.shardminvalue FROM pg_dist_shard AS own WHERE own.shardid = shard));
        END IF;
        commands := commands || '; ' || citus_standin.definition_command(d, shard_name(relation, shard, false), shard::text, target);
    END LOOP;
    RETURN commands || citus_standin.grant_commands(relation, shard_name(relation, shard, false));
END $$;

CREATE FUNCTION citus_standin.owner_of(relation regclass) RETURNS name
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = relation
$$;

-- Insert into a foreign table in the name of another role, over that role's own session: a view's base is reached with
-- the rights and the user mapping of the view's owner. A superuser's session must not run an owner's code (checks,
-- expressions of indexes), and SET ROLE in such a session is no fence.
CREATE FUNCTION citus_standin.insert_as(role name, target text, columns text, query text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET citus_standin.own_work = 'on' AS $$
DECLARE
    door text := format('citus_standin.%I', 'door_' || pg_backend_pid());
BEGIN
    EXECUTE format('GRANT INSERT ON %s TO %I', target, role);
    EXECUTE format('CREATE VIEW %s AS SELECT * FROM %s', door, target);
    EXECUTE format('ALTER VIEW %s OWNER TO %I', door, role);
    EXECUTE format('INSERT INTO %s (%s) %s', door, columns, query);
    EXECUTE format('DROP VIEW %s', door);
END $$;

-- Make the foreign tables that carry a table's shards agree with pg_dist_shard and pg_dist_placement:
--   distributed by hash      one partition per shard
--   a single shard           the table itself is the foreign table, nothing to do here
--   reference (coordinator)  one foreign table per copy on a worker, for the triggers that forward writes
CREATE FUNCTION citus_standin.ensure_partitions(relation regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET citus_standin.own_work = 'on' AS $$
DECLARE
    shard record;
    part name;
    part_oid oid;
BEGIN
    FOR shard IN
        SELECT s.shardid, p.groupid, d.partmethod, c.relname, n.nspname, c.relowner,
               count(*) OVER () AS shards, row_number() OVER (ORDER BY s.shardminvalue::bigint) - 1 AS place
        FROM pg_dist_shard AS s
        JOIN pg_dist_partition AS d ON d.logicalrelid = s.logicalrelid
        JOIN pg_dist_placement AS p ON p.shardid = s.shardid
        JOIN pg_class AS c ON c.oid = s.logicalrelid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE s.logicalrelid = relation
          AND (c.relkind = 'p' OR d.repmodel = 't' AND c.relkind = 'r' AND p.groupid <> 0)
    LOOP
        part := citus_standin.shard_relname(shard.relname, shard.shardid);
        IF shard.partmethod <> 'h' THEN
            part := citus_standin.reference_copy(shard.shardid, shard.groupid);
        END IF;
        SELECT c.oid INTO part_oid FROM pg_class AS c WHERE c.relnamespace = 'citus_standin'::regnamespace AND c.relname = part;
        IF part_oid IS NOT NULL THEN
            CONTINUE WHEN EXISTS (SELECT FROM pg_foreign_table AS f JOIN pg_foreign_server AS s ON s.oid = f.ftserver
                                  WHERE f.ftrelid = part_oid AND s.srvname = citus_standin.server_name(shard.groupid));
            EXECUTE format('DROP FOREIGN TABLE citus_standin.%I', part);
        END IF;
        EXECUTE format('CREATE FOREIGN TABLE citus_standin.%I %s SERVER %I OPTIONS (schema_name %L, table_name %L)',
            part,
            CASE shard.partmethod WHEN 'h'
                THEN format('PARTITION OF %s FOR VALUES WITH (MODULUS %s, REMAINDER %s)', relation, shard.shards, shard.place)
                ELSE format('(%s)', citus_standin.column_list(relation, false)) END,
            citus_standin.server_name(shard.groupid), shard.nspname,
            citus_standin.shard_relname(shard.relname, shard.shardid));
        IF shard.partmethod <> 'h' THEN
            EXECUTE format('GRANT ALL ON citus_standin.%I TO PUBLIC', part);  -- the copy itself checks the rights
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION citus_standin.reference_copy(shardid bigint, groupid integer) RETURNS name
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('reference_%s_group_%s', shardid, groupid)::name
$$;
