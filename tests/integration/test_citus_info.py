# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""citus_info against real servers, compared with what Citus' own views say."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from citus_cluster import DATABASE, Cluster, citus_cluster
from hostile import HOSTILE, NUMBERS, OPTION, answered, hundred
from hypothesis import given
from hypothesis import strategies as st

ODD_NAME = "Tabelle \"mit\" 'Zitat' ü, und " + "x" * 32  # 63 bytes


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with citus_cluster(["worker1", "worker2"], settings={"citus.recover_2pc_interval": "-1"}) as running:
        running.sql("CREATE TABLE events (id bigint, user_id integer, payload text, PRIMARY KEY (user_id, id))")
        running.sql("SELECT create_distributed_table('events', 'user_id', shard_count => 8)")
        running.sql("INSERT INTO events SELECT i, i, repeat('x', 100) FROM generate_series(1, 1000) i")
        running.sql("CREATE TABLE countries (code text PRIMARY KEY)")
        running.sql("SELECT create_reference_table('countries')")
        quoted = '"' + ODD_NAME.replace('"', '""') + '"'
        running.sql(f'CREATE TABLE {quoted} ("Upper Case" text)')
        running.sql("SELECT create_distributed_table(%s::regclass, 'Upper Case', shard_count => 4)", [quoted])
        yield running


def gather(cluster: Cluster, *sections: str, **options: Any) -> dict[str, Any]:
    result = cluster.ok("citus_info", gather=list(sections), **options)
    assert result["changed"] is False
    return result


def test_everything_at_once(cluster: Cluster) -> None:
    assert "shards" not in cluster.ok("citus_info")
    result = gather(cluster, "all")
    sections = ["nodes", "groups", "tables", "colocation_groups", "shards", "rebalance", "locks"]
    sections += ["prepared_transactions", "versions", "health", "drift"]
    missing = [name for name in sections if name not in result]
    if cluster.is_standin:
        assert missing == sorted(result["unavailable"], key=sections.index)
    else:
        assert missing == []
        assert result["unavailable"] == {}
    assert result["server"]["database"] == DATABASE
    assert result["server"]["is_standin"] is cluster.is_standin
    assert cluster.call("citus_info", check=True)["tables"] == result["tables"]


def test_only_what_was_asked_for(cluster: Cluster) -> None:
    result = gather(cluster, "tables")
    assert {"nodes", "groups", "shards", "health", "drift"}.isdisjoint(result)


def test_nodes_and_groups(cluster: Cluster) -> None:
    result = gather(cluster, "nodes", "groups")
    by_sql = dict(
        cluster.sql("SELECT nodename, count(*) FROM citus_shards WHERE citus_table_type <> 'reference' GROUP BY 1")
    )
    assert {node["name"]: node["shard_count"] for node in result["nodes"]} == {"coordinator": 0, **by_sql}
    bytes_by_sql = dict(
        cluster.sql(
            "SELECT nodename, sum(shard_size)::bigint FROM citus_shards"
            " WHERE citus_table_type <> 'reference' GROUP BY nodename"
        )
    )
    assert {node["name"]: node["bytes"] for node in result["nodes"]} == {"coordinator": 0, **bytes_by_sql}
    assert [group["kind"] for group in result["groups"]] == ["coordinator", "worker", "worker"]
    assert result["groups"][1]["primary"] == "worker1:5432"
    assert result["groups"][1]["bytes"] == bytes_by_sql["worker1"]


def test_a_secondary_is_listed_with_its_group(cluster: Cluster) -> None:
    cluster.sql("SELECT citus_add_node('worker1b', 5432, 1, 'secondary')")
    try:
        result = gather(cluster, "nodes", "groups")
        primary, secondary = (node for node in result["nodes"] if node["group"] == 1)
        assert (secondary["role"], secondary["shard_count"]) == ("secondary", primary["shard_count"])
        assert result["groups"][1]["secondaries"] == ["worker1b:5432"]
    finally:
        cluster.sql("SELECT citus_remove_node('worker1b', 5432)")


