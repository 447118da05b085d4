# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""citus_node against real servers: check, apply, again, again with check, compared with pg_dist_node by SQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from citus_cluster import DATABASE, Cluster, citus_cluster
from hostile import HOSTILE, NUMBERS, answered, hundred
from hypothesis import given
from hypothesis import strategies as st

WORKERS = ("worker1", "worker1b", "worker2", "worker3")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with citus_cluster(WORKERS, register=False, settings={"citus.background_task_queue_interval": "250"}) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> None:
    """Every test starts with a coordinator and two workers, without tables."""
    if "cluster" not in request.fixturenames:
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    for (table,) in cluster.sql("SELECT logicalrelid::regclass::text FROM pg_dist_partition"):
        cluster.sql(f"DROP TABLE IF EXISTS {table} CASCADE")
    base = [(0, "primary", "coordinator"), (1, "primary", "worker1"), (2, "primary", "worker2")]
    if [row[:3] for row in cluster.nodes()] == base and all(row[4] for row in cluster.nodes()):
        cluster.sql(
            "SELECT citus_set_node_property(nodename, nodeport, 'shouldhaveshards', groupid > 0) FROM pg_dist_node"
        )
        return
    coordinator_last = sorted(cluster.nodes(), key=lambda row: (row[1] == "primary", row[0] == 0))
    for name, port in [row[2:4] for row in coordinator_last]:
        cluster.sql("SELECT citus_remove_node(%s, %s)", [name, port])
    cluster.sql("SELECT citus_set_coordinator_host('coordinator', 5432)")
    cluster.sql("SELECT citus_add_node('worker1', 5432, 1)")
    cluster.sql("SELECT citus_add_node('worker2', 5432, 2)")


def node(name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, **options}


def distributed_table(cluster: Cluster, name: str = "events") -> None:
    cluster.sql(f"CREATE TABLE {name} (id bigint PRIMARY KEY, payload text)")
    cluster.sql("SELECT create_distributed_table(%s, 'id', shard_count => 8)", [name])
    cluster.sql(f"INSERT INTO {name} SELECT i, repeat('x', 100) FROM generate_series(1, 1000) i")


def shards_of(cluster: Cluster, name: str) -> int:
    rows = cluster.sql(
        "SELECT count(*) FROM citus_shards WHERE nodename = %s AND citus_table_type = 'distributed'", [name]
    )
    return int(rows[0][0])


def test_whole_cluster_from_nothing(cluster: Cluster) -> None:
    for name in ("worker1", "worker2", "coordinator"):
        cluster.sql("SELECT citus_remove_node(%s, 5432)", [name])
    nodes = [
        node("worker2", group=2),
        node("worker1b", group=1, role="secondary"),
        node("coordinator", group=0, should_have_shards=True),
        node("worker1", group=1),
    ]
    predicted, applied = cluster.four_times("citus_node", nodes=nodes)
    assert cluster.nodes() == [
        (0, "primary", "coordinator", 5432, True, True),
        (1, "primary", "worker1", 5432, True, True),
        (1, "secondary", "worker1b", 5432, True, True),
        (2, "primary", "worker2", 5432, True, True),
    ]
    without_ids = [[{**row, "node_id": None} for row in result["nodes"]] for result in (predicted, applied)]
    assert without_ids[0] == without_ids[1]
    assert predicted["diff"] == applied["diff"]


def test_group_is_optional_and_property_is_set(cluster: Cluster) -> None:
    cluster.four_times("citus_node", nodes=[node("worker3", should_have_shards=False)])
    assert (3, "primary", "worker3", 5432, True, False) in cluster.nodes()
    cluster.four_times("citus_node", nodes=[node("worker3", should_have_shards=True)])
    assert (3, "primary", "worker3", 5432, True, True) in cluster.nodes()


def test_coordinator_gets_a_new_name(cluster: Cluster) -> None:
    address = cluster.coordinator.address
    cluster.four_times("citus_node", nodes=[node(address, group=0)])
    assert cluster.nodes()[0][:3] == (0, "primary", address)
    cluster.ok("citus_node", nodes=[node("coordinator", group=0)])


