# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who of a Patroni group has to be restarted, in which order, and when Patroni knows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_cluster import Cluster, Member

# A hot standby refuses to start with less of these than its primary has, so they are raised on the
# standbys first and lowered on the primary first.
# https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-ADMIN
STANDBY_FOLLOWS = frozenset(
    {
        "max_connections",
        "max_locks_per_transaction",
        "max_prepared_transactions",
        "max_wal_senders",
        "max_worker_processes",
    }
)


def only_lowers_standby_limits(reason: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a member waits for a restart only to lower limits that a standby may not have below its primary's.

    :param reason: Patroni's ``pending_restart_reason``: parameter to ``old_value`` and ``new_value``.
    """
    return bool(reason) and all(
        name.lower() in STANDBY_FOLLOWS and _lowered(change.get("old_value"), change.get("new_value"))
        for name, change in reason.items()
    )


def _lowered(old: Any, new: Any) -> bool:
    try:
        return float(new) < float(old)
    except (TypeError, ValueError):
        return False


def restart_order(cluster: Cluster) -> list[Member]:
    """Members with a pending restart in the order that keeps the group writable and its standbys able to start.

    Standbys come first, the leader last. Those that only lower limits which a standby may not have
    below its primary's come after the leader.
    """
    pending = [member for member in cluster.standbys if member.pending_restart]
    leader = [member for member in cluster.leaders if member.pending_restart]
    after = [member for member in pending if leader and only_lowers_standby_limits(member.pending_restart_reason)]
    return [member for member in pending if member not in after] + leader + after


def not_back(status: Mapping[str, Any], begun: str = "") -> list[str]:
    """What a restarted member's own status (``GET /patroni``) lacks to be back in its place.

    :param begun: when the server started that is to be gone.
    """
    lacking = []
    if begun and status.get("postmaster_start_time") == begun:
        lacking.append("it is still the server of before")
    if status.get("state") != "running":
        lacking.append(f"it is '{status.get('state')}'")
    elif status.get("role") == "replica" and status.get("replication_state") != "streaming":
        lacking.append("it does not stream yet")
    return lacking


@dataclass(frozen=True)
class LoopProgress:
    """Has a member been through a whole HA cycle that began after a given moment?

    Patroni applies a new dynamic configuration at the end of the HA cycle in which it read it, and
    only then knows which parameters need a restart. Nothing in the REST API says "applied". What it
    does tell is C(dcs_last_seen), the second at which the cluster was last read from the DCS.
    A first new value says that a cycle has begun which sees the change, the second that this cycle is over.
    Reading C(/cluster) moves the value too, hence only C(/patroni) may be read meanwhile.
    """

    last_seen: int
    steps: int = 0

    def saw(self, last_seen: int) -> LoopProgress:
        """The progress after one more look."""
        return LoopProgress(last_seen, self.steps + 1) if last_seen > self.last_seen else self

    @property
    def done(self) -> bool:
        """Whether a cycle that began after the first look has ended."""
        return self.steps >= 2