def test_tables_shards_and_colocation(cluster: Cluster) -> None:
    result = gather(cluster, "tables", "shards", "colocation_groups")
    tables = {table["table"]: table for table in result["tables"]}
    events = tables["events"]
    assert (events["name"], events["type"], events["column"]) == ("public.events", "distributed", "user_id")
    assert (events["shard_count"], events["owner"]) == (8, "postgres")
    # The stand-in's distributed tables are partitioned ones, which have no access method of their own.
    assert events["access_method"] == (None if cluster.is_standin else "heap")
    assert (tables["countries"]["type"], tables["countries"]["column"]) == ("reference", None)
    odd = tables[ODD_NAME]
    assert odd["column"] == "Upper Case"
    assert cluster.sql("SELECT relname FROM pg_class WHERE oid = %s::regclass", [odd["name"]]) == [(ODD_NAME,)]

    by_sql = cluster.sql(
        "SELECT shardid, nodename || ':' || nodeport, shard_size FROM citus_shards"
        " WHERE table_name = 'events'::regclass ORDER BY 1"
    )
    shards = [shard for shard in result["shards"] if shard["table"] == "public.events"]
    assert [(shard["shard_id"], *shard["placements"], shard["bytes"]) for shard in shards] == by_sql
    assert events["bytes"] == sum(row[2] for row in by_sql)
    assert sum(int(shard["max_value"]) - int(shard["min_value"]) + 1 for shard in shards) == 2**32
    reference = next(shard for shard in result["shards"] if shard["table"] == "public.countries")
    assert reference["placements"] == ["coordinator:5432", "worker1:5432", "worker2:5432"]

    groups = {group["colocation_id"]: group for group in result["colocation_groups"]}
    group = groups[events["colocation_id"]]
    assert (group["shard_count"], group["tables"], group["bytes"]) == (8, ["public.events"], events["bytes"])
    assert group["column_type"] == "integer"


def test_schema_and_local_tables(cluster: Cluster) -> None:
    if cluster.is_standin:
        pytest.skip("the stand-in has no distributed schemas and no local tables in its metadata")
    cluster.sql("CREATE SCHEMA tenant")
    cluster.sql("SELECT citus_schema_distribute('tenant')")
    cluster.sql("CREATE TABLE tenant.orders (id bigint PRIMARY KEY)")
    cluster.sql("CREATE TABLE settings (key text PRIMARY KEY)")
    cluster.sql("SELECT citus_add_local_table_to_metadata('settings')")
    try:
        types = {table["name"]: table["type"] for table in gather(cluster, "tables")["tables"]}
        assert types["tenant.orders"] == "schema"
        assert types["public.settings"] == "local"
        by_sql = dict(cluster.sql("SELECT table_name::text, citus_table_type FROM citus_tables"))
        assert (by_sql["tenant.orders"], by_sql["settings"]) == ("schema", "local")
    finally:
        cluster.sql("DROP SCHEMA tenant CASCADE")
        cluster.sql("DROP TABLE settings")


def test_versions(cluster: Cluster) -> None:
    result = gather(cluster, "versions")
    if "versions" in result["unavailable"]:
        pytest.skip(result["unavailable"]["versions"])
    assert [row["name"] for row in result["versions"]] == ["coordinator", "worker1", "worker2"]
    for row in result["versions"]:
        assert row["error"] is None
        assert (
            row["extension_version"] == cluster.sql("SELECT extversion FROM pg_extension WHERE extname = 'citus'")[0][0]
        )
        assert row["citus_version"] == result["server"]["citus_version"]
        assert row["postgresql_version"] == result["server"]["postgresql_version"]


def test_drift(cluster: Cluster) -> None:
    if "drift" in gather(cluster, "drift")["unavailable"] or cluster.is_standin:
        pytest.skip("the stand-in has no metadata on workers")
    assert gather(cluster, "drift")["drift"] == []
    cluster.sql("UPDATE pg_dist_node SET shouldhaveshards = false WHERE nodename = 'worker1'", server="worker2")
    try:
        (found,) = gather(cluster, "drift")["drift"]
        assert (found["name"], found["catalog"], found["rows"], found["coordinator_rows"]) == ("worker2", "nodes", 3, 3)
    finally:
        cluster.sql("UPDATE pg_dist_node SET shouldhaveshards = true WHERE nodename = 'worker1'", server="worker2")
    assert gather(cluster, "drift")["drift"] == []