def test_new_address_updates_and_keeps_the_data(cluster: Cluster) -> None:
    distributed_table(cluster)
    address = cluster.servers["worker1"].address
    cluster.four_times("citus_node", nodes=[node(address, group=1, previous_name="worker1")])
    assert cluster.nodes()[1][:3] == (1, "primary", address)
    assert cluster.sql("SELECT count(*) FROM events") == [(1000,)]
    cluster.ok("citus_node", nodes=[node("worker1", previous_name=address)])
    assert cluster.nodes()[1][:3] == (1, "primary", "worker1")


def test_two_nodes_exchange_addresses(cluster: Cluster) -> None:
    """As after a failover by hand: the secondary is the primary now, the old primary its secondary."""
    cluster.ok("citus_node", nodes=[node("worker1b", group=1, role="secondary")])
    ids = dict(cluster.sql("SELECT noderole::text, nodeid FROM pg_dist_node WHERE groupid = 1"))
    cluster.four_times("citus_node", nodes=[node("worker1b", group=1, role="primary")])
    rows = cluster.sql("SELECT noderole::text, nodeid, nodename FROM pg_dist_node WHERE groupid = 1 ORDER BY 1")
    assert rows == [("primary", ids["primary"], "worker1b"), ("secondary", ids["secondary"], "worker1")]
    back = [node("worker1", group=1, role="primary"), node("worker1b", group=1, role="secondary")]
    cluster.four_times("citus_node", nodes=back)
    assert cluster.nodes()[1][:3] == (1, "primary", "worker1")


def test_another_server_for_a_taken_group_is_refused(cluster: Cluster) -> None:
    before = cluster.nodes()
    message = cluster.refused("citus_node", nodes=[node("worker3", group=1)])
    assert "already has the primary worker1:5432" in message
    assert "previous_name: worker1" in message
    assert "in group 1; group 2 was asked for" in cluster.refused("citus_node", nodes=[node("worker1", group=2)])
    assert "would leave the group without one" in cluster.refused(
        "citus_node", nodes=[node("worker1", role="secondary")]
    )
    assert cluster.nodes() == before


def test_absent(cluster: Cluster) -> None:
    cluster.four_times("citus_node", nodes=[node("worker2"), node("never-there")], state="absent")
    assert [row[2] for row in cluster.nodes()] == ["coordinator", "worker1"]


def test_absent_needs_the_whole_group(cluster: Cluster) -> None:
    cluster.ok("citus_node", nodes=[node("worker1b", group=1, role="secondary")])
    message = cluster.refused("citus_node", nodes=[node("worker1")], state="absent")
    assert "would keep worker1b:5432 without its primary" in message
    cluster.four_times("citus_node", nodes=[node("worker1"), node("worker1b")], state="absent")


def test_absent_refuses_shards_and_drains_when_asked(cluster: Cluster) -> None:
    distributed_table(cluster)
    cluster.sql("CREATE TABLE countries (code text PRIMARY KEY)")
    cluster.sql("SELECT create_reference_table('countries')")
    message = cluster.refused("citus_node", nodes=[node("worker2")], state="absent")
    assert "still has 4 shards" in message
    assert "drain: true" in message
    assert shards_of(cluster, "worker2") == 4
    _predicted, applied = cluster.four_times(
        "citus_node", nodes=[node("worker2")], state="absent", drain=True, wait_timeout=120
    )
    assert [step["action"] for step in applied["actions"]] == ["set_should_have_shards", "drain", "remove"]
    assert applied["actions"][1]["bytes"] > 0
    assert cluster.sql("SELECT count(*) FROM events") == [(1000,)]
    assert cluster.sql("SELECT count(*) FROM pg_dist_cleanup") == [(0,)]


