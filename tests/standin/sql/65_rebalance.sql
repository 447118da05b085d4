-- Moving shards. Tables that are colocated move together. The stand-in blocks the tables while their shards
-- move; Citus would not (its transfer modes are taken as given and not told apart).

-- Shards that belong together: one row per colocation group and place in it.
CREATE VIEW citus_standin.shard_set AS
SELECT p.colocationid, p.logicalrelid, s.shardid, pl.groupid,
       row_number() OVER (PARTITION BY p.logicalrelid ORDER BY s.shardminvalue::bigint) - 1 AS place
FROM pg_dist_partition AS p JOIN pg_dist_shard AS s USING (logicalrelid) JOIN pg_dist_placement AS pl USING (shardid)
WHERE p.repmodel <> 't' AND p.colocationid <> 0;
GRANT SELECT ON citus_standin.shard_set TO PUBLIC;

CREATE FUNCTION citus_standin.primary_node(wanted_group integer) RETURNS pg_dist_node
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT n FROM pg_dist_node AS n WHERE groupid = wanted_group AND noderole = 'primary'
$$;

CREATE FUNCTION citus_standin.check_replica_identity(relation regclass, mode citus.shard_transfer_mode) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF mode = 'auto' AND NOT EXISTS (SELECT FROM citus_standin.definition AS d
                                     WHERE d.logicalrelid = relation AND d.kind = 'constraint' AND d.body LIKE 'PRIMARY KEY%') THEN
        RAISE EXCEPTION 'cannot use logical replication to transfer shards of the relation % since it doesn''t have a REPLICA IDENTITY or PRIMARY KEY',
            (SELECT relname FROM pg_class WHERE oid = relation)
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = 'UPDATE and DELETE commands on the shard will error out during logical replication unless there is a REPLICA IDENTITY or PRIMARY KEY.',
                  HINT = 'If you wish to continue without a replica identity set the shard_transfer_mode to ''force_logical'' or ''block_writes''.';
    END IF;
END $$;

CREATE FUNCTION citus_standin.move(shard bigint, source pg_dist_node, target pg_dist_node, mode citus.shard_transfer_mode) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET citus_standin.own_work = 'on' AS $$
DECLARE
    first citus_standin.shard_set;
    members citus_standin.shard_set[];
    member citus_standin.shard_set;
    columns text;
    fresh text;
    owner name;
