# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The part of Citus' SQL interface that this collection relies on.

These tests pass on real Citus (that is what makes them a contract) and on the stand-in of
``tests/standin``. ``CITUS_HA_TEST_IMAGE`` says which; every run prints it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from citus_cluster import DATABASE, Cluster, citus_cluster

KEY_WITHOUT_DISTRIBUTION_COLUMN = (
    "Distributed relations cannot have UNIQUE, EXCLUDE, or PRIMARY KEY constraints that do not include the "
    "partition column (with an equality operator if EXCLUDE)."
)
ROWS = 1000


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A coordinator and two workers, registered; the role ``app`` owns the database, on each of them."""
    with citus_cluster(["worker1", "worker2"]) as running:
        # Citus repeats both on the workers by itself; the stand-in does not see them.
        for name in running.servers if running.is_standin else ["coordinator"]:
            running.sql("CREATE ROLE app LOGIN", server=name)
            running.sql(f"ALTER DATABASE {DATABASE} OWNER TO app", server=name)
        yield running


@pytest.fixture(autouse=True)
def clean(cluster: Cluster) -> Iterator[None]:
    """Every test starts with both workers taking shards, and leaves no table behind."""
    for name in ("worker1", "worker2"):
        cluster.sql("SELECT citus_set_node_property(%s, 5432, 'shouldhaveshards', true)", [name])
    cluster.sql("CREATE SCHEMA s AUTHORIZATION app")
    yield
    cluster.sql("DROP SCHEMA s CASCADE")
    cluster.sql("CALL citus_cleanup_orphaned_resources()")


def refused(cluster: Cluster, statement: str, values: Any = None, **connection: Any) -> tuple[str, str, str | None]:
    """(SQLSTATE, message, detail) of a statement that has to fail."""
    with pytest.raises(psycopg2.Error) as caught:
        cluster.sql(statement, values, **connection)
    diag = caught.value.diag
    return diag.sqlstate, diag.message_primary, diag.message_detail


def events(cluster: Cluster, name: str = "s.events", shards: int = 8, **connection: Any) -> None:
    """A distributed table with :data:`ROWS` rows."""
    cluster.sql(
        f"CREATE TABLE {name} (id bigserial, user_id int NOT NULL, kind text DEFAULT 'x', PRIMARY KEY (user_id, id))",
        **connection,
    )
    cluster.sql(f"SELECT create_distributed_table('{name}', 'user_id', shard_count => {shards})", **connection)
    cluster.sql(f"INSERT INTO {name} (user_id) SELECT generate_series(1, {ROWS})", **connection)


def groups_of(cluster: Cluster, table: str) -> dict[int, int]:
    """Citus group -> number of shards of the table on it."""
    return dict(
        cluster.sql(
            "SELECT groupid, count(*) FROM pg_dist_shard JOIN pg_dist_placement USING (shardid)"
            " WHERE logicalrelid = %s::regclass GROUP BY groupid",
            [table],
        )
    )


def rows_on_shards(cluster: Cluster, table: str) -> int:
    """Rows counted on the shards themselves, past the coordinator's table."""
    found = 0
    for shard, node in cluster.sql(
        "SELECT shard_name(logicalrelid, shardid), nodename FROM pg_dist_shard JOIN pg_dist_placement USING (shardid)"
        " JOIN pg_dist_node USING (groupid) WHERE logicalrelid = %s::regclass AND noderole = 'primary'",
        [table],
    ):
        # On the stand-in's coordinator a reference table is its own first copy.
        place = table if cluster.is_standin and node == "coordinator" else shard
        found += cluster.sql(f"SELECT count(*) FROM {place}", server=node)[0][0]
    return found


def tables_on_workers(cluster: Cluster, pattern: str) -> int:
    """How many relations with such a name the two workers hold."""
    question = "SELECT count(*) FROM pg_class WHERE relname LIKE %s"
    return sum(cluster.sql(question, [pattern], server=name)[0][0] for name in ("worker1", "worker2"))


def eventually(look: Any, timeout: float = 20.0) -> None:
    """Return as soon as ``look()`` is true."""
    deadline = time.monotonic() + timeout
    while not look():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


# ---- Nodes ------------------------------------------------------------------------------------