def test_only_place_of_a_reference_table(cluster: Cluster) -> None:
    """A reference table that has not been copied to the newly added nodes yet."""
    for name in ("worker2", "worker1", "coordinator"):
        cluster.sql("SELECT citus_remove_node(%s, 5432)", [name])
    cluster.sql("SELECT citus_add_node('worker1', 5432, 1)")
    cluster.sql("CREATE TABLE countries (code text PRIMARY KEY)")
    cluster.sql("SELECT create_reference_table('countries')")
    cluster.sql("INSERT INTO countries VALUES ('at')")
    places = cluster.sql("SELECT array_agg(groupid) FROM pg_dist_placement JOIN pg_dist_shard USING (shardid)")[0][0]
    if places != [1]:
        pytest.skip(f"this server keeps the only reference table in groups {places}, not on worker1 alone")
    cluster.sql("SELECT citus_add_node('worker2', 5432, 2)")
    message = cluster.refused("citus_node", nodes=[node("worker1")], state="absent")
    assert "the only copy of 1 reference tables" in message
    message = cluster.refused("citus_node", nodes=[node("worker1"), node("worker2")], state="absent", drain=True)
    assert "no other active node is left" in message
    cluster.four_times("citus_node", nodes=[node("worker1")], state="absent", drain=True, wait_timeout=120)
    assert cluster.sql("SELECT * FROM countries") == [("at",)]


def test_drained_while_writes_go_on(cluster: Cluster) -> None:
    distributed_table(cluster)
    stop = threading.Event()
    written: list[int] = []
    failures: list[str] = []

    def write() -> None:
        number = 10_000
        while not stop.is_set():
            number += 1
            try:
                cluster.sql("INSERT INTO events VALUES (%s, 'x')", [number])
                written.append(number)
            except Exception as error:  # every failure counts, whatever it is
                failures.append(str(error))
            time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        cluster.four_times("citus_node", nodes=[node("worker2")], state="drained", wait_timeout=120)
    finally:
        stop.set()
        writer.join()
    assert shards_of(cluster, "worker2") == 0
    assert shards_of(cluster, "worker1") == 8
    assert not failures
    assert cluster.sql("SELECT count(*) FROM events WHERE id > 10000") == [(len(written),)]


def test_drain_goes_on_after_an_interruption(cluster: Cluster) -> None:
    if cluster.is_standin:
        pytest.skip("the stand-in moves shards in the call that starts the job, so nothing can interrupt it")
    distributed_table(cluster)
    message = cluster.refused("citus_node", nodes=[node("worker2")], state="drained", wait_timeout=0)
    assert "moves done" in message
    assert "goes on in the server" in message
    cluster.ok("citus_node", nodes=[node("worker2")], state="drained", wait_timeout=120)
    assert shards_of(cluster, "worker2") == 0


def test_a_drain_prints_its_progress(cluster: Cluster, tmp_path: Path) -> None:
    distributed_table(cluster)
    options = {"login_host": cluster.coordinator.address, "login_db": DATABASE, "progress_interval": 1}
    printed = cluster.play(
        tmp_path,
        {
            "citus_ha.cluster.citus_node": {**options, "nodes": [node("worker2")], "state": "drained"},
            "register": "done",
        },
        {
            "ansible.builtin.debug": {
                "msg": "{{ done.changed }} {{ done.actions | map(attribute='action') | join(' ') }}"
            }
        },
    )
    assert "True set_should_have_shards drain" in printed
    assert shards_of(cluster, "worker2") == 0
    if not cluster.is_standin:
        assert "[localhost] rebalance job" in printed
        assert "of 4 moves)" in printed


def test_drain_without_a_place_to_go(cluster: Cluster) -> None:
    distributed_table(cluster)
    message = cluster.refused("citus_node", nodes=[node("worker1"), node("worker2")], state="drained")
    assert "nowhere to go" in message
    assert shards_of(cluster, "worker1") == 4


