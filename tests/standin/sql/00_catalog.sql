\echo Use "CREATE EXTENSION citus" to load this file. \quit

-- The files are in the order of a reader, functions may call what comes later.
SET LOCAL check_function_bodies = off;

-- The catalogue that clients read. Names, types and grants are those of Citus 14.0: this is the
-- contract. What the stand-in needs besides lives in the schema citus_standin.
CREATE SCHEMA citus;
CREATE SCHEMA citus_internal;
CREATE SCHEMA citus_standin;
GRANT USAGE ON SCHEMA citus, citus_standin TO PUBLIC;

CREATE TYPE citus.distribution_type AS ENUM ('hash', 'range', 'append');
CREATE TYPE citus.shard_transfer_mode AS ENUM ('auto', 'force_logical', 'block_writes');
CREATE TYPE pg_catalog.noderole AS ENUM ('primary', 'secondary', 'unavailable');
CREATE TYPE pg_catalog.citus_job_status AS ENUM
    ('scheduled', 'running', 'finished', 'cancelling', 'cancelled', 'failing', 'failed');
CREATE TYPE pg_catalog.citus_task_status AS ENUM
    ('blocked', 'runnable', 'running', 'done', 'cancelling', 'error', 'unscheduled', 'cancelled');

CREATE SEQUENCE citus.pg_dist_shardid_seq MINVALUE 102008 NO CYCLE;
CREATE SEQUENCE citus.pg_dist_placement_placementid_seq NO CYCLE;
CREATE SEQUENCE citus.pg_dist_groupid_seq MAXVALUE 4294967296 NO CYCLE;
CREATE SEQUENCE citus.pg_dist_node_nodeid_seq MAXVALUE 4294967294 NO CYCLE;
CREATE SEQUENCE citus.pg_dist_colocationid_seq MAXVALUE 4294967296 NO CYCLE;
CREATE SEQUENCE citus.pg_dist_background_job_job_id_seq NO CYCLE;
CREATE SEQUENCE citus.pg_dist_background_task_task_id_seq NO CYCLE;

CREATE TABLE citus.pg_dist_node (
    nodeid integer NOT NULL DEFAULT nextval('citus.pg_dist_node_nodeid_seq') PRIMARY KEY,
    groupid integer NOT NULL DEFAULT nextval('citus.pg_dist_groupid_seq'),
    nodename text NOT NULL,
    nodeport integer NOT NULL DEFAULT 5432,
    noderack text NOT NULL DEFAULT 'default',
    hasmetadata boolean NOT NULL DEFAULT false,
    isactive boolean NOT NULL DEFAULT true,
    noderole noderole NOT NULL DEFAULT 'primary',
    nodecluster name NOT NULL DEFAULT 'default',
    metadatasynced boolean DEFAULT false,
    shouldhaveshards boolean NOT NULL DEFAULT true,
    nodeisclone boolean NOT NULL DEFAULT false,
    nodeprimarynodeid integer NOT NULL DEFAULT 0,
    UNIQUE (nodename, nodeport)
);
CREATE TABLE citus.pg_dist_local_group (groupid integer NOT NULL PRIMARY KEY);
INSERT INTO citus.pg_dist_local_group VALUES (0);
CREATE TABLE citus.pg_dist_partition (
    logicalrelid regclass NOT NULL,
    partmethod "char" NOT NULL,
    partkey text,
    colocationid integer NOT NULL DEFAULT 0,
    repmodel "char" NOT NULL DEFAULT 'c',
    autoconverted boolean DEFAULT false
);
CREATE UNIQUE INDEX pg_dist_partition_logical_relid_index ON citus.pg_dist_partition (logicalrelid);
CREATE INDEX pg_dist_partition_colocationid_index ON citus.pg_dist_partition (colocationid);
CREATE TABLE citus.pg_dist_shard (
    logicalrelid regclass NOT NULL,
    shardid bigint NOT NULL,
    shardstorage "char" NOT NULL,
    shardminvalue text,
    shardmaxvalue text
);
CREATE UNIQUE INDEX pg_dist_shard_shardid_index ON citus.pg_dist_shard (shardid);
CREATE INDEX pg_dist_shard_logical_relid_index ON citus.pg_dist_shard (logicalrelid);
CREATE TABLE citus.pg_dist_placement (
    placementid bigint NOT NULL DEFAULT nextval('citus.pg_dist_placement_placementid_seq'),
    shardid bigint NOT NULL,
    shardstate integer NOT NULL,
    shardlength bigint NOT NULL,
    groupid integer NOT NULL
);
CREATE UNIQUE INDEX pg_dist_placement_placementid_index ON citus.pg_dist_placement (placementid);
CREATE UNIQUE INDEX placement_shardid_groupid_unique_index ON citus.pg_dist_placement (shardid, groupid);
CREATE INDEX pg_dist_placement_groupid_index ON citus.pg_dist_placement (groupid);
CREATE TABLE citus.pg_dist_colocation (
    colocationid integer NOT NULL PRIMARY KEY,
    shardcount integer NOT NULL,
    replicationfactor integer NOT NULL,
    distributioncolumntype oid NOT NULL,
    distributioncolumncollation oid NOT NULL
);
CREATE TABLE citus.pg_dist_schema (
    schemaid oid NOT NULL PRIMARY KEY,
    colocationid integer NOT NULL UNIQUE
);
CREATE TABLE citus.pg_dist_authinfo (
    nodeid integer NOT NULL,
    rolename name NOT NULL,
    authinfo text NOT NULL
);
CREATE UNIQUE INDEX pg_dist_authinfo_identification_index ON citus.pg_dist_authinfo (rolename, nodeid DESC);
CREATE TABLE citus.pg_dist_poolinfo (nodeid integer NOT NULL PRIMARY KEY, poolinfo text NOT NULL);
CREATE TABLE citus.pg_dist_node_metadata (metadata jsonb NOT NULL);
INSERT INTO citus.pg_dist_node_metadata
SELECT jsonb_build_object('server_id', gen_random_uuid(), 'last_upgrade_version', '14.0-1',
                          'partitioned_citus_table_exists_pre_11', false);