def test_registration(cluster: Cluster) -> None:
    assert cluster.nodes() == [
        (0, "primary", "coordinator", 5432, True, False),
        (1, "primary", "worker1", 5432, True, True),
        (2, "primary", "worker2", 5432, True, True),
    ]
    assert cluster.sql("SELECT bool_and(hasmetadata AND metadatasynced) FROM pg_dist_node") == [(True,)]
    before = cluster.sql("SELECT nodeid FROM pg_dist_node WHERE nodename = 'worker1'")
    assert cluster.sql("SELECT citus_add_node('worker1', 5432)") == before, "adding a node twice returns its id"
    assert sorted(cluster.sql("SELECT * FROM citus_get_active_worker_nodes()")) == [
        ("worker1", 5432),
        ("worker2", 5432),
    ]
    assert cluster.sql("SELECT citus_is_coordinator()") == [(True,)]


def test_workers_know_the_nodes(cluster: Cluster) -> None:
    truth = cluster.sql("SELECT nodeid, groupid, nodename FROM pg_dist_node ORDER BY 1")
    for group, name in enumerate(("worker1", "worker2"), start=1):
        assert cluster.sql("SELECT nodeid, groupid, nodename FROM pg_dist_node ORDER BY 1", server=name) == truth
        assert cluster.sql("SELECT groupid FROM pg_dist_local_group", server=name) == [(group,)]
        assert cluster.sql("SELECT citus_is_coordinator()", server=name) == [(False,)]


def test_secondaries_as_patroni_writes_them(cluster: Cluster) -> None:
    (node_id,) = cluster.sql("SELECT citus_add_node('standby1', 5432, 1, 'secondary', 'default')")[0]
    assert (1, "secondary", "standby1", 5432, True, True) in cluster.nodes()
    cluster.sql("SELECT citus_update_node(%s, 'standby2', 5433, true, 1000)", [node_id])
    assert (1, "secondary", "standby2", 5433, True, True) in cluster.nodes()
    eventually(
        lambda: cluster.sql("SELECT bool_and(metadatasynced) FROM pg_dist_node WHERE noderole = 'primary'") == [(True,)]
    )
    cluster.sql("SELECT citus_remove_node('standby2', 5433)")
    assert len(cluster.nodes()) == 3
    eventually(lambda: cluster.sql("SELECT count(*) FROM pg_dist_node", server="worker1") == [(3,)])


@pytest.mark.parametrize(
    ("statement", "sqlstate", "message"),
    [
        ("SELECT citus_remove_node('nope', 5432)", "XX000", 'node at "nope:5432" does not exist'),
        ("SELECT citus_update_node(99, 'x', 5432)", "P0002", "node 99 not found"),
        (
            "SELECT citus_update_node((SELECT nodeid FROM pg_dist_node WHERE nodename = 'worker1'), 'worker2', 5432)",
            "55000",
            "there is already another node with the specified hostname and port",
        ),
        (
            "SELECT citus_set_node_property('worker1', 5432, 'colour', true)",
            "XX000",
            "only the 'shouldhaveshards' property can be set using this function",
        ),
        ("SELECT citus_add_node('worker9', 5432, 1)", "XX000", "group 1 already has a primary node"),
        ("SELECT citus_drain_node('nope', 5432)", "P0002", "node nope:5432 not found"),
    ],
)
def test_refusals_of_nodes(cluster: Cluster, statement: str, sqlstate: str, message: str) -> None:
    assert refused(cluster, statement)[:2] == (sqlstate, message)


def test_unreachable_node(cluster: Cluster) -> None:
    sqlstate, message, _detail = refused(cluster, "SELECT citus_add_node('nowhere', 5432, 7)")
    assert message.startswith("connection to the remote node postgres@nowhere:5432 failed with the following error: ")
    assert sqlstate == "08006"
    assert cluster.sql("SELECT citus_check_connection_to_node('nowhere', 5432)") == [(False,)]
    assert cluster.sql("SELECT count(*), bool_and(result) FROM citus_check_cluster_node_health()") == [(9, True)]


def test_workers_refuse_what_only_the_coordinator_may(cluster: Cluster) -> None:
    assert refused(cluster, "SELECT citus_add_node('x', 1)", server="worker1")[:2] == (
        "XX000",
        "operation is not allowed on this node",
    )


def test_commands_on_nodes(cluster: Cluster) -> None:
    assert cluster.sql("SELECT success, result FROM run_command_on_workers('SELECT 1/0')") == [
        (False, "ERROR:  division by zero"),
        (False, "ERROR:  division by zero"),
    ]
    assert len(cluster.sql("SELECT * FROM run_command_on_all_nodes('SELECT 1') WHERE success AND result = '1'")) == 3
    answers = cluster.sql("SELECT DISTINCT result FROM run_command_on_workers('SELECT current_user')", user="app")
    assert answers == [("app",)], "commands run as the role that asks"


# ---- Distributed tables -----------------------------------------------------------------------