def test_prepared_transactions(cluster: Cluster) -> None:
    if "prepared_transactions" in gather(cluster, "prepared_transactions")["unavailable"]:
        pytest.skip("this server cannot ask all nodes")
    connection = cluster.servers["worker1"].connect(dbname=DATABASE)
    connection.autocommit = False
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE left_over ()")
        cursor.execute("PREPARE TRANSACTION 'citus_0_4711_1_1'")
    connection.close()
    try:
        (found,) = gather(cluster, "prepared_transactions")["prepared_transactions"]
        assert (found["name"], found["gid"], found["initiator_group"]) == ("worker1", "citus_0_4711_1_1", 0)
        assert (found["decision"], found["owner"]) == ("open", "postgres")
        assert 0 <= found["age_seconds"] < 60
        cluster.sql("INSERT INTO pg_dist_transaction VALUES (1, 'citus_0_4711_1_1')")
        (found,) = gather(cluster, "prepared_transactions")["prepared_transactions"]
        assert found["decision"] == "commit"
    finally:
        cluster.sql("DELETE FROM pg_dist_transaction")
        cluster.sql("ROLLBACK PREPARED 'citus_0_4711_1_1'", server="worker1")


def test_locks(cluster: Cluster) -> None:
    if "locks" in gather(cluster, "locks")["unavailable"]:
        pytest.skip("this server has no citus_lock_waits")
    assert gather(cluster, "locks")["locks"] == {"waits": [], "deadlocks": []}
    holder = cluster.coordinator.connect(dbname=DATABASE)
    holder.autocommit = False
    holder.cursor().execute("UPDATE events SET payload = 'held' WHERE user_id = 1")
    thread = threading.Thread(target=cluster.sql, args=("UPDATE events SET payload = 'waits' WHERE user_id = 1",))
    thread.start()
    try:
        deadline = time.monotonic() + 20
        waits: list[dict[str, Any]] = []
        while not waits and time.monotonic() < deadline:
            waits = gather(cluster, "locks")["locks"]["waits"]
        assert "waits" in waits[0]["waiting_statement"]
        assert waits[0]["waiting_gpid"] != waits[0]["blocking_gpid"]
    finally:
        holder.rollback()
        holder.close()
        thread.join()


def test_health_and_a_node_that_is_down(cluster: Cluster) -> None:
    result = gather(cluster, "health")
    if "health" in result["unavailable"]:
        pytest.skip(result["unavailable"]["health"])
    assert len(result["health"]) == 9
    assert all(pair["ok"] for pair in result["health"])
    if cluster.is_standin:
        pytest.skip("the stand-in does not heed citus.node_connection_timeout: a node that hangs holds it up")
    container = cluster.servers["worker2"].container
    container.pause()
    try:
        began = time.monotonic()
        result = gather(cluster, "health", "versions", "nodes", node_timeout=2)
        assert time.monotonic() - began < 30, "a node that is down must not hold up the answer for long"
        broken = [(pair["from_name"], pair["to_name"]) for pair in result["health"] if not pair["ok"]]
        assert ("coordinator", "worker2") in broken
        assert ("coordinator", "worker1") not in broken
        versions = {row["name"]: row for row in result["versions"]}
        assert versions["worker1"]["error"] is None
        assert versions["worker2"]["error"]
        assert versions["worker2"]["postgresql_version"] is None
        assert len(result["nodes"]) == 3
    finally:
        container.unpause()
        cluster.servers["worker2"].wait()


def test_rebalance(cluster: Cluster) -> None:
    result = gather(cluster, "rebalance")
    assert result["rebalance"]["running"] is False
    assert result["rebalance"]["moves"] == []


def test_where_it_runs(cluster: Cluster) -> None:
    assert "is a worker (Citus group 2)" in cluster.refused("citus_info", server="worker2")
    assert "does not have the citus extension" in cluster.refused("citus_info", login_db="postgres")


def test_as_an_application_role(cluster: Cluster) -> None:
    cluster.sql("CREATE ROLE app LOGIN")
    result = cluster.ok("citus_info", login_user="app")
    assert result["server"]["is_superuser"] is False
    assert len(result["tables"]) == 3
    # A superuser's sizes are read from the files, another role's are asked of Citus: they must agree.
    assert result["tables"] == cluster.ok("citus_info", gather=["tables"])["tables"]


