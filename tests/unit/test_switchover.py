# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""Who may take a group's leadership over."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.citus_ha.cluster.plugins.module_utils import _switchover
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput, Refused
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_cluster import Cluster, Member

SYNCHRONOUS = {"synchronous_mode": True}


def member(name: str, role: str = "sync_standby", state: str = "streaming", **more: Any) -> Member:
    more = {"timeline": 3, "lag": None if role == "leader" else 0} | more
    return Member(name, role, "running" if role == "leader" else state, f"http://{name}:8008", **more)


def group(*members: Member, **more: Any) -> Cluster:
    return Cluster((member("a", "leader"), *members), scope="shop", **more)


def plan(
    cluster: Cluster, candidate: str | None = None, force: bool = False, config: Any = None
) -> _switchover.Handover | None:
    return _switchover.plan(cluster, SYNCHRONOUS if config is None else config, candidate, force, max_lag=100)


@pytest.mark.parametrize("candidate", [None, "b"])
def test_a_synchronous_standby_takes_over(candidate: str | None) -> None:
    assert plan(group(member("b")), candidate) == _switchover.Handover("a", "b")


def test_without_a_candidate_the_first_that_may() -> None:
    cluster = group(member("b", "replica"), member("c", state="starting"), member("d"))
    assert plan(cluster) == _switchover.Handover("a", "d")


def test_who_leads_already_needs_nothing() -> None:
    assert plan(group(member("b")), "a") is None


@pytest.mark.parametrize("mode", ["quorum", True, "on"])
def test_an_asynchronous_standby_is_refused_in_synchronous_mode(mode: Any) -> None:
    with pytest.raises(Refused, match="asynchronous standby in synchronous mode"):
        plan(group(member("b", "replica")), "b", config={"synchronous_mode": mode})


@pytest.mark.parametrize("config", [{}, {"synchronous_mode": False}, {"synchronous_mode": "off"}])
def test_an_asynchronous_standby_may_without_synchronous_mode(config: dict[str, Any]) -> None:
    assert plan(group(member("b", "replica")), "b", config=config) == _switchover.Handover("a", "b")


def test_a_quorum_standby_may() -> None:
    cluster = group(member("b", "quorum_standby"))
    assert plan(cluster, config={"synchronous_mode": "quorum"}) == _switchover.Handover("a", "b")


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        (group(), "has no standby"),
        (group(member("b", state="starting")), "it is 'starting', not streaming"),
        (group(member("b", timeline=2)), "timeline 2, the leader on 3"),
        (group(member("b", lag=None)), "its lag is not known yet"),
        (group(member("b", lag=101)), r"it lags 101 bytes \(max_lag is 100\)"),
        (group(member("b", tags={"nofailover": True})), "tagged nofailover"),
        (group(member("b"), paused=True), "paused for maintenance"),
        (group(member("b"), scheduled_switchover={"at": "12:00", "from": "a"}), "scheduled for 12:00"),
        (Cluster((member("a"), member("b")), scope="shop"), "no leader at the moment: another switchover"),
        (
            Cluster((Member("a", "leader", "stopping", ""), member("b")), scope="shop"),
            "the leader a, 'stopping': another switchover",
        ),
    ],
)
def test_what_is_refused(cluster: Cluster, words: str) -> None:
    for candidate in (None, "b") if cluster.member("b") else (None,):
        with pytest.raises(Refused, match=words) as refusal:
            plan(cluster, candidate)
        assert "Nothing was changed" in str(refusal.value)


def test_patronis_own_limit_of_a_lag_is_asked_beforehand() -> None:
    with pytest.raises(Refused, match=r"it lags 51 bytes \(Patroni's maximum_lag_on_failover is 50\)"):
        plan(group(member("b", lag=51)), config={"maximum_lag_on_failover": 50})


def test_an_unknown_member_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="no member z, only a, b"):
        plan(group(member("b")), "z")


def test_a_refusal_names_who_could() -> None:
    with pytest.raises(Refused, match="These could: c"):
        plan(group(member("b", "replica"), member("c")), "b")


@pytest.mark.parametrize(
    "cluster",
    [
        group(member("b", "replica", lag=10**6), paused=True),
        Cluster((member("b", "replica", lag=10**9),), scope="shop"),
    ],
)
def test_a_failover_takes_whom_it_is_told(cluster: Cluster) -> None:
    found = plan(cluster, "b", force=True)
    assert found is not None and found.candidate == "b"


def test_a_failover_that_patroni_would_refuse_is_refused_with_the_way_out() -> None:
    with pytest.raises(Refused, match=r"lags 1000000000 bytes, and a still leads.*\(1048576\)") as refusal:
        plan(group(member("b", "replica", lag=10**9)), "b", force=True)
    assert "Stop a's node first" in str(refusal.value.remedy)
    found = plan(group(member("b", lag=10**9)), "b", force=True, config={"maximum_lag_on_failover": 10**10})
    assert found is not None and found.candidate == "b"
