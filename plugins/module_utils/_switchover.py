# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Handing the leadership of a Patroni group over: who may take it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput, Refused
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_cluster import SYNC_ROLES, Cluster, Member

#: Patroni's default, in bytes. https://patroni.readthedocs.io/en/latest/dynamic_configuration.html
MAXIMUM_LAG_ON_FAILOVER = 1048576


@dataclass(frozen=True)
class Handover:
    """Who gives the leadership up (None when nobody holds it) and who is to take it (None: Patroni chooses)."""

    leader: str | None
    candidate: str | None


def is_synchronous(config: Mapping[str, Any]) -> bool:
    """Whether only members that have every acknowledged write may take over."""
    mode = config.get("synchronous_mode", False)
    return mode == "quorum" or str(mode).lower() in ("true", "on", "yes")


def plan(
    cluster: Cluster, config: Mapping[str, Any], candidate: str | None, force: bool, max_lag: int
) -> Handover | None:
    """What is to be done, or None when the candidate leads already. Pure.

    :raises Refused: with the reason and what to do.
    :raises InvalidInput: no such member.
    """
    group = f"The group {cluster.label}"
    names = ", ".join(member.name for member in cluster.members)
    if candidate is not None and cluster.member(candidate) is None:
        raise InvalidInput(
            f"{group} has no member {candidate}, only {names}. Nothing was changed.", "Name one of these."
        )
    leader = cluster.leader
    if candidate is not None and leader is not None and leader.name == candidate and leader.state == "running":
        return None
    if cluster.scheduled_switchover and not force:
        raise Refused(
            f"{group} has a switchover scheduled for {cluster.scheduled_switchover.get('at')}. Nothing was changed.",
            "Wait for it, or cancel it with `patronictl flush`.",
        )
    if cluster.paused and not force:
        raise Refused(
            f"{group} is paused for maintenance, so nobody would look after it. Nothing was changed.",
            "Run resume.yml first.",
        )
    if force:
        if candidate is None:
            raise InvalidInput(f"A failover needs a candidate: {names}.", "Name the member that is to lead.")
        _refuse_what_patroni_refuses(cluster, config, candidate)
        return Handover(leader.name if leader else None, candidate)
    if leader is None or leader.state != "running":
        seen = "has no leader at the moment" if leader is None else f"has the leader {leader.name}, '{leader.state}'"
        raise Refused(
            f"{group} {seen}: another switchover or a failover is under way. Nothing was changed.",
            "Wait for it. If it does not end, look at `patronictl list` and Patroni's logs.",
        )
    if not cluster.standbys:
        raise Refused(
            f"{group} has no standby: only {leader.name} is there. Nothing was changed.",
            "Add one to the inventory and run site.yml.",
        )
    limits = {member.name: limitation(member, leader, config, max_lag) for member in cluster.standbys}
    if candidate is not None and limits[candidate]:
        raise Refused(f"{group} cannot go to {candidate}: {limits[candidate]}. Nothing was changed.", _remedy(limits))
    if all(limits.values()):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in limits.items())
        raise Refused(f"{group} has no standby that could take over ({reasons}). Nothing was changed.", _remedy(limits))
    # Patroni would choose among all; one that is known to be well leaves nothing to chance.
    return Handover(leader.name, candidate or next(name for name, reason in limits.items() if not reason))


def _refuse_what_patroni_refuses(cluster: Cluster, config: Mapping[str, Any], candidate: str) -> None:
    """As long as somebody leads, Patroni has its own limit, by order of a person, too."""
    leader, member = cluster.leader, cluster.member(candidate)
    limit = _limit_of_patroni(config)
    if leader is not None and leader.state == "running" and member is not None and (member.lag or 0) > limit:
        raise Refused(
            f"{candidate} lags {member.lag} bytes, and {leader.name} still leads: Patroni takes no more than "
            f"maximum_lag_on_failover ({limit}) then. Nothing was changed.",
            f"Stop {leader.name}'s node first, or set postgres_maximum_lag_on_failover higher and run site.yml.",
        )


def limitation(member: Member, leader: Member, config: Mapping[str, Any], max_lag: int) -> str | None:
    """Why a standby may not take over as planned; None when it may."""
    if member.state != "streaming":
        return f"it is '{member.state}', not streaming"
    if leader.timeline is not None and member.timeline not in (leader.timeline, None, 0):
        return f"it is on timeline {member.timeline}, the leader on {leader.timeline}"
    if member.tags.get("nofailover"):
        return "it is tagged nofailover"
    if is_synchronous(config) and member.role not in SYNC_ROLES:
        return "it is an asynchronous standby in synchronous mode"
    if member.lag is None:
        return "its lag is not known yet"
    if member.lag > max_lag:
        return f"it lags {member.lag} bytes (max_lag is {max_lag})"
    if member.lag > (limit := _limit_of_patroni(config)):
        return f"it lags {member.lag} bytes (Patroni's maximum_lag_on_failover is {limit})"
    return None


def _limit_of_patroni(config: Mapping[str, Any]) -> int:
    return int(config.get("maximum_lag_on_failover", MAXIMUM_LAG_ON_FAILOVER))


def _remedy(limits: Mapping[str, str | None]) -> str:
    able = [name for name, reason in limits.items() if not reason]
    if able:
        return f"These could: {', '.join(able)}."
    return "Wait until one streams and is synchronous, or run reinit.yml for it."
