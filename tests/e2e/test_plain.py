# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The whole topology without Patroni: inventories/docker_plain."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster import PREFIX, Cluster, cluster, eventually


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster of this module."""
    folder = tmp_path_factory.mktemp("inventory") / "plain"
    with cluster(folder, template="docker_plain", cluster_name="citus_ha_test_plain") as made:
        made.play("site", timeout=1800).succeeded()
        yield made


def test_it_needs_no_etcd(plain: Cluster) -> None:
    assert not [node for node in plain.nodes() if node.startswith("etcd")]


@pytest.mark.slow
def test_a_second_run_changes_nothing(plain: Cluster) -> None:
    assert plain.play("site").succeeded().changed == {}


def test_standbys_stream_from_slots_of_their_own(plain: Cluster) -> None:
    for group in ("coordinator", "worker1", "worker2"):
        slots = plain.psql(f"{group}-1", "SELECT slot_name, active FROM pg_replication_slots", database="postgres")
        assert slots == f"{PREFIX}{group}-2|t".replace("-", "_")
        assert plain.psql(f"{group}-1", "SELECT sync_state FROM pg_stat_replication", database="postgres") == "quorum"


def test_the_example_runs_and_the_cluster_is_healthy(plain: Cluster) -> None:
    plain.play("example").succeeded()
    assert plain.query("SELECT count(*) FROM events") == [(6,)]
    plain.play("verify").succeeded()


def test_haproxy_tells_primary_and_standby_apart(plain: Cluster) -> None:
    assert plain.query("SELECT pg_is_in_recovery()", port=25000) == [(False,)]
    assert plain.query("SELECT pg_is_in_recovery()", port=25001) == [(True,)]


def test_a_restarted_standby_streams_again(plain: Cluster) -> None:
    plain.docker.containers.get(f"{PREFIX}worker1-2").restart(timeout=30)
    eventually(lambda: plain.psql("worker1-1", "SELECT count(*) FROM pg_stat_replication", database="postgres") == "1")


def test_destroy_leaves_nothing_behind(plain: Cluster) -> None:
    plain.destroy().succeeded()
    assert plain.containers() == []
