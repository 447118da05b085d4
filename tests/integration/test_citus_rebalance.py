# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""citus_rebalance against real servers: the plan, the run, interruptions, and what is put back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from citus_cluster import DATABASE, Cluster, citus_cluster
from hostile import NUMBERS, OPTION, answered, hundred
from hypothesis import given
from hypothesis import strategies as st

# Quick to notice, slow enough that a job can be met while it runs.
SETTINGS = {"citus.background_task_queue_interval": "250", "max_worker_processes": "24"}
EXECUTORS = ("citus.max_background_task_executors", "citus.max_background_task_executors_per_node")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with citus_cluster(["worker1", "worker2", "worker3"], settings=SETTINGS) as running:
        running.sql("CREATE TABLE events (user_id integer PRIMARY KEY, payload text)")
        running.sql("SELECT create_distributed_table('events', 'user_id', shard_count => 12)")
        running.sql("CREATE TABLE visits (user_id integer PRIMARY KEY)")
        running.sql("SELECT create_distributed_table('visits', 'user_id', colocate_with => 'events')")
        running.sql("INSERT INTO events SELECT i, repeat('x', 500) FROM generate_series(1, 12000) i")
        running.sql("CREATE TABLE countries (code text PRIMARY KEY)")
        running.sql("SELECT create_reference_table('countries')")
        yield running


@pytest.fixture(autouse=True)
def unbalanced(cluster: Cluster) -> None:
    """Every test starts with worker3 empty and allowed to have shards, and with no job at work."""
    for _try in range(100):
        if not cluster.sql(
            "SELECT 1 FROM citus_rebalance_status() WHERE state IN ('scheduled', 'running', 'cancelling')"
        ):
            break
        time.sleep(0.2)
    drained = {"nodes": [{"name": "worker3"}], "state": "drained", "wait_timeout": 120}
    cluster.ok("citus_node", **drained, shard_transfer_mode="block_writes")  # the quickest way
    cluster.ok("citus_node", nodes=[{"name": "worker3", "should_have_shards": True}])


def counts(cluster: Cluster) -> dict[str, int]:
    """Shards of ``events`` by node."""
    return dict(
        cluster.sql(
            "SELECT nodename, count(*) FROM citus_shards WHERE table_name = 'events'::regclass GROUP BY 1 ORDER BY 1"
        )
    )


def executors(cluster: Cluster) -> list[int]:
    rows = dict(cluster.sql("SELECT name, setting::int FROM pg_settings WHERE name = ANY (%s)", [list(EXECUTORS)]))
    return [rows.get(name, 0) for name in EXECUTORS]


def test_plan_and_run(cluster: Cluster) -> None:
    predicted, applied = cluster.four_times("citus_rebalance", strategy="by_shard_count", wait_timeout=180)
    assert counts(cluster) == {"worker1": 4, "worker2": 4, "worker3": 4}
    assert cluster.sql("SELECT count(*), count(DISTINCT user_id) FROM events") == [(12000, 12000)]
    assert predicted["moves"] == applied["moves"]
    assert predicted["diff"] == applied["diff"]
    assert len(applied["moves"]) == 8, "four shards, each with the one of visits that is colocated"
    assert {move["table"] for move in applied["moves"]} == {"public.events", "public.visits"}
    assert {move["target"] for move in applied["moves"]} == {"worker3:5432"}
    assert applied["bytes"] == sum(move["bytes"] for move in applied["moves"]) > 0
    assert applied["seconds"] is not None
    assert applied["running"] is False
    assert applied["progress"]["state"] == "finished"
    assert applied["progress"]["moves_done"] == 4
    for move in applied["moves"]:
        where = cluster.sql(
            "SELECT nodename || ':' || nodeport FROM citus_shards WHERE shardid = %s", [move["shard_id"]]
        )
        assert where == [(move["target"],)]
    assert cluster.sql("SELECT count(*) FROM pg_dist_cleanup") == [(0,)]


def test_started_then_waited(cluster: Cluster) -> None:
    started = cluster.ok("citus_rebalance", state="started", strategy="by_shard_count")
    assert started["changed"] is True
    again = cluster.ok("citus_rebalance", state="started", strategy="by_shard_count")
    assert again["changed"] is False, "a job that runs is not started twice"
    assert again["progress"]["job_id"] == started["progress"]["job_id"]
    waited = cluster.ok("citus_rebalance", state="waited", wait_timeout=180)
    assert waited["changed"] is False
    assert waited["progress"]["job_id"] == started["progress"]["job_id"]
    assert counts(cluster)["worker3"] == 4


def test_time_out_tells_the_progress_and_the_job_goes_on(cluster: Cluster) -> None:
    if cluster.is_standin:
        pytest.skip("the stand-in's moves are too quick to be met at work")
    failed = cluster.call("citus_rebalance", strategy="by_shard_count", wait_timeout=0)
    assert failed["failed"]
    assert failed["timed_out"] is True
    assert "The job goes on in the server" in failed["msg"]
    assert failed["progress"]["moves_total"] == 4
    assert failed["progress"]["bytes_left"] > 0
    resumed = cluster.ok("citus_rebalance", strategy="by_shard_count", wait_timeout=180)
    assert resumed["progress"]["job_id"] == failed["progress"]["job_id"]
    assert counts(cluster)["worker3"] == 4


