#!/usr/bin/python
# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hands the leadership of one Patroni group over, with the poolers holding their clients meanwhile."""

from __future__ import annotations

DOCUMENTATION = r"""
module: patroni_switchover
version_added: 0.1.0
short_description: Planned switchover or forced failover of one Patroni group
description:
  - Hands the leadership of a Patroni group to a standby. What cannot work is refused before anything happens.
  - A switchover causes no error for clients of poolers when the task runs on the node that the poolers lead to
    (O(part=leader), the server's half; with Citus the coordinator's leader, whichever group switches over) and on every
    pooler's node (O(part=pooler)) at the same time. The poolers let transactions end and make their clients wait
    (PgBouncer's C(PAUSE)). The other half waits until no pooler has a session any more, and tells Patroni. Each pooler
    lets its clients go on (C(RESUME)) as soon as the new leader accepts writes and, if O(target_port) is given, that
    port leads to it.
extends_documentation_fragment:
  - citus_ha.cluster.attributes
  - citus_ha.cluster.held
  - citus_ha.cluster.patroni
attributes:
  idempotent:
    support: partial
    details: With O(candidate), when that member leads already. Without it every run is a switchover.
options:
  part:
    description:
      - V(server) hands the leadership over. With O(socket_dir) it must run on the node that the poolers lead to, and
        a second switchover is kept away; without it only Patroni is spoken to.
      - V(pooler) holds the clients of the PgBouncer on this node until O(leader) leads no longer. Must run as
        PgBouncer's user.
    type: str
    choices: [server, pooler]
    default: server
  candidate:
    description: The member that is to lead. When not given, the first one that may take over as planned.
    type: str
  force:
    description:
      - A failover instead of a switchover. O(candidate) takes over although it is asynchronous, or nobody leads. Writes
        that it has not received are lost.
      - While somebody leads, Patroni refuses one that lags more than C(maximum_lag_on_failover).
    type: bool
    default: false
  max_lag:
    description: Bytes that the candidate may be behind, by what it last reported to the DCS.
    type: int
    default: 16777216
  wait_timeout:
    description:
      - V(server), seconds to wait afterwards until the group is complete again.
      - V(pooler), seconds after which clients go on in any case, O(drain_timeout) included.
    type: int
    default: 60
  leader:
    description: V(pooler), the member that leads now and is to be replaced.
    type: str
  readers:
    description:
      - V(pooler), databases of PgBouncer that lead to standbys of the coordinator, when another group switches over.
      - Their clients are held before everybody else, and longer, for a standby may look for the old leader a moment
        more. They go on when that one is back as a standby, and five seconds after the others in any case.
    type: list
    elements: str
    default: []
author: citus_ha contributors (@citus-ha)
seealso:
  - module: citus_ha.cluster.patroni_group
"""

EXAMPLES = r"""
- name: Let worker1-2 lead its group
  citus_ha.cluster.patroni_switchover:
    url: https://worker1-1:8008
    candidate: worker1-2

- name: See whether the coordinator's group could switch over
  citus_ha.cluster.patroni_switchover:
    url: https://coordinator-1:8008
  check_mode: true
  register: plan

- name: Switch over without an error, on coordinator-1 and pgbouncer-1 at the same time
  citus_ha.cluster.patroni_switchover:
    url: https://coordinator-1:8008
    part: "{{ 'server' if inventory_hostname == plan.leader else 'pooler' }}"
    leader: "{{ plan.leader }}"
    socket_dir: "{{ '/run/postgresql' if inventory_hostname == plan.leader else '/run/pgbouncer' }}"
    socket_port: "{{ 5432 if inventory_hostname == plan.leader else 6432 }}"
    poolers: [pgbouncer-1]
    target_host: localhost
    target_port: 5000
  become: true
  become_user: postgres
"""

RETURN = r"""
leader:
  description: The member that led before; V(null) when there was none.
  returned: success
  type: str
  sample: coordinator-1
new_leader:
  description: The member that leads now, or in check mode would lead.
  returned: success
  type: str
  sample: coordinator-2
seconds:
  description: V(server), from the order to Patroni to a complete group. V(pooler), how long clients were held.
  returned: when something was done
  type: float
  sample: 1.4
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils import _held, _patroni, _switchover
from ansible_collections.citus_ha.cluster.plugins.module_utils._entrance import Entrance
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import ConnectionFailed, ServerError
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_cluster import Cluster, missing_in
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_wait import wait_for_answer
from ansible_collections.citus_ha.cluster.plugins.module_utils._pgbouncer import Console
from ansible_collections.citus_ha.cluster.plugins.module_utils._runner import run
from ansible_collections.citus_ha.cluster.plugins.module_utils._wait import wait_until


def lead(module: AnsibleModule) -> dict[str, Any]:
    """The leader's half: observe, plan, apply."""
    params = module.params
    client = _patroni.client(params)
    cluster = client.cluster()
    config = client.config()
    todo = _switchover.plan(cluster, config, params["candidate"], params["force"], params["max_lag"])
    if todo is None:
        return {"changed": False, "leader": params["candidate"], "new_leader": params["candidate"]}
    result: dict[str, Any] = {
        "changed": True,
        "leader": todo.leader,
        "new_leader": todo.candidate,
        "diff": {"before": {"leader": todo.leader}, "after": {"leader": todo.candidate}},
    }
    watched = params["socket_dir"] and not params["force"]
    entrance = Entrance(params) if watched else None
    if entrance:
        entrance.refuse_standby()
    if module.check_mode:
        if entrance:  # What refuses it is said before poolers hold their clients for nothing.
            with entrance.alone():
                return result
        return result
    begun = time.monotonic()
    if params["force"]:
        client.failover(str(todo.candidate), timeout=params["wait_timeout"])
    elif entrance:
        with entrance.alone():
            if params["poolers"]:
                wait_until(params["start_at"])
                entrance.wait_for_silence()
            begun = time.monotonic()
            client.switchover(str(todo.leader), todo.candidate, timeout=params["wait_timeout"])
    else:
        client.switchover(str(todo.leader), todo.candidate, timeout=params["wait_timeout"])
    after = _complete(client, params, cluster, config)
    result.update(new_leader=after.leader.name if after.leader else None, seconds=round(time.monotonic() - begun, 3))
    if result["new_leader"] != todo.candidate:
        raise ServerError(
            f"The group {cluster.label} went to {result['new_leader']} instead of {todo.candidate}.",
            "It is complete and works; look at Patroni's log on the candidate for the reason.",
        )
    return result