BEGIN
    PERFORM citus_standin.require_coordinator();
    SELECT * INTO first FROM citus_standin.shard_set WHERE shardid = shard;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'could not find valid entry for shard %', shard USING ERRCODE = 'internal_error';
    END IF;
    IF first.groupid = target.groupid AND source.groupid <> target.groupid THEN
        RETURN;  -- already there, as in Citus
    END IF;
    IF first.groupid <> source.groupid THEN
        RAISE EXCEPTION 'could not find placement matching "%:%"', source.nodename, source.nodeport
            USING ERRCODE = 'internal_error', HINT = 'Confirm the placement still exists and try again.';
    END IF;
    IF source.groupid = target.groupid THEN
        RAISE EXCEPTION 'cannot move shard to the same node' USING ERRCODE = 'feature_not_supported';
    END IF;
    IF target.noderole <> 'primary' OR NOT target.isactive THEN
        RAISE EXCEPTION 'Moving shards to a non-active or secondary node is not supported' USING ERRCODE = 'feature_not_supported';
    END IF;
    IF EXISTS (SELECT FROM pg_dist_partition AS p JOIN pg_dist_shard AS s USING (logicalrelid)
               WHERE p.repmodel = 't' AND NOT EXISTS (SELECT FROM pg_dist_placement AS o WHERE o.shardid = s.shardid AND o.groupid = target.groupid)) THEN
        RAISE EXCEPTION 'there are missing reference tables on some nodes'
            USING ERRCODE = 'internal_error',
                  HINT = 'Copy reference tables first with replicate_reference_tables() or use citus_rebalance_start() that will do it automatically.';
    END IF;

    -- Referenced tables before those that refer to them.
    SELECT array_agg(m ORDER BY (
               SELECT count(*) FROM citus_standin.definition AS d JOIN pg_dist_partition AS p ON p.logicalrelid = d.refers_to
               WHERE d.logicalrelid = m.logicalrelid AND d.refers_to <> m.logicalrelid AND p.repmodel <> 't'), m.shardid)
    INTO members
    FROM citus_standin.shard_set AS m WHERE m.colocationid = first.colocationid AND m.place = first.place;

    FOREACH member IN ARRAY members LOOP
        PERFORM citus_standin.require_owner(member.logicalrelid);
        PERFORM citus_standin.check_replica_identity(member.logicalrelid, mode);
        -- Rows that this transaction wrote itself would not be seen by the fresh session below.
        IF EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = pg_backend_pid() AND l.relation = member.logicalrelid AND l.mode = 'RowExclusiveLock') THEN
            RAISE EXCEPTION 'cannot move a shard of % in a transaction that wrote to it', member.logicalrelid
                USING ERRCODE = 'active_sql_transaction';
        END IF;
        IF (SELECT relkind FROM pg_class WHERE oid = member.logicalrelid) = 'p' THEN
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', member.logicalrelid);
        ELSE
            EXECUTE format('ALTER FOREIGN TABLE %s OPTIONS (SET table_name %L)', member.logicalrelid,
                           citus_standin.shard_relname((SELECT relname FROM pg_class WHERE oid = member.logicalrelid), member.shardid));
        END IF;
    END LOOP;

    FOREACH member IN ARRAY members LOOP
        -- Sessions on workers write to shards directly: hold them back, too.
        PERFORM citus_standin.run_on_group(source.groupid,
            format('LOCK TABLE %s IN EXCLUSIVE MODE', shard_name(member.logicalrelid, member.shardid, false)));
        owner := citus_standin.owner_of(member.logicalrelid);
        PERFORM citus_standin.insert_as(owner, format('citus_standin.%I', 'command_' || target.groupid), 'command',
                                        format('VALUES (%L)', citus_standin.shard_commands(member.logicalrelid, member.shardid)));
        columns := citus_standin.copied_columns(member.logicalrelid);
        SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum) INTO fresh
        FROM pg_attribute WHERE attrelid = member.logicalrelid AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
        EXECUTE format('CREATE FOREIGN TABLE citus_standin.%I (%s) SERVER %I OPTIONS (schema_name %L, table_name %L)',
                       'moving_' || member.shardid, fresh, citus_standin.server_name(target.groupid),
                       (SELECT nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = member.logicalrelid),
                       citus_standin.shard_relname((SELECT relname FROM pg_class WHERE oid = member.logicalrelid), member.shardid));
        -- Read by a new session, because the snapshot of one in use may be older than the locks.
        PERFORM citus_standin.insert_as(owner, format('citus_standin.%I', 'moving_' || member.shardid), columns, format(
            'SELECT * FROM citus_standin.dblink(%L, %L) AS source (%s)',
            citus_standin.conninfo(source.nodeid, source.nodename, source.nodeport),
            format('SELECT %s FROM %s', columns, shard_name(member.logicalrelid, member.shardid, false)), fresh));
        EXECUTE format('DROP FOREIGN TABLE citus_standin.%I', 'moving_' || member.shardid);
    END LOOP;
    FOR i IN REVERSE cardinality(members) .. 1 LOOP
        member := members[i];
        PERFORM citus_standin.run_on_group(source.groupid, format('DROP TABLE %s', shard_name(member.logicalrelid, member.shardid, false)));
        UPDATE pg_dist_placement SET groupid = target.groupid, placementid = nextval('pg_dist_placement_placementid_seq')
        WHERE shardid = member.shardid;
        IF (SELECT relkind FROM pg_class WHERE oid = member.logicalrelid) = 'p' THEN
            PERFORM citus_standin.ensure_partitions(member.logicalrelid);
        ELSE
            PERFORM citus_standin.ensure_single_shard(member.logicalrelid);
        END IF;
    END LOOP;
    PERFORM citus_standin.publish();
