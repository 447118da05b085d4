#!/usr/bin/python
# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One Patroni group: waits for it, applies its dynamic configuration, restarts what needs it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: patroni_group
version_added: 0.1.0
short_description: One Patroni group, its dynamic configuration and pending restarts
description:
  - Waits until a group of PostgreSQL servers that Patroni manages is as wanted, merges into its dynamic configuration,
    and restarts the members that need it, one at a time.
  - Speaks only to Patroni's REST API, of any member. For a Citus cluster each Citus group is one Patroni group.
  - Written for Patroni 4 (U(https://patroni.readthedocs.io/en/latest/rest_api.html)).
extends_documentation_fragment:
  - citus_ha.cluster.attributes
  - citus_ha.cluster.patroni
options:
  config:
    description:
      - Dynamic configuration to merge, as C(patronictl edit-config) shows it. Keys not named here are left alone.
      - V(null) removes a key.
      - Values are compared by their meaning, so V(true) is C(on), V(100) is C("100") and V(1GB) is C(1024MB).
    type: dict
    default: {}
  paused:
    description:
      - V(true) switches automatic failover off (maintenance mode), V(false) on. Left as it is when not given.
    type: bool
  members:
    description:
      - Names of the members that must be there. When not given, every member that has joined must be well.
      - With an empty list nobody has to be well, and the group may even have no leader.
    type: list
    elements: str
  wait:
    description:
      - Wait until the API answers, there is exactly one leader, all O(members) run and stream on the leader's timeline,
        and what was changed has reached every member.
      - Not done in check mode.
    type: bool
    default: true
  wait_timeout:
    description: Seconds that each of the waits may take.
    type: int
    default: 120
  wait_sync:
    description: Wait for a synchronous standby as well.
    type: bool
    default: false
  max_lag:
    description: Bytes that a standby may be behind, by what the members last reported to the DCS.
    type: int
    default: 16777216
  restart_pending:
    description:
      - Restart the members whose parameters need it; standbys first, one at a time, each waited for until it streams,
        then the leader. Clients of the leader are disconnected.
      - Limits that a standby may not have below its primary's (such as C(max_connections)) are lowered on the leader
        first.
    type: bool
    default: false
  restart:
    description:
      - Members to restart whether they need it or not, in this order, each waited for until it is back in its place.
        With O(restart_pending) they come first.
      - Every run restarts them.
    type: list
    elements: str
    default: []
  restart_timeout:
    description:
      - Seconds a restarted server may take to start before Patroni hands its leadership over. Replaces
        C(primary_start_timeout) for these restarts.
    type: int
    default: 60
author: citus_ha contributors (@citus-ha)
seealso:
  - name: Patroni's dynamic configuration
    description: Which keys there are.
    link: https://patroni.readthedocs.io/en/latest/dynamic_configuration.html
"""

EXAMPLES = r"""
- name: Wait for the coordinator's group
  citus_ha.cluster.patroni_group:
    members: [coordinator-1, coordinator-2]
    wait_sync: true

- name: Change parameters, and restart what has to be restarted
  citus_ha.cluster.patroni_group:
    config:
      postgresql:
        parameters:
          work_mem: 32MB
          max_connections: 300
          log_min_duration_statement: null  # back to the default
    members: [worker1-1, worker1-2]
    restart_pending: true

- name: Restart a standby
  citus_ha.cluster.patroni_group:
    restart: [worker1-2]

- name: No automatic failover during the maintenance of the DCS
  citus_ha.cluster.patroni_group:
    paused: true

- name: Ask a group whose API has no TLS
  citus_ha.cluster.patroni_group:
    url: http://10.0.0.11:8008
    wait: false
  register: group
"""

RETURN = r"""
leader:
  description: The leader; V(null) when there is none at the moment.
  returned: success
  type: dict
  sample: {name: coordinator-1, host: 10.0.0.11, port: 5432, api_url: "https://10.0.0.11:8008/patroni"}
members:
  description: All members, by name.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: coordinator-1, role: leader, state: running, host: 10.0.0.11, port: 5432, timeline: 1, lag: null,
       pending_restart: false, api_url: "https://10.0.0.11:8008/patroni"}
    - {name: coordinator-2, role: sync_standby, state: streaming, host: 10.0.0.12, port: 5432, timeline: 1, lag: 0,
       pending_restart: false, api_url: "https://10.0.0.12:8008/patroni"}
pending_restart:
  description:
    - Names of the members that still need a restart. In check mode those which need it now; what a change of
      O(config) would add is known only once Patroni has applied it.
  returned: success
  type: list
  elements: str
restarted:
  description: Names of the members that were restarted, in that order; in check mode those that would be.
  returned: success
  type: list
  elements: str
patch:
  description: What was merged into the configuration, in check mode what would be.
  returned: success
  type: dict
config:
  description: The dynamic configuration afterwards; in check mode as predicted.
  returned: success
  type: dict
paused:
  description: Whether automatic failover is switched off.
  returned: success
  type: bool
scope:
  description: Patroni's name of the cluster.
  returned: success
  type: str
  sample: shop
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils import _patroni
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    ConnectionFailed,
    InvalidInput,
    ServerError,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_cluster import Cluster, Member, missing_in
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_config import (
    apply_patch,
    changed_parameters,
    config_patch,
    managed_part,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_restart import LoopProgress, restart_order
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_wait import (
    restart_member,
    wait_for_members,
    wait_for_replay,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._runner import run


@dataclass(frozen=True)
class State:
    """The group and its configuration as one look saw them."""

    cluster: Cluster
    config: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is to be done: merge ``patch``, then restart ``restarts`` in that order."""

    patch: dict[str, Any] = field(default_factory=dict)
    restarts: tuple[str, ...] = ()


def wanted_config(params: dict[str, Any]) -> dict[str, Any]:
    """The options as dynamic configuration."""
    wanted = dict(params["config"])
    if params["paused"] is not None:
        wanted["pause"] = True if params["paused"] else None
    return wanted


def plan(params: dict[str, Any], state: State) -> Plan:
    """What turns ``state`` into what the options ask for. Pure."""
    unknown = [name for name in params["restart"] if state.cluster.member(name) is None]
    if unknown:
        raise InvalidInput(
            f"The group {state.cluster.label} has no member {', '.join(unknown)}. Nothing was changed.",
            f"Its members are {', '.join(member.name for member in state.cluster.members)}.",
        )
    pending = restart_order(state.cluster) if params["restart_pending"] else []
    return Plan(
        patch=config_patch(state.config, wanted_config(params)),
        restarts=tuple(dict.fromkeys([*params["restart"], *(member.name for member in pending)])),
    )


class Group:
    """Looks at one group and changes it."""

    def __init__(self, client: _patroni.Client, params: dict[str, Any]) -> None:
        self._client = client
        self._params = params

    def observe(self) -> State:
        """The group now.

        Reading the cluster first makes the member read its configuration anew. Whether a restart is
        pending is asked of each member: what the DCS says about it is one HA cycle old.
        """
        cluster = self._client.cluster()
        members = tuple(self._with_own_word(member) for member in cluster.members)
        return State(replace(cluster, members=members), self._client.config())

    def wait_for_api(self) -> State:
        """The group as soon as the API answers and a first member has bootstrapped."""
        state: State = self._await(self.observe, lambda state: [], "Waiting for Patroni's REST API")
        return state

    def wait_until_well(self) -> State:
        """The group as soon as nothing is missing."""
        if self._params["members"] != []:
            self._await(
                self._client.cluster,
                lambda cluster: missing_in(
                    cluster, self._params["members"], self._params["max_lag"], self._params["wait_sync"]
                ),
                f"Waiting for the group behind {self._client.url}",
            )
        return self.observe()

    def merge(self, patch: dict[str, Any]) -> None:
        """Change the configuration and, when waiting, come back once every member has taken it over."""
        cluster = self._client.cluster()
        # A member that does not run reads the new configuration when it starts.
        running = [member for member in cluster.members if member.api_url and member.is_running]
        apis = {member.name: self._client.at(member.api_url) for member in running}
        pending_before = {member.name: _pending_parameters(member.pending_restart_reason) for member in cluster.members}
        self._client.patch_config(patch)
        if not self._params["wait"]:
            return
        if "pause" in patch:
            self._wait_for_pause(apis, patch["pause"] is not None)
        if "postgresql" in patch:
            self._wait_for_parameters(apis, changed_parameters(patch), pending_before)

    def restart(self, name: str, only_pending: bool = True) -> None:
        """Restart one member and wait until it is back in its place."""
        cluster = self._client.cluster()
        member = cluster.member(name)
        if member is None:
            raise ServerError(f"Member {name} has left the group before it could be restarted.", "Run the task again.")
        api = self._client.at(member.api_url)
        restart_member(api, name, self._params["restart_timeout"], self._params["wait_timeout"], only_pending)
        self.wait_until_well()
        if member.is_leader:
            wait_for_replay(self._client, api, self._params["wait_timeout"])

    def _with_own_word(self, member: Member) -> Member:
        if not member.api_url:
            return member
        try:
            status = self._client.at(member.api_url).status()
        except (ConnectionFailed, ServerError):  # it is not well: `missing_in` says so when that matters
            return member
        reason = status.get("pending_restart_reason") or {}
        return replace(
            member, pending_restart=bool(status.get("pending_restart", False)), pending_restart_reason=reason
        )

    def _wait_for_pause(self, apis: dict[str, _patroni.Client], paused: bool) -> None:
        word = "paused" if paused else "resumed"
        self._await(
            lambda: {name: _knows_of_pause(api, paused) for name, api in apis.items()},
            lambda seen: [f"member {name} has not {word}" for name, knows in seen.items() if not knows],
            f"Waiting for the group behind {self._client.url} to be {word}",
        )

    def _wait_for_parameters(
        self, apis: dict[str, _patroni.Client], changed: frozenset[str], pending_before: dict[str, frozenset[str]]
    ) -> None:
        """Come back when every member has applied the parameters, and so knows whether it needs a restart."""
        progress: dict[str, LoopProgress] = {}
        flagged: set[str] = set()

        def look() -> dict[str, bool]:
            for name, api in apis.items():
                status = api.status()
                last_seen = int(status.get("dcs_last_seen", 0))
                progress[name] = progress.setdefault(name, LoopProgress(last_seen)).saw(last_seen)
                pending = _pending_parameters(status.get("pending_restart_reason") or {})
                if changed & pending - pending_before.get(name, frozenset()):
                    flagged.add(name)
            return {name: name in flagged or progress[name].done for name in apis}

        self._await(
            look,
            lambda seen: [f"member {name} has not applied the parameters" for name, done in seen.items() if not done],
            f"Waiting for the members of the group behind {self._client.url} to apply the configuration",
        )

    def _await(self, look: Callable[[], Any], missing: Callable[[Any], list[str]], what: str) -> Any:
        """Wait; an API that does not answer yet is one more thing that is missing."""
        return wait_for_members(look, missing, self._params["wait_timeout"], what)


def _knows_of_pause(api: _patroni.Client, paused: bool) -> bool:
    """Whether a member has read it. One that is dead, though the DCS still tells of it, reads it when it is back."""
    try:
        return bool(api.status().get("pause", False)) is paused
    except ConnectionFailed:
        return True


def _pending_parameters(reason: dict[str, Any] | Any) -> frozenset[str]:
    return frozenset(str(name).lower() for name in reason)


def work(module: AnsibleModule) -> dict[str, Any]:
    """Observe, plan, apply."""
    params = module.params
    group = Group(_patroni.client(params), params)
    waits = params["wait"] and not module.check_mode
    before = group.wait_for_api() if waits else group.observe()
    todo = plan(params, before)
    wanted = wanted_config(params)
    if module.check_mode:
        after = State(before.cluster, apply_patch(before.config, todo.patch))
        restarted = list(todo.restarts)
    else:
        if todo.patch:
            group.merge(todo.patch)
        after = group.wait_until_well() if params["wait"] else group.observe()
        restarted = []
        for name in params["restart"]:
            group.restart(name, only_pending=False)
            restarted.append(name)
            after = group.observe()
        if params["restart_pending"]:
            after, restarted = restart_all(group, after, restarted)
    leader = after.cluster.leader
    result: dict[str, Any] = {
        "changed": bool(todo.patch or restarted),
        "leader": {key: leader.result()[key] for key in ("name", "host", "port", "api_url")} if leader else None,
        "members": [member.result() for member in after.cluster.members],
        "pending_restart": [member.name for member in after.cluster.members if member.pending_restart],
        "restarted": restarted,
        "patch": todo.patch,
        "config": after.config,
        "paused": bool(after.config.get("pause", False)) if module.check_mode else after.cluster.paused,
        "scope": after.cluster.scope,
    }
    if result["changed"]:
        result["diff"] = {
            "before": {**managed_part(before.config, wanted), **({"restarted": []} if restarted else {})},
            "after": {
                **managed_part(after.config, wanted),
                **({"restarted": restarted} if restarted else {}),
            },
        }
    return result


def restart_all(group: Group, state: State, restarted: list[str]) -> tuple[State, list[str]]:
    """Restart whoever needs it, looking again after each, for a restart of the leader may make others need one.

    No member is restarted a second time: it would be for nothing. ``restarted`` are those that were already.
    """
    restarted = list(restarted)
    while True:
        todo = [member.name for member in restart_order(state.cluster) if member.name not in restarted]
        if not todo:
            return state, restarted
        group.restart(todo[0])
        restarted.append(todo[0])
        state = group.observe()


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            **_patroni.patroni_argument_spec(),
            "config": {"type": "dict", "default": {}},
            "paused": {"type": "bool"},
            "members": {"type": "list", "elements": "str"},
            "wait": {"type": "bool", "default": True},
            "wait_timeout": {"type": "int", "default": 120},
            "wait_sync": {"type": "bool", "default": False},
            "max_lag": {"type": "int", "default": 16777216},
            "restart_pending": {"type": "bool", "default": False},
            "restart": {"type": "list", "elements": "str", "default": []},
            "restart_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    run(module, work, needs_psycopg2=False)


if __name__ == "__main__":
    main()