def test_disabled_and_back(cluster: Cluster) -> None:
    cluster.four_times("citus_node", nodes=[node("worker2")], state="disabled")
    assert (2, "primary", "worker2", 5432, False, True) in cluster.nodes()
    cluster.four_times("citus_node", nodes=[node("worker2")])
    assert (2, "primary", "worker2", 5432, True, True) in cluster.nodes()
    distributed_table(cluster)
    assert "only copy of 4 shards" in cluster.refused("citus_node", nodes=[node("worker2")], state="disabled")
    assert "cannot be disabled" in cluster.refused("citus_node", nodes=[node("coordinator")], state="disabled")


def test_metadata_sync(cluster: Cluster) -> None:
    if cluster.is_standin:
        pytest.skip("the stand-in has no metadata on workers")
    cluster.four_times("citus_node", nodes=[node("worker2", metadata_synced=False)])
    assert cluster.sql("SELECT hasmetadata FROM pg_dist_node WHERE nodename = 'worker2'") == [(False,)]
    cluster.four_times("citus_node", nodes=[node("worker2")])
    assert cluster.sql("SELECT metadatasynced FROM pg_dist_node WHERE nodename = 'worker2'") == [(True,)]


def test_under_patroni_waits_and_sets_the_property_only(cluster: Cluster) -> None:
    expected = [
        node("coordinator", group=0),
        node("worker1", group=1, should_have_shards=False),
        node("worker1b", group=1, should_have_shards=False),
    ]
    message = cluster.refused("citus_node", nodes=expected, postgres_manager="patroni", wait_timeout=1)
    assert "still missing: worker1b:5432 is not registered" in message
    assert [row[2] for row in cluster.nodes()] == ["coordinator", "worker1", "worker2"], "it must not register anything"

    def patroni() -> None:
        time.sleep(1)
        cluster.sql("SELECT citus_add_node('worker1b', 5432, 1, 'secondary')")

    thread = threading.Thread(target=patroni)
    thread.start()
    result = cluster.ok("citus_node", nodes=expected, postgres_manager="patroni", wait_timeout=30)
    thread.join()
    assert [step["action"] for step in result["actions"]] == ["set_should_have_shards"]
    assert (1, "primary", "worker1", 5432, True, False) in cluster.nodes()
    again = cluster.ok("citus_node", nodes=expected, postgres_manager="patroni")
    assert again["changed"] is False


def test_under_patroni_a_running_node_is_not_removed(cluster: Cluster) -> None:
    message = cluster.refused("citus_node", nodes=[node("worker2")], state="absent", postgres_manager="patroni")
    assert "Patroni would register it again" in message
    assert "state: drained" in message
    cluster.sql("SELECT citus_add_node('gone.invalid', 5432, 2, 'secondary')")
    cluster.ok("citus_node", nodes=[node("gone.invalid")], state="absent", postgres_manager="patroni")


def test_only_on_the_coordinators_primary(cluster: Cluster) -> None:
    message = cluster.refused("citus_node", server="worker1", nodes=[node("worker1")])
    assert "is a worker (Citus group 1)" in message
    assert "coordinator:5432" in message
    assert "does not have the citus extension" in cluster.refused(
        "citus_node", nodes=[node("worker1")], login_db="postgres"
    )


def test_not_on_a_standby(cluster: Cluster) -> None:
    coordinator = cluster.coordinator
    coordinator.run(
        ["sh", "-ec", "rm -rf /tmp/standby && pg_basebackup -h coordinator -U postgres -D /tmp/standby -R -c fast"]
    )
    options = "-p 5433 -c unix_socket_directories=/tmp"
    coordinator.run(["pg_ctl", "-D", "/tmp/standby", "-o", options, "-l", "/tmp/standby.log", "-w", "start"])
    try:
        standby = Cluster({**cluster.servers, "coordinator": replace(coordinator, port=5433)}, cluster.citus)
        message = standby.refused("citus_node", nodes=[node("worker1")])
        assert "it is in recovery" in message
        assert "streams to it from coordinator:5432" in message
    finally:
        coordinator.run(["pg_ctl", "-D", "/tmp/standby", "-m", "immediate", "stop"])