END $$;

CREATE FUNCTION citus_standin.node_by_id(id integer) RETURNS pg_dist_node
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    node pg_dist_node;
BEGIN
    SELECT * INTO node FROM pg_dist_node WHERE nodeid = id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'node % not found', id USING ERRCODE = 'no_data_found';
    END IF;
    RETURN node;
END $$;

CREATE FUNCTION pg_catalog.citus_move_shard_placement(shard_id bigint, source_node_name text, source_node_port integer,
        target_node_name text, target_node_port integer, shard_transfer_mode citus.shard_transfer_mode DEFAULT 'auto') RETURNS void
    LANGUAGE sql STRICT SET search_path = pg_catalog, pg_temp AS
    'SELECT citus_standin.move($1, citus_standin.find_node($2, $3), citus_standin.find_node($4, $5), $6)';
CREATE FUNCTION pg_catalog.citus_move_shard_placement(shard_id bigint, source_node_id integer, target_node_id integer,
        transfer_mode citus.shard_transfer_mode DEFAULT 'auto') RETURNS void
    LANGUAGE sql STRICT SET search_path = pg_catalog, pg_temp AS
    'SELECT citus_standin.move($1, citus_standin.node_by_id($2), citus_standin.node_by_id($3), $4)';

-- The strategies that Citus ships. Costs are counted in shards here: the shards of a laboratory are small, and
-- by_disk_size adds 100 MB to each.
CREATE FUNCTION pg_catalog.citus_shard_cost_1(bigint) RETURNS real LANGUAGE sql AS 'SELECT 1.0::real';
CREATE FUNCTION pg_catalog.citus_shard_cost_by_disk_size(bigint) RETURNS real LANGUAGE sql STRICT AS 'SELECT 1.0::real';
CREATE FUNCTION pg_catalog.citus_node_capacity_1(integer) RETURNS real LANGUAGE sql AS 'SELECT 1.0::real';
CREATE FUNCTION pg_catalog.citus_shard_allowed_on_node_true(bigint, integer) RETURNS boolean LANGUAGE sql AS 'SELECT true';
INSERT INTO pg_dist_rebalance_strategy VALUES
    ('by_shard_count', false, 'citus_shard_cost_1', 'citus_node_capacity_1', 'citus_shard_allowed_on_node_true', 0, 0, 0),
    ('by_disk_size', true, 'citus_shard_cost_by_disk_size', 'citus_node_capacity_1', 'citus_shard_allowed_on_node_true', 0.1, 0.01, 0.5);

-- Which sets of shards should go where. First away from nodes that should hold none, then from the fullest
-- node to the emptiest, until every node is within the threshold of the average.
CREATE FUNCTION citus_standin.plan(relation regclass, wanted_threshold real, max_moves integer, excluded bigint[], drain_only boolean,
        strategy name) RETURNS TABLE (colocationid integer, place bigint, source integer, target integer)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    targets integer[] := citus_standin.target_groups();
    loads integer[] := array_fill(0, ARRAY[greatest(cardinality(citus_standin.target_groups()), 1)]);
    colocations integer[];
    places bigint[];
    groups integer[];
    limits record;
    tolerance real;
    average real;
    i integer;
    fullest integer;
    emptiest integer;
    moves integer := 0;