def _complete(client: _patroni.Client, params: dict[str, Any], before: Cluster, config: dict[str, Any]) -> Cluster:
    """The group once everybody who was well is well again; after a failover, once there is a leader."""
    wait_sync = _switchover.is_synchronous(config) and not params["force"]
    expected = [] if params["force"] else [m.name for m in before.members if m.state in ("running", "streaming")]

    return wait_for_answer(
        client.cluster,
        lambda seen: missing_in(seen, expected, params["max_lag"], wait_sync),
        params["wait_timeout"],
        f"Waiting for the group {before.label} after the switchover",
        "Look at `patronictl list` and Patroni's logs.",
    )


def hold(module: AnsibleModule) -> dict[str, Any]:
    """A pooler's half: clients wait until the port leads to somebody else."""
    params = module.params
    client = _patroni.client(params)
    console = Console(params["socket_dir"], params["socket_port"])
    old = params["leader"]
    target = _held.target_of(params)
    result: dict[str, Any] = {"changed": False, "leader": old, "new_leader": None}
    if _leader_of(client) != old:
        return result
    console.refuse_if_paused()
    if target:
        target.refuse_another(old)
    apis = _apis(client, params["candidate"])
    if params["candidate"] in apis:
        apis[params["candidate"]].status()  # who cannot be asked would be waited for in vain
    if module.check_mode:
        return {**result, "changed": True}
    succession = Succession(apis, old, target)
    seconds = _held.hold(console, succession, params, readers=params["readers"])
    return {**result, "changed": True, "new_leader": succession.new_leader, "seconds": seconds}


class Succession(_held.Work):
    """Somebody else comes to lead."""

    def __init__(self, apis: dict[str, _patroni.Client], old: str, target: _held.Target | None) -> None:
        self.still = f"{old} still leads"
        self.lacking = f"There was no new leader for {old}'s clients"
        self.new_leader: str | None = None
        self._apis = apis
        self._old = old
        self._target = target
        self._stepped_down = False

    def done(self, waited: float) -> bool:
        """Whether somebody else accepts writes, and the port leads to him."""
        others = (name for name in self._apis if name != self._old)
        self.new_leader = next((name for name in others if _accepts_writes(self._apis[name])), None)
        if self.new_leader is None:
            return False
        return self._target is None or self._target.servers(waited) == {self.new_leader}

    def settled(self) -> bool:
        """Whether the old leader serves as a standby."""
        try:
            status = self._apis[self._old].status()
        except (ConnectionFailed, ServerError):
            return False
        return status.get("role") == "replica" and status.get("state") == "running"

    def untouched(self) -> bool:
        """Whether the old leader still leads. It is not asked again once it has said that it does not."""
        leads = None if self._stepped_down else _accepts_writes(self._apis[self._old])
        self._stepped_down = self._stepped_down or leads is False
        return bool(leads)


def _apis(client: _patroni.Client, first: str | None) -> dict[str, _patroni.Client]:
    """The members' APIs, that of ``first`` before the others. Nobody waits long for one that does not answer."""
    members = sorted(client.cluster().members, key=lambda member: member.name != first)
    return {member.name: client.at(member.api_url, timeout=_held.LOOK_SECONDS) for member in members if member.api_url}


def _leader_of(client: _patroni.Client) -> str | None:
    leader = client.cluster().leader
    return leader.name if leader else None


def _accepts_writes(api: _patroni.Client) -> bool | None:
    """Whether Patroni says that it leads, and PostgreSQL that it is not in recovery. None: it does not answer."""
    try:
        status = api.json("GET", "/primary")
    except ConnectionFailed:
        return None
    except ServerError:
        return False
    return status.get("role") == "primary" and status.get("state") == "running"


def work(module: AnsibleModule) -> dict[str, Any]:
    """One of the two halves."""
    return {"server": lead, "pooler": hold}[module.params["part"]](module)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            **_held.held_argument_spec(),
            **_patroni.patroni_argument_spec(),
            "part": {"type": "str", "choices": ["server", "pooler"], "default": "server"},
            "candidate": {"type": "str"},
            "force": {"type": "bool", "default": False},
            "max_lag": {"type": "int", "default": 16777216},
            "wait_timeout": {"type": "int", "default": 60},
            "leader": {"type": "str"},
            "readers": {"type": "list", "elements": "str", "default": []},
        },
        required_if=[
            ("part", "pooler", ["socket_dir", "leader"]),
            ("force", True, ["candidate"]),
        ],
        required_together=[("target_host", "target_port")],
        supports_check_mode=True,
    )
    run(module, work, needs_psycopg2=bool(module.params["socket_dir"]))


if __name__ == "__main__":
    main()
