#!/usr/bin/python
# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restarts one member of a Patroni group, with the poolers holding those of their clients that it serves meanwhile."""

from __future__ import annotations

DOCUMENTATION = r"""
module: patroni_restart
version_added: 0.1.0
short_description: Restarts one PostgreSQL server without an error for clients of the poolers
description:
  - Restarts a member of a Patroni group. Clients of poolers see no error when the task runs on the node of the server
    that they reach (O(part=server)) and on every pooler's node (O(part=pooler)) at the same time. For readers of a
    standby that is the standby itself; for everybody else the coordinator's leader, whichever group the member is of.
  - The poolers let transactions end and make their clients wait (PgBouncer's C(PAUSE)). The other half waits until no
    pooler has a session any more, and tells Patroni. Each pooler lets its clients go on (C(RESUME)) as soon as the
    server is back and O(target_port), if given, leads to a server.
extends_documentation_fragment:
  - citus_ha.cluster.attributes
  - citus_ha.cluster.held
  - citus_ha.cluster.patroni
attributes:
  idempotent:
    support: none
    details: Every run is a restart.
options:
  part:
    description:
      - V(server) restarts the member when the poolers have let go of the server behind O(socket_dir).
      - V(pooler) holds the clients of the PgBouncer on this node. Must run as PgBouncer's user.
    type: str
    choices: [server, pooler]
    required: true
  member:
    description: Name of the member to restart.
    type: str
    required: true
  databases:
    description:
      - The databases of PgBouncer whose clients are held.
      - When not given, all; the server behind O(socket_dir) must be a leader then.
    type: list
    elements: str
    default: []
  restart_timeout:
    description: V(server), as in M(citus_ha.cluster.patroni_group).
    type: int
    default: 60
  wait_timeout:
    description:
      - V(server), seconds to wait until the member is back in its place.
      - V(pooler), seconds after which clients go on in any case, O(drain_timeout) included.
    type: int
    default: 60
author: citus_ha contributors (@citus-ha)
seealso:
  - module: citus_ha.cluster.patroni_group
  - module: citus_ha.cluster.patroni_switchover
"""

EXAMPLES = r"""
- name: Restart coordinator-2, a standby, on it and on pgbouncer-1 at the same time; who reads from it waits
  citus_ha.cluster.patroni_restart:
    url: https://coordinator-2:8008
    member: coordinator-2
    part: "{{ 'pooler' if inventory_hostname == 'pgbouncer-1' else 'server' }}"
    databases: [app_ro]
    socket_dir: "{{ '/run/pgbouncer' if inventory_hostname == 'pgbouncer-1' else '/run/postgresql' }}"
    socket_port: "{{ 6432 if inventory_hostname == 'pgbouncer-1' else 5432 }}"
    poolers: [pgbouncer-1]
    target_host: localhost
    target_port: 5001
  become: true
  become_user: postgres
"""

RETURN = r"""
member:
  description: The member.
  returned: success
  type: str
  sample: coordinator-2
seconds:
  description: V(server), from the order to Patroni to a server in its place. V(pooler), how long clients were held.
  returned: when something was done
  type: float
  sample: 1.9
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils import _held, _patroni
from ansible_collections.citus_ha.cluster.plugins.module_utils._entrance import Entrance
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    ConnectionFailed,
    InvalidInput,
    ServerError,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_cluster import Member
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_restart import not_back
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_wait import restart_member, wait_for_replay
from ansible_collections.citus_ha.cluster.plugins.module_utils._pgbouncer import Console
from ansible_collections.citus_ha.cluster.plugins.module_utils._runner import run
from ansible_collections.citus_ha.cluster.plugins.module_utils._wait import wait_until

# Seconds that clients wait for a server that stays away, before they go on with another one.
LOYALTY = 5


def serve(module: AnsibleModule) -> dict[str, Any]:
    """The half beside the server."""
    params = module.params
    client = _patroni.client(params)
    member = _member(client, params["member"])
    api = client.at(member.api_url)
    entrance = Entrance(params)
    if not params["databases"]:
        entrance.refuse_standby()
    result = {"changed": True, "member": member.name}
    with entrance.alone():
        if module.check_mode:
            return result
        wait_until(params["start_at"])
        entrance.wait_for_silence()
        begun = time.monotonic()
        restart_member(api, member.name, params["restart_timeout"], params["wait_timeout"])
    if member.is_leader:
        wait_for_replay(client, api, params["wait_timeout"])
    return {**result, "seconds": round(time.monotonic() - begun, 3)}


def hold(module: AnsibleModule) -> dict[str, Any]:
    """A pooler's half: clients wait until the server is another one than before."""
    params = module.params
    console = Console(params["socket_dir"], params["socket_port"])
    target = _held.target_of(params)
    result = {"changed": True, "member": params["member"]}
    console.refuse_if_paused()
    if target:
        target.refuse_another(None)
    client = _patroni.client(params)
    member = _member(client, params["member"])
    renewal = Renewal(member.name, client.at(member.api_url, timeout=_held.LOOK_SECONDS), target)
    if module.check_mode:
        return result
    return {**result, "seconds": _held.hold(console, renewal, params, params["databases"])}


class Renewal(_held.Work):
    """A member's server is replaced by the next one."""

    def __init__(self, name: str, api: _patroni.Client, target: _held.Target | None) -> None:
        self.still = f"{name} has not restarted"
        self.lacking = f"{name} did not come back"
        self._name = name
        self._api = api
        self._target = target
        self._before = str(api.status().get("postmaster_start_time", ""))

    def done(self, waited: float) -> bool:
        """Whether the server is back, or another one has taken its clients, and the port leads there."""
        status = self._status()
        if self._is_old(status):
            return False
        if not not_back(status, self._before):
            return self._target is None or bool(self._target.servers(waited))
        if self._target is None or waited < LOYALTY:
            return False
        servers = self._target.servers(waited)
        return bool(servers) and self._name not in servers

    def untouched(self) -> bool:
        """Whether the server of before runs."""
        return self._is_old(self._status())

    def _is_old(self, status: dict[str, Any]) -> bool:
        return status.get("postmaster_start_time") == self._before

    def _status(self) -> dict[str, Any]:
        """What the member says of itself; nothing when it does not answer."""
        try:
            return self._api.status()
        except (ConnectionFailed, ServerError):
            return {}


def _member(client: _patroni.Client, name: str) -> Member:
    """The member of that name.

    :raises InvalidInput: the group has none.
    """
    cluster = client.cluster()
    member = cluster.member(name)
    if member is None:
        raise InvalidInput(
            f"The group {cluster.label} has no member {name}. Nothing was changed.",
            f"Its members are {', '.join(member.name for member in cluster.members)}.",
        )
    return member


def work(module: AnsibleModule) -> dict[str, Any]:
    """One of the two halves."""
    return {"server": serve, "pooler": hold}[module.params["part"]](module)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            **_held.held_argument_spec(),
            **_patroni.patroni_argument_spec(),
            "part": {"type": "str", "choices": ["server", "pooler"], "required": True},
            "member": {"type": "str", "required": True},
            "databases": {"type": "list", "elements": "str", "default": []},
            "restart_timeout": {"type": "int", "default": 60},
            "wait_timeout": {"type": "int", "default": 60},
        },
        required_if=[("part", part, ["socket_dir"]) for part in ("server", "pooler")],
        required_together=[("target_host", "target_port")],
        supports_check_mode=True,
    )
    run(module, work, needs_psycopg2=True)


if __name__ == "__main__":
    main()
