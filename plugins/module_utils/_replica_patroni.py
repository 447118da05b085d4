# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A streaming replica that Patroni manages: everything through its REST API, no file and no session of ours."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils import _patroni
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import CitusHaError, Refused
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_cluster import Cluster, missing_in
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_wait import wait_for_answer
from ansible_collections.citus_ha.cluster.plugins.module_utils._wait import wait_for

REMEDY = "Look at `patronictl list` and at Patroni's log on the member."
RECONNECTS = 10
"""Seconds in which a member that runs connects to its leader."""


def plan(params: Mapping[str, Any], name: str, cluster: Cluster, patient: bool = True) -> str | None:
    """The one action that is needed: reinitialize, switchover, failover, pause, or None. Pure.

    :param patient: whether a member that is starting is given the time for it.
    :raises Refused: with the option that would allow it.
    """
    state = params["state"]
    member = cluster.member(name)
    if state == "paused":
        return None if cluster.paused else "pause"
    if state == "absent":
        if member is not None:
            raise Refused(
                f"Member {name} is still in the group {cluster.label} ('{member.state}').",
                "Stop Patroni on it: Patroni then takes the member and its slot out of the group by itself.",
            )
        return None
    if member is None:
        raise Refused(
            f"The group {cluster.label} has no member {name}, only {', '.join(m.name for m in cluster.members)}.",
            "Start Patroni on it, and give its name in Patroni's configuration as name.",
        )
    if state == "promoted":
        if member.is_leader:
            return None
        return "failover" if params["force"] else "switchover"
    if member.is_leader:
        raise Refused(
            f"Member {name} is the leader of the group {cluster.label}.",
            "Switch over to another member first (state: promoted).",
        )
    if member.state in ("creating replica", "restarting", "stopping"):
        return None  # on its way: wait for it
    if member.state == "streaming" and not params["force"]:
        return None
    if params["allow_rebuild"] and not (patient and member.state == "starting"):
        return "reinitialize"
    return None


def work(module: AnsibleModule) -> dict[str, Any]:
    """Observe, plan, apply."""
    params = module.params
    name: str = params["name"] or socket.gethostname()
    client = _patroni.Client(
        params["patroni_url"],
        params["patroni_ca_cert"],
        params["patroni_client_cert"],
        params["patroni_client_key"],
        timeout=params["connect_timeout"],
    )
    cluster = client.cluster()
    action = plan(params, name, cluster)
    waits = params["wait"] and not module.check_mode
    if waits and params["state"] == "streaming" and params["allow_rebuild"]:
        cluster, action = _give_it_time(client, params, name, cluster)
    before = cluster
    if action is not None and not module.check_mode:
        _apply(client, params, name, cluster, action)
    if waits and params["state"] != "absent":
        _wait(client, params, name, action)
    if not module.check_mode:
        cluster = client.cluster()
    member = cluster.member(name)
    text = None if action is None else f"{action} {cluster.scope if action == 'pause' else name}"
    is_leader = (member is not None and member.is_leader) or action in ("switchover", "failover")
    result: dict[str, Any] = {
        "changed": action is not None,
        "name": name,
        "needs": "none",
        "actions": [text] if text else [],
        "role": "stopped" if member is None else "primary" if is_leader else "standby",
        "receiver": "streaming" if member is not None and member.state == "streaming" else None,
        "lag": member.lag if member is not None else None,
        "timeline": member.timeline if member is not None else None,
        "queries": [],
    }
    if text:
        was = before.member(name)
        result["diff"] = {
            "before": {"role": was.role if was else None, "state": was.state if was else None, "paused": before.paused},
            "after": {"actions": [text]},
        }
    return result


def _give_it_time(
    client: _patroni.Client, params: Mapping[str, Any], name: str, cluster: Cluster
) -> tuple[Cluster, str | None]:
    """A member may only be reconnecting, or starting: only one that gets no further is rebuilt.

    One that lacks WAL to become consistent is "starting" for ever.
    """
    patience = {"running": min(RECONNECTS, params["wait_timeout"]), "starting": params["wait_timeout"]}

    def state(seen: Cluster) -> str:
        member = seen.member(name)
        return member.state if member is not None else ""

    if state(cluster) in patience:
        with suppress(CitusHaError):
            wait_for(
                client.cluster,
                lambda seen: [f"it is {state(seen)}"] if state(seen) in patience else [],
                patience[state(cluster)],
                f"Waiting for member {name}",
            )
        cluster = client.cluster()
    return cluster, plan(params, name, cluster, patient=False)


def _apply(client: _patroni.Client, params: Mapping[str, Any], name: str, cluster: Cluster, action: str) -> None:
    if action == "pause":
        client.pause(True)
    elif action == "failover":
        client.failover(name, timeout=params["wait_timeout"])
    elif action == "switchover":
        if cluster.leader is None:
            raise Refused(
                f"The group {cluster.label} has no leader, so there is nothing to switch over from.",
                f"Set force: true to make {name} the leader.",
            )
        client.switchover(cluster.leader.name, name, timeout=params["wait_timeout"])
    else:
        member = cluster.member(name)
        if member is not None:
            # A broken member is always in the middle of an attempt to start: force ends that attempt.
            client.at(member.api_url).reinitialize(force=True)


def _wait(client: _patroni.Client, params: Mapping[str, Any], name: str, action: str | None) -> None:
    started = {"seen": action != "reinitialize"}

    def missing(seen: Cluster) -> list[str]:
        if params["state"] == "paused":
            return [] if seen.paused else ["the group is not paused"]
        member = seen.member(name)
        if member is None:
            return [f"member {name} has not joined"]
        if params["state"] == "promoted":
            return (
                []
                if member.is_leader and member.state == "running"
                else [f"member {name} is '{member.role}', '{member.state}'"]
            )
        if member.state != "streaming":
            started["seen"] = True
        lacking = missing_in(seen, [name], params["max_lag"])
        return lacking if started["seen"] else [f"member {name} has not begun to reinitialize", *lacking]

    remedy = REMEDY
    if params["state"] == "streaming" and not params["allow_rebuild"]:
        remedy += " If it cannot recover by itself, set allow_rebuild: true to copy it anew."
    wait_for_answer(client.cluster, missing, params["wait_timeout"], f"Waiting for member {name}", remedy)