def test_rows_are_spread(cluster: Cluster) -> None:
    events(cluster)
    assert groups_of(cluster, "s.events") == {1: 4, 2: 4}
    assert cluster.sql("SELECT count(*), count(DISTINCT id) FROM s.events") == [(ROWS, ROWS)]
    assert rows_on_shards(cluster, "s.events") == ROWS
    assert cluster.sql("SELECT kind, count(*) FROM s.events GROUP BY kind") == [("x", ROWS)]
    (shard,) = cluster.sql("SELECT get_shard_id_for_distribution_column('s.events', 7)")[0]
    (name, node) = cluster.sql("SELECT shard_name, nodename FROM citus_shards WHERE shardid = %s", [shard])[0]
    assert name == f"s.events_{shard}"
    assert cluster.sql(f"SELECT user_id FROM {name} WHERE user_id = 7", server=node) == [(7,)]


def test_views(cluster: Cluster) -> None:
    events(cluster)
    assert cluster.sql(
        "SELECT table_name::text, citus_table_type, distribution_column, shard_count, table_owner FROM citus_tables"
        " WHERE table_name = 's.events'::regclass"
    ) == [("s.events", "distributed", "user_id", 8, "postgres")]
    assert cluster.sql(
        "SELECT count(*), min(shard_size) > 0 FROM citus_shards WHERE table_name = 's.events'::regclass"
    ) == [(8, True)]
    assert cluster.sql("SELECT citus_total_relation_size('s.events') >= citus_table_size('s.events')") == [(True,)]
    assert cluster.sql(
        "SELECT partmethod, repmodel, column_to_column_name(logicalrelid, partkey) FROM pg_dist_partition"
        " WHERE logicalrelid = 's.events'::regclass"
    ) == [("h", "s", "user_id")]