def test_without_rights(cluster: Cluster) -> None:
    cluster.sql("DROP ROLE IF EXISTS nobody_special")
    cluster.sql("CREATE ROLE nobody_special LOGIN")
    result = cluster.ok("citus_node", nodes=[node("worker1", group=1)], login_user="nobody_special", wait=False)
    assert result["changed"] is False
    for check in (True, False):
        message = cluster.refused(
            "citus_node", nodes=[node("worker3", group=3)], login_user="nobody_special", check=check
        )
        assert "Role nobody_special" in message
        assert "not a superuser" in message


def test_the_second_run_waits_or_says_who_holds_the_lock(cluster: Cluster) -> None:
    connection = cluster.coordinator.connect(dbname=DATABASE, application_name="the other run")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s, 1)", [0x63697475])
    message = cluster.refused("citus_node", nodes=[node("worker1")], wait_for_other_run=1)
    assert "the other run" in message
    threading.Timer(1.0, connection.close).start()
    assert cluster.ok("citus_node", nodes=[node("worker1")], wait_for_other_run=30)["changed"] is False


def test_a_connection_that_is_cut(cluster: Cluster) -> None:
    """Killed while it waits for a lock; the next run does what is left."""
    blocker = cluster.coordinator.connect(dbname=DATABASE)
    blocker.autocommit = False
    blocker.cursor().execute("LOCK TABLE pg_dist_node IN EXCLUSIVE MODE")

    def cut() -> None:
        for _try in range(100):
            time.sleep(0.1)
            if cluster.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'citus_ha' AND wait_event_type = 'Lock'"
            ):
                return

    thread = threading.Thread(target=cut)
    thread.start()
    message = cluster.refused("citus_node", nodes=[node("worker3", group=3), node("worker1b", group=4)])
    thread.join()
    blocker.close()
    assert "broke during" in message
    assert "Run the task again" in message
    cluster.ok("citus_node", nodes=[node("worker3", group=3), node("worker1b", group=4)])
    assert [row[2] for row in cluster.nodes()] == ["coordinator", "worker1", "worker2", "worker3", "worker1b"]


ODD_NAMES = [
    "'; DROP TABLE pg_dist_node; --",
    'wor"ker',
    "worker 9",
    "WORKER1",
    "wörker-ü",
    "$(reboot)",
    "%s%(name)s",
    "\\",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_are_values(cluster: Cluster, name: str) -> None:
    """A secondary is registered without being connected to, so any name gets to the catalog as it is."""
    cluster.four_times("citus_node", nodes=[node(name, group=2, role="secondary")], wait=False)
    assert (2, "secondary", name) in [row[:3] for row in cluster.nodes()]
    cluster.four_times("citus_node", nodes=[node(name)], state="absent")


@hundred
@given(
    name=HOSTILE,
    cluster_name=st.none() | HOSTILE,
    previous=st.none() | HOSTILE,
    port=st.just(5432) | NUMBERS,
    group=st.just(2) | NUMBERS,
    state=st.sampled_from(["present", "absent", "drained", "disabled"]),
)
def test_hostile_input(
    cluster: Cluster, name: str, cluster_name: str | None, previous: str | None, port: int, group: int, state: str
) -> None:
    """Registered under exactly that name, or refused; then away again, and nothing else has changed."""
    before = cluster.nodes()
    entry = {"name": name, "cluster": cluster_name, "previous_name": previous, "port": port, "group": group}
    given = {key: value for key, value in entry.items() if value is not None}
    done = answered(
        cluster.call("citus_node", nodes=[{**given, "role": "secondary"}], state=state, wait=False, wait_timeout=1)
    )
    new = [row for row in cluster.nodes() if row not in before]
    assert [row[:4] for row in new] == ([(group, "secondary", name, port)] if done and state == "present" else [])
    if new:
        cluster.ok("citus_node", nodes=[given], state="absent")
    assert cluster.nodes() == before
