# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Handing the leadership of a Patroni group over: who may take it, and waiting for clients at the entrance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils import _connection, _lock
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput, Refused
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_cluster import SYNC_ROLES, Cluster, Member
from ansible_collections.citus_ha.cluster.plugins.module_utils._wait import wait_for

#: Second half of the key of the advisory lock that a switchover holds on the leader.
LOCK_SWITCHOVER = 2

# Sessions that come from outside: those of the poolers (their certificate names them), and whoever else has a
# transaction open and is not Citus itself, which names its sessions so.
_SESSIONS = """
SELECT a.pid, a.usename, a.application_name, host(a.client_addr) AS client,
       coalesce(substring(s.client_dn FROM 'CN=([^/,]+)') = ANY (%(poolers)s), false) AS pooled,
       round(extract(epoch FROM now() - a.xact_start))::int AS seconds
  FROM pg_stat_activity AS a LEFT JOIN pg_stat_ssl AS s USING (pid)
 WHERE a.backend_type = 'client backend' AND a.client_addr IS NOT NULL AND a.pid <> pg_backend_pid()
   AND (coalesce(substring(s.client_dn FROM 'CN=([^/,]+)') = ANY (%(poolers)s), false)
        OR (a.xact_start IS NOT NULL AND a.application_name !~ '^citus_(internal|rebalancer|run_command) gpid='))
"""


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


class Entrance:
    """The server that clients enter through, the coordinator's leader, over its Unix socket."""

    def __init__(self, socket_dir: str, port: int) -> None:
        spec = _connection.connection_argument_spec()
        defaults = {name: option.get("default") for name, option in spec.items()}
        self._session = _connection.connect({**defaults, "login_host": socket_dir, "login_port": port})

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock that keeps a second switchover away. The server's end releases it, too."""
        if self._session.value("SELECT pg_is_in_recovery()"):
            raise Refused(
                f"{self._session.where} is a standby, not the leader. Nothing was changed.",
                "Run this on the node of the coordinator's leader.",
            )
        with ExitStack() as held:
            try:
                held.enter_context(_lock.exclusive(self._session, 0, LOCK_SWITCHOVER))
            except _lock.TimedOut as error:
                raise Refused(
                    f"Another switchover is running: {error.message} Nothing was changed.", "Wait for it."
                ) from error
            # Outside: what the block waits for in vain is no other switchover.
            yield

    def wait_for_silence(self, poolers: Sequence[str], timeout: float) -> None:
        """Return when the poolers have let go of every session and nobody else from outside has a transaction open."""
        wait_for(
            lambda: self._session.query(_SESSIONS, {"poolers": list(poolers)}),
            lambda seen: [_session_text(row) for row in seen],
            timeout,
            "Waiting for the clients' open transactions",
            "Nobody was switched over and clients go on as before. End these, or allow more time with drain_timeout.",
            interval=0.03,
            longest_interval=0.03,
        )


def _session_text(row: Mapping[str, Any]) -> str:
    whose = f"process {row['pid']} of {row['usename']} from {row['client']}"
    if row["pooled"]:
        return f"{whose} (through a pooler that is not paused yet)"
    return f"{whose} ({row['application_name'] or 'no application_name'}), open for {row['seconds']} seconds"
