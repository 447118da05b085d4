# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Patroni group as its REST API tells it, and what it lacks to be well. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

LEADER_ROLES = ("leader", "standby_leader")
SYNC_ROLES = ("sync_standby", "quorum_standby")


@dataclass(frozen=True)
class Member:
    """One member as ``GET /cluster`` tells it."""

    name: str
    role: str
    state: str
    api_url: str
    host: str | None = None
    port: int | None = None
    timeline: int | None = None
    lag: int | None = None
    """Bytes behind the leader; None when unknown or the leader itself."""
    pending_restart: bool = False
    pending_restart_reason: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_running(self) -> bool:
        """Whether its server runs; that of a standby may stream or not."""
        return self.state in ("running", "streaming")

    @property
    def is_leader(self) -> bool:
        """Whether it holds the leader lock."""
        return self.role in LEADER_ROLES

    def result(self) -> dict[str, Any]:
        """As modules return it."""
        return {
            "name": self.name,
            "role": self.role,
            "state": self.state,
            "host": self.host,
            "port": self.port,
            "api_url": self.api_url,
            "timeline": self.timeline,
            "lag": self.lag,
            "pending_restart": self.pending_restart,
        }


@dataclass(frozen=True)
class Cluster:
    """One Patroni group (``GET /cluster``)."""

    members: tuple[Member, ...]
    scope: str = ""
    paused: bool = False
    scheduled_switchover: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What a person knows it by. The groups of a Citus cluster have one scope: their members tell them apart."""
        return f"{self.scope} ({', '.join(member.name for member in self.members)})"

    @property
    def leaders(self) -> tuple[Member, ...]:
        """Members that hold the leader lock: one, or none while there is an election."""
        return tuple(member for member in self.members if member.is_leader)

    @property
    def leader(self) -> Member | None:
        """The leader, or None."""
        return self.leaders[0] if self.leaders else None

    @property
    def standbys(self) -> tuple[Member, ...]:
        """Every member but the leader."""
        return tuple(member for member in self.members if not member.is_leader)

    def member(self, name: str) -> Member | None:
        """The member of that name, or None."""
        return next((member for member in self.members if member.name == name), None)


def parse_cluster(answer: Mapping[str, Any]) -> Cluster:
    """The answer of ``GET /cluster`` as :class:`Cluster`."""
    members = []
    for item in answer.get("members", []):
        lag = item.get("lag")
        members.append(
            Member(
                name=str(item["name"]),
                role=str(item.get("role", "")),
                state=str(item.get("state", "")),
                api_url=str(item.get("api_url", "")),
                host=item.get("host"),
                port=item.get("port"),
                timeline=item.get("timeline"),
                lag=lag if isinstance(lag, int) else None,
                pending_restart=bool(item.get("pending_restart", False)),
                pending_restart_reason=item.get("pending_restart_reason") or {},
                tags=item.get("tags") or {},
            )
        )
    return Cluster(
        members=tuple(members),
        scope=str(answer.get("scope", "")),
        paused=bool(answer.get("pause", False)),
        scheduled_switchover=answer.get("scheduled_switchover") or {},
    )


def missing_in(cluster: Cluster, expected: Iterable[str] | None, max_lag: int, wait_sync: bool = False) -> list[str]:
    """What the group lacks to be as wanted; empty when nothing.

    :param expected: names that must be there; None means whoever is there must be well.
    :param max_lag: bytes a standby may be behind.
    :param wait_sync: at least one synchronous standby is required.
    """
    lacking = []
    leader = cluster.leader
    if leader is None:
        lacking.append("no member holds the leader lock")
    elif len(cluster.leaders) > 1:
        lacking.append(f"more than one leader: {', '.join(member.name for member in cluster.leaders)}")
    for name in expected if expected is not None else [member.name for member in cluster.members]:
        member = cluster.member(name)
        lacking += [f"member {name} has not joined"] if member is None else _ails(member, leader, max_lag)
    if wait_sync and not any(member.role in SYNC_ROLES for member in cluster.members):
        lacking.append("no synchronous standby")
    return lacking


def _ails(member: Member, leader: Member | None, max_lag: int) -> list[str]:
    if member.is_leader:
        # A standby leader follows a primary elsewhere, by stream or from its archive.
        well = ("running",) if member.role == "leader" else ("running", "streaming", "in archive recovery")
        return [] if member.state in well else [f"leader {member.name} is '{member.state}', not running"]
    if member.state != "streaming":
        return [f"member {member.name} is '{member.state}', not streaming"]
    if leader is not None and leader.timeline is not None and member.timeline not in (leader.timeline, None, 0):
        return [f"member {member.name} is on timeline {member.timeline}, the leader on {leader.timeline}"]
    if member.lag is None:
        return [f"the lag of member {member.name} is not known yet"]
    if member.lag > max_lag:
        return [f"member {member.name} lags {member.lag} bytes (max_lag is {max_lag})"]
    return []