CREATE TABLE citus.pg_dist_cleanup (
    record_id bigint NOT NULL PRIMARY KEY,
    operation_id bigint NOT NULL,
    object_type integer NOT NULL,
    object_name text NOT NULL,
    node_group_id integer NOT NULL,
    policy_type integer NOT NULL
);
CREATE TABLE citus.pg_dist_transaction (groupid integer NOT NULL, gid text NOT NULL, outer_xid xid8);
CREATE TABLE citus.pg_dist_background_job (
    job_id bigint NOT NULL DEFAULT nextval('citus.pg_dist_background_job_job_id_seq') PRIMARY KEY,
    state citus_job_status NOT NULL DEFAULT 'scheduled',
    job_type name NOT NULL,
    description text NOT NULL,
    started_at timestamptz,
    finished_at timestamptz
);
CREATE TABLE citus.pg_dist_background_task (
    job_id bigint NOT NULL REFERENCES citus.pg_dist_background_job (job_id),
    task_id bigint NOT NULL DEFAULT nextval('citus.pg_dist_background_task_task_id_seq') PRIMARY KEY,
    owner regrole NOT NULL DEFAULT (CURRENT_USER)::regrole,
    pid integer,
    status citus_task_status NOT NULL DEFAULT 'runnable',
    command text NOT NULL,
    retry_count integer,
    not_before timestamptz,
    message text NOT NULL DEFAULT '',
    nodes_involved integer[],
    UNIQUE (job_id, task_id)
);
CREATE TABLE citus.pg_dist_background_task_depend (
    job_id bigint NOT NULL,
    task_id bigint NOT NULL,
    depends_on bigint NOT NULL
);
CREATE TABLE citus.pg_dist_rebalance_strategy (
    name name NOT NULL UNIQUE,
    default_strategy boolean NOT NULL DEFAULT false,
    shard_cost_function regproc NOT NULL,
    node_capacity_function regproc NOT NULL,
    shard_allowed_on_node_function regproc NOT NULL,
    default_threshold real NOT NULL,
    minimum_threshold real NOT NULL DEFAULT 0,
    improvement_threshold real NOT NULL DEFAULT 0
);

-- Everything above belongs to pg_catalog, where nothing can be created directly. Readable by all but
-- pg_dist_authinfo, which may hold passwords.
DO $$
DECLARE
    relation record;
BEGIN
    FOR relation IN
        SELECT c.relname, c.relkind FROM pg_class c
        WHERE c.relnamespace = 'citus'::regnamespace AND c.relkind IN ('r', 'S')
    LOOP
        EXECUTE format('ALTER %s citus.%I SET SCHEMA pg_catalog',
                       CASE relation.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, relation.relname);
        IF relation.relname <> 'pg_dist_authinfo' THEN
            EXECUTE format('GRANT SELECT ON pg_catalog.%I TO PUBLIC', relation.relname);
        END IF;
    END LOOP;
END $$;

-- What PostgreSQL cannot keep on a partitioned table with foreign partitions, and shards must have:
-- keys, foreign keys and indexes. Table names in a body are the token @table@.
CREATE TABLE citus_standin.definition (
    logicalrelid regclass NOT NULL,
    position integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('constraint', 'index')),
    name name NOT NULL,
    is_unique boolean NOT NULL,
    refers_to regclass,
    body text NOT NULL,
    PRIMARY KEY (logicalrelid, kind, name)
);
GRANT SELECT ON citus_standin.definition TO PUBLIC;

-- A dump of the database must not carry one cluster's registry into another: no pg_extension_config_dump.