def test_sizes_in_a_tablespace_and_of_a_long_name(cluster: Cluster) -> None:
    if cluster.is_standin:
        pytest.skip("the stand-in's sizes do not come from files")
    for server in cluster.servers.values():
        server.run(["mkdir", "-p", "/tmp/elsewhere"])
        server.query("CREATE TABLESPACE elsewhere LOCATION '/tmp/elsewhere'")
    long_name = "l" * 63
    cluster.sql(f"CREATE TABLE {long_name} (id bigint PRIMARY KEY, big text)")
    cluster.sql("SELECT create_distributed_table(%s, 'id', shard_count => 2)", [long_name])
    cluster.sql(f"INSERT INTO {long_name} SELECT i, repeat(md5(i::text), 500) FROM generate_series(1, 50) i")
    try:
        move = "SELECT bool_and(success) FROM run_command_on_shards(%s, 'ALTER TABLE %%s SET TABLESPACE elsewhere')"
        assert cluster.sql(move, [long_name]) == [(True,)]
        tables = gather(cluster, "tables")["tables"]
        found = next(table["bytes"] for table in tables if table["table"] == long_name)
        assert cluster.sql("SELECT citus_total_relation_size(%s)", [long_name]) == [(found,)]
    finally:
        cluster.sql(f"DROP TABLE {long_name}")


def test_a_server_that_is_too_old(cluster: Cluster) -> None:
    with pytest.MonkeyPatch.context() as patch:
        from ansible_collections.citus_ha.cluster.plugins.module_utils import _versions

        minimum = _versions.Minimum(citus=(99, 0), source="this test")
        patch.setitem(_versions.MINIMUM, ("citus_info", ""), minimum)
        message = cluster.refused("citus_info")
    assert "needs Citus 99.0; this server has" in message


def test_the_number_of_queries_is_constant(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.citus_ha.cluster.plugins.module_utils import _connection

    counted: list[str] = []
    original = _connection.Session._run

    def count(self: Any, statement: Any, values: Any, fetch: bool) -> Any:
        counted.append(str(statement))
        return original(self, statement, values, fetch)

    monkeypatch.setattr(_connection.Session, "_run", count)
    gather(cluster, "all")
    before = len(counted)
    for number in range(20):
        cluster.sql(f"CREATE TABLE more_{number} (id bigint)")
        cluster.sql("SELECT create_distributed_table(%s, 'id', shard_count => 4)", [f"more_{number}"])
    counted.clear()
    gather(cluster, "all")
    assert len(counted) == before
    assert before <= 15


def test_wrong_password_or_port_says_where(cluster: Cluster) -> None:
    message = cluster.refused("citus_info", login_port=1)
    assert f"Could not connect to {cluster.coordinator.address}:1/app as postgres" in message
    with pytest.raises(psycopg2.OperationalError):
        cluster.coordinator.connect(dbname="no_such_database")
    assert "no_such_database" in cluster.refused("citus_info", login_db="no_such_database")


@hundred
@given(
    options=st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("login_user", "login_password", "login_db", "ca_cert", "ssl_cert", "ssl_key"), OPTION),
            "connect_params": st.dictionaries(
                st.sampled_from(["application_name", "options", "dsn", "database", "cursor_factory"]) | HOSTILE,
                HOSTILE | NUMBERS,
                max_size=3,
            ),
            **dict.fromkeys(("lock_timeout", "statement_timeout", "node_timeout"), NUMBERS),
            "gather": st.lists(HOSTILE, max_size=2),
        },
    )
)
def test_hostile_input(cluster: Cluster, options: dict[str, Any]) -> None:
    """The options that all modules connect with: an answer or a clear refusal, and the server as it was."""
    count = "SELECT count(*) FROM pg_class"
    before = cluster.sql(count)
    answered(cluster.call("citus_info", **{"gather": ["nodes"], **options}))
    assert cluster.sql(count) == before


def test_a_connection_that_is_cut(cluster: Cluster) -> None:
    blocker = cluster.coordinator.connect(dbname=DATABASE)
    blocker.autocommit = False
    blocker.cursor().execute("LOCK TABLE pg_dist_colocation IN ACCESS EXCLUSIVE MODE")
    cut = threading.Thread(target=cluster.cut, args=("pg_dist_colocation",))
    cut.start()
    message = cluster.refused("citus_info", gather=["colocation_groups"])
    cut.join()
    blocker.close()
    assert "broke during" in message
    assert "Run the task again" in message