def test_stopped_and_resumed(cluster: Cluster) -> None:
    if cluster.is_standin:
        pytest.skip("the stand-in's moves are too quick to be met at work")
    cluster.ok("citus_rebalance", state="started", strategy="by_shard_count")
    assert cluster.ok("citus_rebalance", state="stopped", check=True)["changed"] is True
    stopped = cluster.ok("citus_rebalance", state="stopped", wait_timeout=60)
    assert stopped["changed"] is True
    assert stopped["progress"]["state"] == "cancelled"
    assert counts(cluster).get("worker3", 0) < 4
    assert cluster.sql("SELECT count(*) FROM pg_dist_cleanup") == [(0,)]
    for check in (False, True):
        assert cluster.ok("citus_rebalance", state="stopped", check=check)["changed"] is False
    cluster.ok("citus_rebalance", strategy="by_shard_count", wait_timeout=180)
    assert counts(cluster)["worker3"] == 4


def test_threshold_of_its_own(cluster: Cluster) -> None:
    """worker1 and worker2 have six each, worker3 none: the average is four."""
    generous = cluster.ok("citus_rebalance", strategy="by_shard_count", threshold=1.0, wait_timeout=180)
    assert generous["changed"] is False
    before = cluster.sql("SELECT name::text FROM pg_dist_rebalance_strategy ORDER BY 1")
    options = {"strategy": "by_shard_count", "threshold": 0.5, "wait_timeout": 180}
    predicted, applied = cluster.four_times("citus_rebalance", **options)
    assert predicted["moves"] == applied["moves"]
    assert len(applied["moves"]) == applied["progress"]["moves_total"] * 2
    assert 0 < counts(cluster)["worker3"] <= 4
    assert cluster.sql("SELECT name::text FROM pg_dist_rebalance_strategy ORDER BY 1") == before
    assert "from 0.0 to 1.0" in cluster.refused("citus_rebalance", threshold=1.5)


def test_by_disk_size(cluster: Cluster) -> None:
    cluster.four_times("citus_rebalance", strategy="by_disk_size", wait_timeout=180)
    assert counts(cluster)["worker3"] > 0


def test_unknown_strategy(cluster: Cluster) -> None:
    message = cluster.refused("citus_rebalance", strategy="by_moon")
    assert "The server has: by_disk_size, by_shard_count" in message


@hundred
@given(strategy=OPTION, threshold=st.none() | st.floats(), parallelism=st.none() | NUMBERS, timeout=NUMBERS)
def test_hostile_input(
    cluster: Cluster, strategy: str, threshold: float | None, parallelism: int | None, timeout: int
) -> None:
    """No such strategy, whatever else is said: nothing moves, no setting changes, no traceback."""
    before = counts(cluster), executors(cluster), cluster.sql("SELECT * FROM pg_dist_rebalance_strategy ORDER BY name")
    result = cluster.call(
        "citus_rebalance", strategy=strategy, threshold=threshold, parallelism=parallelism, wait_timeout=timeout
    )
    assert not answered(result), result
    after = counts(cluster), executors(cluster), cluster.sql("SELECT * FROM pg_dist_rebalance_strategy ORDER BY name")
    assert after == before


def test_a_connection_that_is_cut(cluster: Cluster) -> None:
    """The session that waits is killed; the job goes on, and the next run finds it and sees it end."""
    if cluster.is_standin:
        pytest.skip("the stand-in's moves are too quick to be met at work")
    started = cluster.ok("citus_rebalance", state="started", strategy="by_shard_count")
    cut = threading.Thread(target=cluster.cut, args=("citus_rebalance_status",))
    cut.start()
    message = cluster.refused("citus_rebalance", strategy="by_shard_count", wait_timeout=180)
    cut.join()
    assert "The connection to" in message
    assert "broke during" in message
    assert "Run the task again" in message
    resumed = cluster.ok("citus_rebalance", strategy="by_shard_count", wait_timeout=180)
    assert resumed["progress"]["job_id"] == started["progress"]["job_id"]
    assert counts(cluster)["worker3"] == 4


def test_drain_only(cluster: Cluster) -> None:
    assert cluster.ok("citus_rebalance", drain_only=True, wait_timeout=180)["moves"] == []
    cluster.sql("SELECT citus_set_node_property('worker2', 5432, 'shouldhaveshards', false)")
    try:
        cluster.four_times("citus_rebalance", drain_only=True, wait_timeout=180)
        assert "worker2" not in counts(cluster)
    finally:
        cluster.sql("SELECT citus_set_node_property('worker2', 5432, 'shouldhaveshards', true)")
    cluster.ok("citus_rebalance", strategy="by_shard_count", wait_timeout=180)