BEGIN
    SELECT default_threshold, minimum_threshold INTO limits FROM pg_dist_rebalance_strategy
    WHERE CASE WHEN strategy IS NULL THEN default_strategy ELSE name = strategy END;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'could not find rebalance strategy with name %', strategy USING ERRCODE = 'internal_error';
    END IF;
    tolerance := greatest(coalesce(wanted_threshold, limits.default_threshold), limits.minimum_threshold);
    SELECT array_agg(s.colocationid ORDER BY s.colocationid, s.place), array_agg(s.place ORDER BY s.colocationid, s.place),
           array_agg(s.groupid ORDER BY s.colocationid, s.place)
    INTO colocations, places, groups
    FROM (SELECT m.colocationid, m.place, min(m.groupid) AS groupid FROM citus_standin.shard_set AS m
          WHERE relation IS NULL OR m.colocationid = (SELECT p.colocationid FROM pg_dist_partition AS p WHERE p.logicalrelid = relation)
          GROUP BY m.colocationid, m.place HAVING NOT array_agg(m.shardid) && coalesce(excluded, '{}')) AS s;
    IF groups IS NULL OR cardinality(targets) = 0 THEN
        RETURN;
    END IF;
    FOR i IN 1 .. cardinality(groups) LOOP
        IF groups[i] = ANY (targets) THEN
            loads[array_position(targets, groups[i])] := loads[array_position(targets, groups[i])] + 1;
        END IF;
    END LOOP;
    FOR i IN 1 .. cardinality(groups) LOOP
        CONTINUE WHEN groups[i] = ANY (targets) OR moves >= max_moves;
        SELECT k INTO emptiest FROM generate_subscripts(loads, 1) AS k ORDER BY loads[k], k LIMIT 1;
        colocationid := colocations[i]; place := places[i]; source := groups[i]; target := targets[emptiest];
        RETURN NEXT;
        moves := moves + 1;
        groups[i] := target;
        loads[emptiest] := loads[emptiest] + 1;
    END LOOP;
    average := cardinality(groups)::real / cardinality(targets);
    WHILE NOT drain_only AND moves < max_moves LOOP
        SELECT k INTO fullest FROM generate_subscripts(loads, 1) AS k ORDER BY loads[k] DESC, k LIMIT 1;
        SELECT k INTO emptiest FROM generate_subscripts(loads, 1) AS k ORDER BY loads[k], k LIMIT 1;
        EXIT WHEN loads[emptiest] + 1 >= loads[fullest]
               OR loads[fullest] <= average * (1 + tolerance) AND loads[emptiest] >= average * (1 - tolerance);
        i := array_position(groups, targets[fullest]);
        colocationid := colocations[i]; place := places[i]; source := groups[i]; target := targets[emptiest];
        RETURN NEXT;
        moves := moves + 1;
        groups[i] := target;
        loads[fullest] := loads[fullest] - 1;
        loads[emptiest] := loads[emptiest] + 1;
    END LOOP;
END $$;

CREATE FUNCTION pg_catalog.get_rebalance_table_shards_plan(relation regclass DEFAULT NULL, threshold real DEFAULT NULL,
        max_shard_moves integer DEFAULT 1000000, excluded_shard_list bigint[] DEFAULT '{}', drain_only boolean DEFAULT false,
        rebalance_strategy name DEFAULT NULL, improvement_threshold real DEFAULT NULL)
    RETURNS TABLE (table_name regclass, shardid bigint, shard_size bigint, sourcename text, sourceport integer, targetname text, targetport integer)
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT m.logicalrelid, m.shardid, 0::bigint, (citus_standin.primary_node(plan.source)).nodename, (citus_standin.primary_node(plan.source)).nodeport,
           (citus_standin.primary_node(plan.target)).nodename, (citus_standin.primary_node(plan.target)).nodeport
    FROM citus_standin.plan(relation, threshold, max_shard_moves, excluded_shard_list, drain_only, rebalance_strategy) WITH ORDINALITY AS plan
    JOIN citus_standin.shard_set AS m ON m.colocationid = plan.colocationid AND m.place = plan.place
    ORDER BY plan.ordinality, m.shardid
$$;

