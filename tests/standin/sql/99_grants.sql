-- Who may call what. Nothing in citus_standin is open unless it is named here: the functions that run with the
-- caller's rights, those that only read, and those that ask who the caller is.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA citus_standin FROM PUBLIC;
REVOKE EXECUTE ON ALL PROCEDURES IN SCHEMA citus_standin FROM PUBLIC;
DO $$
DECLARE
    open_to_all CONSTANT text[] := ARRAY[
        'alter_table', 'become_foreign', 'bring_reference_tables', 'caller', 'can_hash', 'carry_changes', 'carry_roles', 'check_distributable', 'check_foreign_keys',
        'check_keys', 'check_nothing_missed', 'check_replica_identity', 'check_saved_keys', 'collect', 'column_changes', 'column_list', 'copied_columns', 'copies', 'copy_rows', 'create_shards',
        'current_rebalance', 'definition_command', 'distribute', 'doomed_shards', 'drop_shards', 'ensure_partitions', 'find_node', 'forget_dropped',
        'forward_lock', 'forward_rows', 'forward_truncate', 'grant_commands', 'has_rows', 'hide_indexes', 'local_group', 'lock_registry', 'make_forward_triggers', 'make_job', 'move',
        'new_colocation', 'new_reference_colocation', 'node_by_id', 'on_alter', 'on_drop', 'on_grant', 'owner_of', 'partkey', 'plan', 'planned_moves',
        'prepare_workers', 'primary_node', 'publish', 'put_down_foreign_keys', 'put_up_foreign_keys', 'qualified', 'read_definition_array', 'read_definitions', 'rebuild', 'reference_copy', 'register', 'related_tables', 'remember_shape', 'rename_identity', 'renew_foreign_tables',
        'register_coordinator_if_empty', 'replicate_reference_tables', 'require_coordinator', 'require_owner', 'require_schema_owner', 'revive',
        'run_command', 'run_on_group', 'run_on_node', 'save_definitions', 'say_copied', 'schema_tables', 'server_name', 'set_schema_colocation', 'shard_commands',
        'shape_of', 'shard_of', 'shard_relname', 'show_indexes', 'size_of', 'sizes', 'table_type', 'target_groups', 'unregister_if_local', 'unregister_reference', 'with_shard_names', 'worker_groups'];
    superusers_only CONSTANT text[] := ARRAY[
        'citus_activate_node', 'citus_add_inactive_node', 'citus_add_node', 'citus_add_secondary_node', 'citus_disable_node', 'citus_drain_node',
        'citus_finalize_upgrade_to_citus11', 'citus_remove_node', 'citus_set_coordinator_host', 'citus_set_node_property', 'citus_update_node',
        'master_add_node', 'master_update_node', 'recover_prepared_transactions', 'replicate_reference_tables', 'start_metadata_sync_to_all_nodes',
        'start_metadata_sync_to_node', 'stop_metadata_sync_to_node',
        -- Open to all in Citus; here it would lend the superuser's certificate to any address.
        'citus_check_connection_to_node', 'citus_create_restore_point'];
    f record;
    found_names text[] := '{}';
BEGIN
    FOR f IN SELECT p.oid::regprocedure AS signature, p.proname, n.nspname FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
             WHERE n.nspname = 'citus_standin' AND p.proname = ANY (open_to_all)
                OR n.nspname = 'pg_catalog' AND p.proname = ANY (superusers_only) LOOP
        EXECUTE format(CASE f.nspname WHEN 'citus_standin' THEN 'GRANT EXECUTE ON FUNCTION %s TO PUBLIC'
                                      ELSE 'REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC' END, f.signature);
        found_names := found_names || f.proname::text;
    END LOOP;
    IF NOT (open_to_all || superusers_only) <@ found_names THEN
        RAISE EXCEPTION 'names without a function: %', (SELECT array_agg(n) FROM unnest(open_to_all || superusers_only) AS n WHERE n <> ALL (found_names));
    END IF;
END $$;