def test_parallelism_is_put_back(cluster: Cluster) -> None:
    before = executors(cluster)
    if 0 in before:
        pytest.skip("this server has no settings for parallel moves")
    started = cluster.ok("citus_rebalance", state="started", strategy="by_shard_count", parallelism=3)
    assert started["settings"] == dict(zip(EXECUTORS, [12, 3], strict=True))
    raised = executors(cluster)
    if started["running"]:
        assert raised == [12, 3]
    waited = cluster.ok("citus_rebalance", state="waited", wait_timeout=180)
    assert waited["settings_restored"] is True or not started["running"]
    assert executors(cluster) == before
    assert cluster.sql("SELECT count(*) FROM pg_db_role_setting WHERE setconfig::text LIKE '%rebalance%'") == [(0,)]
    in_file = "SELECT count(*) FROM pg_file_settings WHERE sourcefile LIKE '%auto.conf' AND name LIKE 'citus.%'"
    assert cluster.sql(in_file) == [(0,)]


def test_parallelism_is_put_back_after_an_interruption(cluster: Cluster) -> None:
    """The controller dies while the job runs; whoever calls the module next finds the note."""
    before = executors(cluster)
    if 0 in before:
        pytest.skip("this server has no settings for parallel moves")
    cluster.sql(f"ALTER SYSTEM SET {EXECUTORS[1]} = 2")
    cluster.sql("SELECT pg_reload_conf()")
    try:
        cluster.ok("citus_rebalance", state="started", strategy="by_shard_count", parallelism=4)
        for _try in range(300):
            if not cluster.sql("SELECT 1 FROM citus_rebalance_status() WHERE state IN ('scheduled', 'running')"):
                break
            time.sleep(0.2)
        again = cluster.ok("citus_rebalance", strategy="by_shard_count", parallelism=4, wait_timeout=180)
        assert again["moves"] == []
        assert executors(cluster) == [before[0], 2], "a value that somebody has set is put back, not reset"
    finally:
        cluster.sql(f"ALTER SYSTEM RESET {EXECUTORS[1]}")
        cluster.sql("SELECT pg_reload_conf()")


def test_without_rights(cluster: Cluster) -> None:
    cluster.sql("DROP ROLE IF EXISTS somebody")
    cluster.sql("CREATE ROLE somebody LOGIN")
    message = cluster.refused("citus_rebalance", login_user="somebody", strategy="by_shard_count")
    assert "must be owner" in message
    for options in ({"threshold": 0.1}, {"parallelism": 4}):
        message = cluster.refused("citus_rebalance", login_user="somebody", strategy="by_shard_count", **options)
        assert "not a superuser" in message or 0 in executors(cluster)
    assert "worker3" not in counts(cluster)


def test_a_move_that_fails(cluster: Cluster) -> None:
    """A table without a replica identity cannot be moved online; the server says so before the first move."""
    cluster.sql("CREATE TABLE keyless (user_id integer)")
    cluster.sql("SELECT create_distributed_table('keyless', 'user_id', colocate_with => 'events')")
    try:
        message = cluster.refused("citus_rebalance", strategy="by_shard_count")
        assert "keyless" in message
        assert "worker3" not in counts(cluster)
        cluster.ok("citus_rebalance", strategy="by_shard_count", shard_transfer_mode="block_writes", wait_timeout=180)
        assert counts(cluster)["worker3"] == 4
    finally:
        cluster.sql("DROP TABLE keyless")


def test_where_it_runs(cluster: Cluster) -> None:
    message = cluster.refused("citus_rebalance", server="worker2")
    assert "is a worker (Citus group 2)" in message
    assert "coordinator:5432" in message


def test_a_server_that_is_too_old(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.citus_ha.cluster.plugins.module_utils import _versions

    option = ("citus_rebalance", "parallel_transfer_colocated_shards")
    monkeypatch.setitem(_versions.MINIMUM, option, _versions.Minimum(citus=(99, 0), source="this test"))
    message = cluster.refused("citus_rebalance", parallel_transfer_colocated_shards=True)
    assert "parallel_transfer_colocated_shards needs Citus 99.0; this server has" in message


def test_two_runs_at_once(cluster: Cluster) -> None:
    connection = cluster.coordinator.connect(dbname=DATABASE, application_name="the other run")
    connection.cursor().execute("SELECT pg_advisory_lock(%s, 1)", [0x63697475])
    message = cluster.refused("citus_rebalance", wait_for_other_run=1)
    assert "the other run" in message
    connection.close()


def test_the_action_plugin_prints_progress(cluster: Cluster, tmp_path: Path) -> None:
    task: dict[str, Any] = {
        "citus_ha.cluster.citus_rebalance": {
            "login_host": cluster.coordinator.address,
            "login_db": DATABASE,
            "strategy": "by_shard_count",
            "progress_interval": 1,
            "wait_timeout": 180,
        },
        "register": "done",
    }
    shown = {"ansible.builtin.debug": {"msg": "moves={{ done.moves | length }} changed={{ done.changed }}"}}
    printed = cluster.play(tmp_path, task, shown, task, shown)
    assert "moves=8 changed=True" in printed
    assert "moves=0 changed=False" in printed
    if not cluster.is_standin:
        assert "[localhost] rebalance job" in printed
        assert "of 4 moves)" in printed
    assert counts(cluster)["worker3"] == 4