-- One shard of each set stands for the set: moving it moves all.
CREATE FUNCTION citus_standin.planned_moves(relation regclass, threshold real, max_moves integer, excluded bigint[], drain_only boolean, strategy name)
    RETURNS TABLE (number bigint, shardid bigint, logicalrelid regclass, source integer, target integer)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT DISTINCT ON (plan.ordinality) plan.ordinality, m.shardid, m.logicalrelid, plan.source, plan.target
    FROM citus_standin.plan(relation, threshold, max_moves, excluded, drain_only, strategy) WITH ORDINALITY AS plan
    JOIN citus_standin.shard_set AS m ON m.colocationid = plan.colocationid AND m.place = plan.place
    ORDER BY plan.ordinality, m.shardid
$$;

CREATE FUNCTION pg_catalog.rebalance_table_shards(relation regclass DEFAULT NULL, threshold real DEFAULT NULL, max_shard_moves integer DEFAULT 1000000,
        excluded_shard_list bigint[] DEFAULT '{}', shard_transfer_mode citus.shard_transfer_mode DEFAULT 'auto', drain_only boolean DEFAULT false,
        rebalance_strategy name DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    step record;
    source pg_dist_node;
    target pg_dist_node;
BEGIN
    PERFORM citus_standin.require_coordinator();
    PERFORM citus_standin.bring_reference_tables();
    FOR step IN SELECT * FROM citus_standin.planned_moves(relation, threshold, max_shard_moves, excluded_shard_list, drain_only, rebalance_strategy)
                ORDER BY number LOOP
        source := citus_standin.primary_node(step.source);
        target := citus_standin.primary_node(step.target);
        RAISE NOTICE 'Moving shard % from %:% to %:% ...', step.shardid, source.nodename, source.nodeport, target.nodename, target.nodeport;
        PERFORM citus_standin.move(step.shardid, source, target, shard_transfer_mode);
    END LOOP;
END $$;

CREATE FUNCTION citus_standin.bring_reference_tables() RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
    'SELECT citus_standin.replicate_reference_tables()';

CREATE FUNCTION pg_catalog.citus_drain_node(nodename text, nodeport integer, shard_transfer_mode citus.shard_transfer_mode DEFAULT 'auto',
        rebalance_strategy name DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM citus_standin.require_coordinator();
    IF NOT EXISTS (SELECT FROM pg_dist_node AS n WHERE n.nodename = citus_drain_node.nodename AND n.nodeport = citus_drain_node.nodeport) THEN
        RAISE EXCEPTION 'node %:% not found', nodename, nodeport USING ERRCODE = 'no_data_found';
    END IF;
    PERFORM citus_set_node_property(nodename, nodeport, 'shouldhaveshards', false);
    PERFORM rebalance_table_shards(shard_transfer_mode => shard_transfer_mode, drain_only => true, rebalance_strategy => rebalance_strategy);
END $$;

-- Background rebalance: a job with a task per move, run by a second session of this server.

CREATE FUNCTION citus_standin.current_rebalance() RETURNS bigint
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT max(job_id) FROM pg_dist_background_job
    WHERE job_type = 'rebalance' AND state IN ('scheduled', 'running', 'cancelling', 'failing')
$$;

CREATE FUNCTION citus_standin.make_job(strategy name, drain_only boolean, mode citus.shard_transfer_mode) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    id bigint := nextval('pg_dist_background_job_job_id_seq');
    moves integer;
BEGIN
    INSERT INTO pg_dist_background_job (job_id, job_type, description) VALUES (id, 'rebalance', 'Rebalance all colocation groups');
    INSERT INTO pg_dist_background_task (job_id, owner, status, command, retry_count, nodes_involved)
    SELECT id, citus_standin.caller()::text::regrole, CASE number WHEN 1 THEN 'runnable' ELSE 'blocked' END::citus_task_status,
           format('SELECT pg_catalog.citus_move_shard_placement(%s,%s,%s,%L)', shardid,
                  (citus_standin.primary_node(source)).nodeid, (citus_standin.primary_node(target)).nodeid, mode), 0,
           ARRAY[(citus_standin.primary_node(source)).nodeid, (citus_standin.primary_node(target)).nodeid]
    FROM citus_standin.planned_moves(NULL, NULL, 1000000, '{}', drain_only, strategy) ORDER BY number;
    GET DIAGNOSTICS moves = ROW_COUNT;
    IF moves = 0 THEN
        DELETE FROM pg_dist_background_job WHERE job_id = id;
        RETURN NULL;
    END IF;
    INSERT INTO pg_dist_background_task_depend
    SELECT id, task_id, previous FROM (SELECT task_id, lag(task_id) OVER (ORDER BY task_id) AS previous FROM pg_dist_background_task WHERE job_id = id) AS t
    WHERE previous IS NOT NULL;
    PERFORM citus_standin.start_in_background(format('CALL citus_standin.run_job(%s)', id));
    RETURN id;
END $$;

CREATE FUNCTION pg_catalog.citus_rebalance_start(rebalance_strategy name DEFAULT NULL, drain_only boolean DEFAULT false,
        shard_transfer_mode citus.shard_transfer_mode DEFAULT 'auto', parallel_transfer_reference_tables boolean DEFAULT false,
        parallel_transfer_colocated_shards boolean DEFAULT false) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    id bigint := citus_standin.current_rebalance();
    moves bigint;
BEGIN
    PERFORM citus_standin.require_coordinator();
    IF id IS NOT NULL THEN
        RAISE EXCEPTION 'A rebalance is already running as job %', id
            USING ERRCODE = 'internal_error', DETAIL = 'A rebalance was already scheduled as background job',
                  HINT = 'To monitor progress, run: SELECT * FROM citus_rebalance_status();';
    END IF;
    PERFORM citus_standin.check_replica_identity(p.table_name, shard_transfer_mode)
    FROM get_rebalance_table_shards_plan(drain_only => citus_rebalance_start.drain_only, rebalance_strategy => citus_rebalance_start.rebalance_strategy) AS p;
    PERFORM citus_standin.require_owner(p.logicalrelid) FROM pg_dist_partition AS p WHERE p.repmodel <> 't';
    PERFORM citus_standin.bring_reference_tables();
    id := citus_standin.make_job(rebalance_strategy, drain_only, shard_transfer_mode);
    IF id IS NULL THEN
        RAISE NOTICE 'No moves available for rebalancing';
        RETURN NULL;
    END IF;
    SELECT count(*) INTO moves FROM pg_dist_background_task WHERE job_id = id;
    RAISE NOTICE 'Scheduled % moves as job %', moves, id
        USING DETAIL = 'Rebalance scheduled as background job',
              HINT = 'To monitor progress, run: SELECT * FROM citus_rebalance_status();';
    RETURN id;
END $$;

CREATE FUNCTION citus_standin.try_task(task bigint) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    todo pg_dist_background_task;
BEGIN
    SELECT * INTO todo FROM pg_dist_background_task WHERE task_id = task;
    BEGIN
        EXECUTE format('SET LOCAL ROLE %s', todo.owner);
        EXECUTE todo.command;
        SET LOCAL ROLE NONE;
        UPDATE pg_dist_background_task SET status = 'done', pid = NULL WHERE task_id = task;
        RETURN true;
    EXCEPTION WHEN OTHERS THEN
        UPDATE pg_dist_background_task SET status = 'error', pid = NULL, message = 'ERROR: ' || SQLERRM WHERE task_id = task;
        RETURN false;
    END;
END $$;

CREATE PROCEDURE citus_standin.run_job(id bigint)
    LANGUAGE plpgsql AS $$
DECLARE
    task bigint;
    ok boolean := true;
    stop boolean := false;
BEGIN
    IF NOT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtext('citus_standin.job'), id::integer) THEN
        RETURN;  -- another session runs it already
    END IF;
    PERFORM citus_standin.wait_for_starter();
    COMMIT;
    UPDATE pg_catalog.pg_dist_background_job SET state = 'running', started_at = coalesce(started_at, pg_catalog.clock_timestamp())
    WHERE job_id = id AND state = 'scheduled';
    COMMIT;
    LOOP
        SELECT state IN ('cancelling', 'cancelled') INTO stop FROM pg_catalog.pg_dist_background_job WHERE job_id = id;
        SELECT min(task_id) INTO task FROM pg_catalog.pg_dist_background_task WHERE job_id = id AND status IN ('runnable', 'blocked', 'running');
        EXIT WHEN stop IS NOT false OR task IS NULL;
        UPDATE pg_catalog.pg_dist_background_task SET status = 'running', pid = pg_catalog.pg_backend_pid() WHERE task_id = task;
        COMMIT;
        ok := citus_standin.try_task(task);
        COMMIT;
        EXIT WHEN NOT ok;
    END LOOP;
    UPDATE pg_catalog.pg_dist_background_task SET pid = NULL,
        status = CASE WHEN stop THEN 'cancelled' ELSE 'unscheduled' END::pg_catalog.citus_task_status
    WHERE job_id = id AND status IN ('runnable', 'blocked', 'running');
    UPDATE pg_catalog.pg_dist_background_job SET finished_at = pg_catalog.clock_timestamp(),
        state = CASE WHEN stop THEN 'cancelled' WHEN ok THEN 'finished' ELSE 'failed' END::pg_catalog.citus_job_status
    WHERE job_id = id;
    COMMIT;
END $$;

-- A job whose session died (a restart, a failover) is taken up again by whoever looks.
CREATE FUNCTION citus_standin.revive() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    id bigint := citus_standin.current_rebalance();
BEGIN
    IF id IS NOT NULL AND NOT pg_is_in_recovery() AND citus_standin.local_group() = 0 AND NOT EXISTS (
        SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = hashtext('citus_standin.job')::bigint & 4294967295 AND objid = id::integer) THEN
        PERFORM citus_standin.start_in_background(format('CALL citus_standin.run_job(%s)', id));
    END IF;
END $$;

CREATE FUNCTION pg_catalog.citus_job_wait(jobid bigint, desired_status citus_job_status DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now_is citus_job_status;
BEGIN
    LOOP
        SELECT state INTO now_is FROM pg_dist_background_job WHERE job_id = jobid;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'no job found with job id: %', jobid USING ERRCODE = 'internal_error';
        END IF;
        IF now_is = desired_status OR now_is IN ('finished', 'cancelled', 'failed') THEN
            IF desired_status IS NOT NULL AND now_is <> desired_status THEN
                RAISE EXCEPTION 'Job reached terminal state "%" instead of desired state "%"', now_is, desired_status USING ERRCODE = 'internal_error';
            END IF;
            RETURN;
        END IF;
        PERFORM pg_sleep(0.1);
    END LOOP;
END $$;

CREATE FUNCTION pg_catalog.citus_rebalance_wait() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    id bigint := citus_standin.current_rebalance();
BEGIN
    IF id IS NULL THEN
        RAISE WARNING 'no ongoing rebalance that can be waited on';
        RETURN;
    END IF;
    PERFORM citus_standin.revive();
    PERFORM citus_job_wait(id);
END $$;

CREATE FUNCTION pg_catalog.citus_job_cancel(jobid bigint) RETURNS void
    LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_dist_background_task WHERE job_id = jobid) THEN
        RAISE EXCEPTION 'no job found with job id: %', jobid USING ERRCODE = 'internal_error';
    END IF;
    IF EXISTS (SELECT FROM pg_dist_background_task AS t WHERE t.job_id = jobid AND NOT pg_has_role(citus_standin.caller(), t.owner, 'USAGE')) THEN
        RAISE EXCEPTION 'must be a member of the role whose job is being cancelled' USING ERRCODE = 'insufficient_privilege';
    END IF;
    UPDATE pg_dist_background_job SET state = 'cancelling' WHERE job_id = jobid AND state IN ('scheduled', 'running');
    PERFORM citus_standin.revive();
END $$;

CREATE FUNCTION pg_catalog.citus_rebalance_stop() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    id bigint := citus_standin.current_rebalance();
BEGIN
    IF id IS NULL THEN
        RAISE EXCEPTION 'no ongoing rebalance that can be stopped' USING ERRCODE = 'internal_error';
    END IF;
    PERFORM citus_job_cancel(id);
END $$;

CREATE FUNCTION pg_catalog.citus_job_list()
    RETURNS TABLE (job_id bigint, state citus_job_status, job_type name, description text, started_at timestamptz, finished_at timestamptz)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS
    'SELECT job_id, state, job_type, description, started_at, finished_at FROM pg_dist_background_job ORDER BY job_id';

CREATE FUNCTION pg_catalog.citus_job_status(job_id bigint, raw boolean DEFAULT false)
    RETURNS TABLE (job_id bigint, state citus_job_status, job_type name, description text, started_at timestamptz, finished_at timestamptz, details jsonb)
    LANGUAGE sql STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT j.job_id, j.state, j.job_type, j.description, j.started_at, j.finished_at, jsonb_build_object(
        'tasks', coalesce((SELECT jsonb_agg(jsonb_build_object('state', t.status, 'task_id', t.task_id, 'command', t.command,
                                                               'message', t.message, 'retried', t.retry_count) ORDER BY t.task_id)
                           FROM pg_dist_background_task AS t WHERE t.job_id = j.job_id AND t.status IN ('running', 'error')), '[]'),
        'task_state_counts', (SELECT jsonb_object_agg(c.status, c.count) FROM (
                                  SELECT t.status, count(*) FROM pg_dist_background_task AS t WHERE t.job_id = j.job_id GROUP BY t.status) AS c))
    FROM pg_dist_background_job AS j WHERE j.job_id = $1
$$;

CREATE FUNCTION pg_catalog.citus_rebalance_status(raw boolean DEFAULT false)
    RETURNS TABLE (job_id bigint, state citus_job_status, job_type name, description text, started_at timestamptz, finished_at timestamptz, details jsonb)
    LANGUAGE sql STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT citus_standin.revive();
    SELECT s.* FROM (SELECT max(j.job_id) AS id FROM pg_dist_background_job AS j WHERE j.job_type = 'rebalance') AS last,
                    citus_job_status(last.id, $1) AS s
$$;

-- Moves show in the registry when they are done; there is no progress in between.
CREATE FUNCTION pg_catalog.get_rebalance_progress()
    RETURNS TABLE (sessionid integer, table_name regclass, shardid bigint, shard_size bigint, sourcename text, sourceport integer,
                   targetname text, targetport integer, progress bigint, source_shard_size bigint, target_shard_size bigint,
                   operation_type text, source_lsn pg_lsn, target_lsn pg_lsn, status text)
    LANGUAGE sql STRICT AS $$
    SELECT NULL::integer, NULL::regclass, NULL::bigint, NULL::bigint, NULL::text, NULL::integer, NULL::text, NULL::integer,
           NULL::bigint, NULL::bigint, NULL::bigint, NULL::text, NULL::pg_lsn, NULL::pg_lsn, NULL::text WHERE false
$$;

-- Nothing is left behind for later: a move drops its source in the same transaction.
CREATE PROCEDURE pg_catalog.citus_cleanup_orphaned_resources() LANGUAGE plpgsql AS 'BEGIN END';
CREATE PROCEDURE pg_catalog.citus_cleanup_orphaned_shards() LANGUAGE plpgsql AS 'BEGIN END';