def test_rows_that_were_there_before_move_to_the_shards(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.t (a int PRIMARY KEY, b text CHECK (b <> 'no'))")
    cluster.sql("INSERT INTO s.t SELECT i, 'yes' FROM generate_series(1, 100) i")
    cluster.sql("SELECT create_distributed_table('s.t', 'a', shard_count => 4)")
    assert rows_on_shards(cluster, "s.t") == 100
    assert refused(cluster, "INSERT INTO s.t VALUES (1, 'twice')")[0] == "23505"
    assert refused(cluster, "INSERT INTO s.t VALUES (101, 'no')")[0] == "23514"
    cluster.sql("UPDATE s.t SET b = 'changed' WHERE a = 5")
    cluster.sql("DELETE FROM s.t WHERE a = 6")
    assert cluster.sql("SELECT count(*), count(*) FILTER (WHERE b = 'changed') FROM s.t") == [(99, 1)]


def test_colocation(cluster: Cluster) -> None:
    events(cluster)
    for name, options in {
        "same": "colocate_with => 's.events'",
        "default": "shard_count => 8",
        "none": "shard_count => 8, colocate_with => 'none'",
        "other_count": "shard_count => 3",
    }.items():
        cluster.sql(f'CREATE TABLE s."{name}" (user_id int)')
        cluster.sql(f"SELECT create_distributed_table('s.\"{name}\"', 'user_id', {options})")
    groups = dict(
        cluster.sql("SELECT c.relname, colocationid FROM pg_dist_partition JOIN pg_class c ON c.oid = logicalrelid")
    )
    assert groups["same"] == groups["default"] == groups["events"]
    assert len({groups["events"], groups["none"], groups["other_count"]}) == 3
    apart = cluster.sql(
        "SELECT a.shardminvalue FROM pg_dist_shard a JOIN pg_dist_placement pa USING (shardid)"
        " JOIN pg_dist_shard b ON b.shardminvalue = a.shardminvalue JOIN pg_dist_placement pb ON pb.shardid = b.shardid"
        " WHERE a.logicalrelid = 's.events'::regclass AND b.logicalrelid = 's.same'::regclass"
        " AND pa.groupid <> pb.groupid"
    )
    assert apart == []


@pytest.mark.parametrize(
    ("definition", "call", "sqlstate", "message", "detail"),
    [
        (
            "(id bigserial PRIMARY KEY, user_id int)",
            "'user_id'",
            "0A000",
            'cannot create constraint on "t"',
            KEY_WITHOUT_DISTRIBUTION_COLUMN,
        ),
        (
            "(id bigint UNIQUE, user_id int)",
            "'user_id'",
            "0A000",
            'cannot create constraint on "t"',
            KEY_WITHOUT_DISTRIBUTION_COLUMN,
        ),
        ("(id int)", "'nope'", "42703", 'column "nope" of relation "t" does not exist', None),
        (
            "(a json)",
            "'a'",
            "42704",
            "data type json has no default operator class for specified partition method",
            ...,
        ),
        ("(a int, b int GENERATED ALWAYS AS (a) STORED)", "'b'", "0A000", "cannot distribute relation: t", ...),
        (
            "(a int)",
            "'a', shard_count => 0",
            "XX000",
            '0 is outside the valid range for parameter "shard_count" (1 .. 64000)',
            None,
        ),
        ("(a int)", "'a', colocate_with => 's.nope'", "42P01", 'relation "s.nope" does not exist', None),
    ],
)
def test_refusals_of_tables(
    cluster: Cluster, definition: str, call: str, sqlstate: str, message: str, detail: Any
) -> None:
    cluster.sql(f"CREATE TABLE s.t {definition}")
    said = refused(cluster, f"SELECT create_distributed_table('s.t', {call})")
    assert said[:2] == (sqlstate, message)
    assert detail is ... or said[2] == detail
    assert cluster.sql("SELECT count(*) FROM pg_dist_partition WHERE logicalrelid = 's.t'::regclass") == [(0,)]


def test_already_distributed_and_types_that_do_not_fit(cluster: Cluster) -> None:
    events(cluster)
    assert refused(cluster, "SELECT create_distributed_table('s.events', 'user_id')")[:2] == (
        "42P16",
        'table "events" is already distributed',
    )
    cluster.sql("CREATE TABLE s.big (user_id bigint)")
    assert refused(cluster, "SELECT create_distributed_table('s.big', 'user_id', colocate_with => 's.events')") == (
        "XX000",
        "cannot colocate tables events and big",
        "Distribution column types don't match for events and big.",
    )


def test_no_node_for_shards(cluster: Cluster) -> None:
    for name in ("worker1", "worker2"):
        cluster.sql("SELECT citus_set_node_property(%s, 5432, 'shouldhaveshards', false)", [name])
    cluster.sql("CREATE TABLE s.t (a int)")
    sqlstate, message, _detail = refused(cluster, "SELECT create_distributed_table('s.t', 'a')")
    assert (sqlstate, message) == ("22023", "replication_factor (1) exceeds number of worker nodes (0)")


def test_names_that_need_quotes(cluster: Cluster) -> None:
    table = 's."Täble ""of"" \'odd\' ' + "x" * 40 + '"'
    cluster.sql(f'CREATE TABLE {table} ("User, Id" int, "select" text, PRIMARY KEY ("User, Id"))')
    cluster.sql("SELECT create_distributed_table(%s::regclass, 'User, Id', shard_count => 4)", [table])
    cluster.sql(f"INSERT INTO {table} SELECT i, 'y' FROM generate_series(1, 20) i")
    assert rows_on_shards(cluster, table) == 20
    reference = 's."Ref ""erence"'
    cluster.sql(f'CREATE TABLE {reference} ("The, Key" text PRIMARY KEY)')
    cluster.sql("SELECT create_reference_table(%s::regclass)", [reference])
    cluster.sql(f"INSERT INTO {reference} VALUES ('a')")
    cluster.sql(f"""UPDATE {reference} SET "The, Key" = 'b'""")
    assert rows_on_shards(cluster, reference) == len(groups_of(cluster, reference))


def test_rollback_leaves_nothing(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.t (a int PRIMARY KEY)")
    connection = cluster.coordinator.connect(DATABASE)
    connection.autocommit = False
    with connection.cursor() as cursor:
        cursor.execute("SELECT create_distributed_table('s.t', 'a', shard_count => 4)")
        cursor.execute("INSERT INTO s.t SELECT generate_series(1, 10)")
        cursor.execute("SELECT count(*) FROM s.t")
        assert cursor.fetchall() == [(10,)]
    connection.rollback()
    connection.close()
    assert cluster.sql("SELECT count(*) FROM s.t") == [(0,)]
    assert cluster.sql("SELECT count(*) FROM pg_dist_partition WHERE logicalrelid = 's.t'::regclass") == [(0,)]
    assert tables_on_workers(cluster, "t\\_10%") == 0


def test_drop_truncate_and_a_new_column(cluster: Cluster) -> None:
    events(cluster)
    cluster.sql("ALTER TABLE s.events ADD COLUMN extra int DEFAULT 7")
    cluster.sql("INSERT INTO s.events (user_id, extra) VALUES (1, 8)")
    assert cluster.sql("SELECT extra, count(*) FROM s.events GROUP BY 1 ORDER BY 1") == [(7, ROWS), (8, 1)]
    cluster.sql("ALTER TABLE s.events RENAME COLUMN extra TO more")
    cluster.sql("ALTER TABLE s.events ALTER COLUMN more TYPE bigint")
    assert cluster.sql("SELECT sum(more) FROM s.events") == [(7 * ROWS + 8,)]
    cluster.sql("ALTER TABLE s.events DROP COLUMN more")
    cluster.sql("CREATE INDEX ON s.events (kind)")
    cluster.sql("TRUNCATE s.events")
    assert rows_on_shards(cluster, "s.events") == 0
    cluster.sql("DROP TABLE s.events")
    assert tables_on_workers(cluster, "events%") == 0
    assert cluster.sql("SELECT count(*) FROM pg_dist_shard") == [(0,)]


def test_undistribute_and_alter(cluster: Cluster) -> None:
    events(cluster)
    assert refused(cluster, "SELECT alter_distributed_table('s.events', shard_count => 8)")[:2] == (
        "XX000",
        "this call doesn't change any properties of the table",
    )
    cluster.sql("SELECT alter_distributed_table('s.events', shard_count => 6)")
    assert sum(groups_of(cluster, "s.events").values()) == 6
    assert rows_on_shards(cluster, "s.events") == ROWS
    cluster.sql("SELECT undistribute_table('s.events')")
    assert cluster.sql("SELECT count(*) FROM s.events") == [(ROWS,)]
    assert cluster.sql("SELECT conname FROM pg_constraint WHERE conrelid = 's.events'::regclass AND contype = 'p'") == [
        ("events_pkey",)
    ]
    cluster.sql("INSERT INTO s.events (user_id) VALUES (1)")
    assert refused(cluster, "SELECT undistribute_table('s.events')")[:2] == (
        "XX000",
        "cannot undistribute table because the table is not distributed",
    )


def test_queries_through_a_worker(cluster: Cluster) -> None:
    events(cluster)
    assert cluster.sql("SELECT count(*) FROM s.events", server="worker1") == [(ROWS,)]
    cluster.sql("INSERT INTO s.events (user_id) VALUES (5)", server="worker2")
    assert cluster.sql("SELECT count(*), count(DISTINCT id) FROM s.events") == [(ROWS + 1, ROWS + 1)]
    assert cluster.sql("SELECT count(*) FROM citus_shards", server="worker1") == [(8,)]


# ---- Reference tables and foreign keys ----------------------------------------------------------


def test_reference_table(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.countries (code text PRIMARY KEY, name text)")
    cluster.sql("INSERT INTO s.countries VALUES ('at', 'Austria')")
    cluster.sql("SELECT create_reference_table('s.countries')")
    assert groups_of(cluster, "s.countries") == {0: 1, 1: 1, 2: 1}
    cluster.sql("INSERT INTO s.countries VALUES ('ch', 'CH'), ('de', 'DE')")
    cluster.sql("UPDATE s.countries SET name = 'Switzerland' WHERE code = 'ch'")
    cluster.sql("UPDATE s.countries SET code = 'dd' WHERE code = 'de'")
    cluster.sql("DELETE FROM s.countries WHERE code = 'dd'")
    (shard,) = cluster.sql(
        "SELECT shard_name(logicalrelid, shardid) FROM pg_dist_shard WHERE logicalrelid = 's.countries'::regclass"
    )[0]
    for worker in ("worker1", "worker2"):
        wanted = [("at", "Austria"), ("ch", "Switzerland")]
        assert cluster.sql(f"SELECT * FROM {shard} ORDER BY 1", server=worker) == wanted
        assert cluster.sql("SELECT * FROM s.countries ORDER BY 1", server=worker) == wanted
    assert refused(cluster, "SELECT create_reference_table('s.countries')")[:2] == (
        "42P16",
        'table "countries" is already distributed',
    )
    cluster.sql("SELECT undistribute_table('s.countries')")
    assert cluster.sql("SELECT count(*) FROM s.countries") == [(2,)]


def test_reference_table_without_a_key(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.r (a int)")
    cluster.sql("SELECT create_reference_table('s.r')")
    cluster.sql("INSERT INTO s.r VALUES (1), (1), (2)")
    cluster.sql("UPDATE s.r SET a = 3 WHERE a = 2")
    cluster.sql("DELETE FROM s.r WHERE ctid = (SELECT min(ctid) FROM s.r)") if cluster.is_standin else cluster.sql(
        "DELETE FROM s.r WHERE a = 1"
    )
    copies = len(groups_of(cluster, "s.r"))
    if not cluster.is_standin:
        assert rows_on_shards(cluster, "s.r") == copies
    cluster.sql("TRUNCATE s.r")
    assert cluster.sql("SELECT count(*) FROM s.r") == [(0,)]


def test_foreign_keys_to_a_reference_table(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.countries (code text PRIMARY KEY, name text)")
    cluster.sql("CREATE TABLE s.customers (id bigint PRIMARY KEY, country text REFERENCES s.countries)")
    cluster.sql("SELECT create_reference_table('s.countries')")
    cluster.sql("INSERT INTO s.countries VALUES ('at', 'x')")
    cluster.sql("SELECT create_distributed_table('s.customers', 'id', shard_count => 4)")
    cluster.sql("INSERT INTO s.customers SELECT i, 'at' FROM generate_series(1, 10) i")
    cluster.sql("UPDATE s.countries SET name = 'Austria'")
    assert refused(cluster, "INSERT INTO s.customers VALUES (11, 'xx')")[0] == "23503"
    assert refused(cluster, "DELETE FROM s.countries")[0] == "23503"
    cluster.sql("SELECT citus_drain_node('worker2', 5432)")
    assert refused(cluster, "INSERT INTO s.customers VALUES (11, 'xx')")[0] == "23503"
    assert cluster.sql("SELECT count(*) FROM s.customers JOIN s.countries ON code = country") == [(10,)]


def test_foreign_keys_between_distributed_tables(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.customers (id bigint PRIMARY KEY)")
    cluster.sql("CREATE TABLE s.orders (customer bigint REFERENCES s.customers, id bigint, PRIMARY KEY (customer, id))")
    cluster.sql("SELECT create_distributed_table('s.customers', 'id', shard_count => 4)")
    cluster.sql("SELECT create_distributed_table('s.orders', 'customer', colocate_with => 's.customers')")
    cluster.sql("INSERT INTO s.customers SELECT generate_series(1, 10)")
    cluster.sql("INSERT INTO s.orders SELECT i, i FROM generate_series(1, 10) i")
    assert refused(cluster, "INSERT INTO s.orders VALUES (99, 1)")[0] == "23503"
    assert refused(cluster, "DELETE FROM s.customers")[0] == "23503"
    cluster.sql("SELECT citus_drain_node('worker2', 5432)")
    assert refused(cluster, "INSERT INTO s.orders VALUES (99, 1)")[0] == "23503"
    assert refused(cluster, "SELECT undistribute_table('s.orders')")[:2] == (
        "XX000",
        "cannot complete operation because table orders has a foreign key",
    )
    cluster.sql("SELECT undistribute_table('s.orders', cascade_via_foreign_keys => true)")
    assert cluster.sql("SELECT count(*) FROM s.orders JOIN s.customers c ON c.id = customer") == [(10,)]
    names = cluster.sql("SELECT conname FROM pg_constraint WHERE contype = 'f' AND connamespace = 's'::regnamespace")
    assert names == [("orders_customer_fkey",)]


def test_schema_based_sharding(cluster: Cluster) -> None:
    cluster.sql("CREATE SCHEMA tenant")
    try:
        cluster.sql("CREATE TABLE tenant.a (id serial PRIMARY KEY, v text)")
        cluster.sql("CREATE TABLE tenant.b (a int REFERENCES tenant.a)")
        cluster.sql("INSERT INTO tenant.a (v) VALUES ('x')")
        cluster.sql("SELECT citus_schema_distribute('tenant')")
        cluster.sql("INSERT INTO tenant.a (v) VALUES ('y')")
        cluster.sql("INSERT INTO tenant.b VALUES (2)")
        assert refused(cluster, "INSERT INTO tenant.b VALUES (3)")[0] == "23503"
        assert cluster.sql("SELECT schema_name::text, schema_owner FROM citus_schemas") == [("tenant", "postgres")]
        assert cluster.sql("SELECT DISTINCT citus_table_type FROM citus_tables") == [("schema",)]
        assert len(cluster.sql("SELECT DISTINCT nodename FROM citus_shards")) == 1
        cluster.sql("SELECT citus_schema_undistribute('tenant')")
        assert cluster.sql("SELECT count(*) FROM tenant.a JOIN tenant.b ON a = id") == [(1,)]
        assert cluster.sql("SELECT * FROM pg_dist_schema") == []
    finally:
        cluster.sql("DROP SCHEMA tenant CASCADE")


# ---- Moving shards ------------------------------------------------------------------------------


def test_drain_and_rebalance_lose_nothing(cluster: Cluster) -> None:
    events(cluster)
    cluster.sql("CREATE TABLE s.more (user_id int PRIMARY KEY)")
    cluster.sql("SELECT create_distributed_table('s.more', 'user_id', colocate_with => 's.events')")
    cluster.sql("INSERT INTO s.more SELECT generate_series(1, 100)")
    sqlstate, message, detail = refused(cluster, "SELECT citus_remove_node('worker2', 5432)")
    assert sqlstate == "XX000"
    assert message.startswith("cannot remove or disable the node worker2:5432 because")
    assert detail and detail.startswith("One of the table(s) that prevents the operation complete successfully is s.")

    cluster.sql("SELECT citus_drain_node('worker2', 5432, 'block_writes')")
    assert groups_of(cluster, "s.events") == {1: 8}
    assert (2, "primary", "worker2", 5432, True, False) in cluster.nodes()
    assert rows_on_shards(cluster, "s.events") == ROWS
    cluster.sql("SELECT citus_set_node_property('worker2', 5432, 'shouldhaveshards', true)")
    assert len(cluster.sql("SELECT * FROM get_rebalance_table_shards_plan('s.events')")) == 8, (
        "four shards of each of two tables"
    )
    assert cluster.sql("SELECT citus_rebalance_start(shard_transfer_mode => 'block_writes') > 0") == [(True,)]
    cluster.sql("SELECT citus_rebalance_wait()")
    state, details = cluster.sql("SELECT state, details FROM citus_rebalance_status()")[0]
    assert (state, details["task_state_counts"]) == ("finished", {"done": 4})
    assert groups_of(cluster, "s.events") == groups_of(cluster, "s.more") == {1: 4, 2: 4}
    assert rows_on_shards(cluster, "s.events") == ROWS
    assert rows_on_shards(cluster, "s.more") == 100
    cluster.sql("INSERT INTO s.events (user_id) SELECT generate_series(1, 10)")
    assert cluster.sql("SELECT count(*) FROM s.events") == [(ROWS + 10,)]
    assert cluster.sql("SELECT citus_rebalance_start()") == [(None,)], "nothing left to move"
    assert refused(cluster, "SELECT citus_rebalance_stop()")[:2] == (
        "XX000",
        "no ongoing rebalance that can be stopped",
    )


def test_moving_a_shard_while_rows_come_in(cluster: Cluster) -> None:
    events(cluster, shards=2)
    stop = threading.Event()
    acknowledged: list[int] = []

    def write() -> None:
        connection = cluster.coordinator.connect(DATABASE)
        with connection.cursor() as cursor:
            while not stop.is_set():
                cursor.execute("INSERT INTO s.events (user_id) VALUES (%s)", [len(acknowledged)])
                acknowledged.append(1)
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for source, target in (("worker1", "worker2"), ("worker2", "worker1")) * 2:
            cluster.sql(
                "SELECT citus_move_shard_placement(shardid, %s, 5432, %s, 5432, 'block_writes') FROM citus_shards"
                " WHERE table_name = 's.events'::regclass AND nodename = %s ORDER BY shardid LIMIT 1",
                [source, target, source],
            )
    finally:
        stop.set()
        writer.join()
    assert len(acknowledged) > 0
    assert rows_on_shards(cluster, "s.events") == ROWS + len(acknowledged)


def test_a_table_without_a_key_is_not_moved_by_replication(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.t (a int)")
    cluster.sql("SELECT create_distributed_table('s.t', 'a', shard_count => 4)")
    cluster.sql("SELECT citus_set_node_property('worker2', 5432, 'shouldhaveshards', false)")
    sqlstate, message, _detail = refused(cluster, "SELECT rebalance_table_shards()")
    assert sqlstate == "0A000"
    assert message.startswith("cannot use logical replication to transfer shards of the relation t since")
    cluster.sql("SELECT rebalance_table_shards(shard_transfer_mode => 'block_writes')")
    assert groups_of(cluster, "s.t") == {1: 4}


def test_reference_tables_come_along_to_a_node_that_joins(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.countries (code text PRIMARY KEY)")
    cluster.sql("SELECT create_reference_table('s.countries')")
    cluster.sql("INSERT INTO s.countries VALUES ('at')")
    cluster.sql("SELECT citus_drain_node('worker2', 5432)")
    cluster.sql("SELECT citus_remove_node('worker2', 5432)")
    assert len(cluster.nodes()) == 2
    cluster.sql("INSERT INTO s.countries VALUES ('ch')")
    cluster.sql("SELECT citus_add_node('worker2', 5432, 2)")
    cluster.sql("SELECT replicate_reference_tables()")
    assert groups_of(cluster, "s.countries") == {0: 1, 1: 1, 2: 1}
    assert rows_on_shards(cluster, "s.countries") == 6


# ---- A worker that moves to another host --------------------------------------------------------


def test_update_node_as_patroni_does_it(cluster: Cluster) -> None:
    """Writes wait while the row says "-demoted" in an open transaction, and none fails."""
    events(cluster)
    (node_id,) = cluster.sql("SELECT nodeid FROM pg_dist_node WHERE nodename = 'worker1'")[0]
    address = cluster.servers["worker1"].address
    patroni = cluster.coordinator.connect(DATABASE)
    finished = threading.Event()

    def write() -> None:
        cluster.sql("INSERT INTO s.events (user_id) SELECT generate_series(1, 100)")
        finished.set()

    writer = threading.Thread(target=write)
    with patroni.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(
            "SELECT pg_catalog.citus_update_node(%s, %s, %s, true, %s)", [node_id, "worker1-demoted", 5432, 10000]
        )
        writer.start()
        assert not finished.wait(1.5), "the write should wait"
        cursor.execute("SELECT pg_catalog.citus_update_node(%s, %s, %s, true, %s)", [node_id, address, 5432, 10000])
        cursor.execute("COMMIT")
    patroni.close()
    writer.join(timeout=20)
    assert finished.is_set()
    assert cluster.sql("SELECT count(*) FROM s.events") == [(ROWS + 100,)]
    for name in ("coordinator", "worker1", "worker2"):
        eventually(
            lambda name=name: (
                cluster.sql("SELECT nodename FROM pg_dist_node WHERE groupid = 1", server=name) == [(address,)]
            )
        )
    eventually(lambda: cluster.sql("SELECT count(*) FROM s.events", server="worker2") == [(ROWS + 100,)])
    cluster.sql("SELECT citus_update_node(%s, 'worker1', 5432)", [node_id])
    eventually(lambda: cluster.sql("SELECT bool_and(metadatasynced) FROM pg_dist_node") == [(True,)])


# ---- Roles --------------------------------------------------------------------------------------


def test_an_application_role(cluster: Cluster) -> None:
    events(cluster, user="app")
    assert cluster.sql("SELECT tableowner FROM pg_tables WHERE tablename = 'events'") == [("app",)]
    assert cluster.sql("SELECT count(*) FROM s.events", user="app") == [(ROWS,)]
    assert cluster.sql("SELECT count(*) FROM s.events", user="app", server="worker1") == [(ROWS,)]
    cluster.sql("CREATE TABLE s.r (a int PRIMARY KEY)", user="app")
    cluster.sql("SELECT create_reference_table('s.r')", user="app")
    cluster.sql("INSERT INTO s.r VALUES (1)", user="app")
    assert rows_on_shards(cluster, "s.r") == 3
    cluster.sql(
        "SELECT citus_move_shard_placement(min(shardid), 'worker1', 5432, 'worker2', 5432, 'block_writes')"
        " FROM citus_shards WHERE table_name = 's.events'::regclass AND nodename = 'worker1'"
    )
    assert rows_on_shards(cluster, "s.events") == ROWS
    cluster.sql("SELECT undistribute_table('s.events')", user="app")
    cluster.sql("DROP TABLE s.events, s.r", user="app")


def test_what_an_application_role_may_not(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.t (a int)")
    assert refused(cluster, "SELECT create_distributed_table('s.t', 'a')", user="app")[:2] == (
        "42501",
        "must be owner of table t",
    )
    assert refused(cluster, "SELECT create_reference_table('s.t')", user="app")[0] == "42501"
    for call in (
        "citus_add_node('x', 1)",
        "citus_remove_node('worker1', 5432)",
        "citus_update_node(1, 'x', 1)",
        "citus_drain_node('worker1', 5432)",
    ):
        assert refused(cluster, f"SELECT {call}", user="app")[0] == "42501", call
    for statement in (
        "SELECT * FROM pg_dist_authinfo",
        "UPDATE pg_dist_node SET nodename = 'x'",
        "DELETE FROM pg_dist_placement",
    ):
        assert refused(cluster, statement, user="app")[0] == "42501", statement
    events(cluster)
    assert refused(cluster, "SELECT * FROM s.events", user="app")[0] == "42501"


def test_grants_reach_the_shards(cluster: Cluster) -> None:
    events(cluster)
    cluster.sql("GRANT SELECT ON s.events TO app")
    assert cluster.sql("SELECT count(*) FROM s.events", user="app") == [(ROWS,)]
    assert refused(cluster, "DELETE FROM s.events", user="app")[0] == "42501"
    cluster.sql("REVOKE SELECT ON s.events FROM app")
    assert refused(cluster, "SELECT * FROM s.events", user="app")[0] == "42501"
