# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""A cluster on the stand-in, for machines without access to Citus: it comes up, says what it is, and fails over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster import PREFIX, Cluster, cluster, eventually

from playbooks import citus_sources

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(citus_sources() == ["standin"], reason="test_cluster.py ran on the stand-in already"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster of this module."""
    with cluster(
        tmp_path_factory.mktemp("inventory") / "standin", "standin", cluster_name="citus_ha_test_standin"
    ) as made:
        yield made


def test_it_is_refused_outside_a_laboratory(lab: Cluster) -> None:
    run = lab.play("site", "-e", "citus_allow_standin=false")
    assert run.code != 0
    assert "set citus_allow_standin: true" in " ".join(run.output.split())
    assert lab.containers() == []


def test_it_comes_up_with_a_banner(lab: Cluster) -> None:
    run = lab.play("site", timeout=1800).succeeded()
    assert "STAND-IN" in run.output
    assert "stand-in" in lab.query("SELECT citus_version()")[0][0]


def test_the_example_runs_on_it(lab: Cluster) -> None:
    lab.play("example").succeeded()
    assert lab.query("SELECT count(*) FROM events") == [(6,)]
    lab.play("status").succeeded()
    lab.play("verify").succeeded()


def test_a_killed_leader_is_replaced_and_its_shards_answer(lab: Cluster) -> None:
    old = lab.leader("worker1")
    container = lab.docker.containers.get(PREFIX + old)
    container.kill()
    assert eventually(lambda: lab.leader("worker1")) != old
    assert eventually(lambda: lab.query("SELECT count(*) FROM events")) == [(6,)]
    container.start()
    eventually(lambda: lab.play("verify").code == 0, timeout=180)
