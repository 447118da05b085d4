#!/usr/bin/python
# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Membership of nodes in a Citus cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: citus_node
short_description: Registers, checks, drains and removes the nodes of a Citus cluster
version_added: 0.1.0
description:
  - Brings C(pg_dist_node) on the coordinator to the asked state, for one node or for many in one call.
  - Runs against the primary of the coordinator, in the database that has the extension (O(login_db)).
  - Changing something needs a superuser, because Citus itself insists on one; looking does not.
  - What each state does is described by Citus at
    U(https://docs.citusdata.com/en/stable/develop/api_udf.html#cluster-management-and-repair-functions).
options:
  nodes:
    description: The nodes. Several in one call cost no more than one.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Host name or address under which all the nodes of the cluster reach this one.
        type: str
        required: true
      port:
        description: Its PostgreSQL port.
        type: int
        default: 5432
      group:
        description:
          - Citus group. V(0) is the coordinator; a worker and its standbys share a number from 1 up.
          - Left out, a new primary gets the next free number.
        type: int
      role:
        description:
          - Whether the node is written to (V(primary)) or is a standby of the one that is (V(secondary)).
          - A new node without it becomes a primary. With O(postgres_manager=patroni) any role is right without it,
            because Patroni may have switched over.
          - Naming the registered secondary of a group as V(primary) exchanges the two addresses, which is what a
            failover without Patroni needs. Promote the server first.
        type: str
        choices: [primary, secondary]
      cluster:
        description: Citus' C(nodecluster). Only C(citus.cluster_name) of read-only clusters needs another one.
        type: str
        default: default
      should_have_shards:
        description:
          - Whether new and rebalanced shards may come to this group. A property of the primary.
          - Citus' own default for a new node is V(false) for the coordinator and V(true) for workers.
        type: bool
      metadata_synced:
        description:
          - Whether a primary gets a copy of Citus' metadata, so that it can answer queries of clients itself.
          - V(true) unless set. Not used with O(postgres_manager=patroni).
        type: bool
      previous_name:
        description:
          - The name under which this same node is registered so far. Its address is then updated
            (C(citus_update_node)) and no node is added. Once done it has no effect.
        type: str
      previous_port:
        description: The port under which this same node is registered so far.
        type: int
  state:
    description:
      - V(present) registers the nodes, moves their addresses and sets their properties.
      - V(drained) moves all shards of distributed tables to other nodes, online, and keeps new ones away. Reference
        tables stay. The work is a background job of the server; an interrupted task picks it up again. Under Patroni
        name all nodes of a group, for its shards are drained from whoever is its primary at that moment.
      - V(disabled) takes nodes out of use and keeps them registered; V(present) takes them back. Refused while one has
        the only copy of a shard.
      - V(absent) unregisters the nodes. Refused while one has shards or the only copy of a reference table, unless
        O(drain=true). Tables and files of the removed server are left as they are.
    type: str
    choices: [present, absent, drained, disabled]
    default: present
  postgres_manager:
    description:
      - Who registers the nodes.
      - With V(none) this module does.
      - With V(patroni) Patroni does (U(https://patroni.readthedocs.io/en/latest/citus.html)), and O(state=present)
        only waits until all O(nodes) are registered as asked and sets what Patroni leaves alone, which is
        C(should_have_shards). It never adds a node and never changes an address.
      - With V(patroni), O(state=absent) is refused while a node still answers, because Patroni would register it
        again. Drain the group, stop it, take it out of the DCS, and then remove it here.
    type: str
    choices: [none, patroni]
    default: none
  drain:
    description: With O(state=absent), move the shards away first, as O(state=drained) does.
    type: bool
    default: false
  shard_transfer_mode:
    description:
      - How shards are moved. V(auto) and V(force_logical) go on with reads and writes during the move and use logical
        replication; V(auto) refuses tables without a replica identity, V(force_logical) does not, and their updates
        fail meanwhile. V(block_writes) blocks writes.
    type: str
    choices: [auto, force_logical, block_writes]
    default: auto
  wait:
    description: With O(state=present), wait until the nodes are active and have Citus' metadata.
    type: bool
    default: true
  wait_timeout:
    description:
      - Seconds to wait for the nodes, and for shards to be moved away. At its end the task fails and says what is
        still missing; a move that has begun goes on in the server.
      - A drain of much data needs hours; set it accordingly, or run the task again.
    type: int
    default: 300
  progress_interval:
    description:
      - Seconds between two lines of progress while shards are moved away. An action plugin on the controller prints
        them, and calls the module again and again for it; a module alone cannot print while it runs.
    type: int
    default: 10
  wait_for_other_run:
    description:
      - Seconds to wait for another run of this collection's modules that changes the same database's nodes or tables.
        At its end the task fails and says who holds the lock.
    type: int
    default: 60
extends_documentation_fragment:
  - citus_ha.cluster.connection
  - citus_ha.cluster.attributes
attributes:
  action:
    description: An action plugin prints the progress of a drain.
    support: full
seealso:
  - module: citus_ha.cluster.citus_info
  - module: citus_ha.cluster.citus_rebalance
author: citus_ha contributors (@citus-ha)
"""

EXAMPLES = r"""
- name: Wait until Patroni has registered the nodes, and let the coordinator have shards
  citus_ha.cluster.citus_node:
    login_db: app
    postgres_manager: patroni
    nodes:
      - {name: coordinator-1, group: 0, should_have_shards: true}
      - {name: worker1-1, group: 1}
      - {name: worker1-2, group: 1}
    wait_timeout: 120

- name: Register a cluster that Patroni does not manage
  citus_ha.cluster.citus_node:
    login_db: app
    nodes:
      - {name: coordinator-1, group: 0}
      - {name: worker1-1, group: 1}
      - {name: worker1-2, group: 1, role: secondary}

- name: Worker 1 has a new host name
  citus_ha.cluster.citus_node:
    login_db: app
    nodes:
      - {name: worker1.example.org, group: 1, previous_name: worker1-1}

- name: After the standby of group 1 has been promoted by hand
  citus_ha.cluster.citus_node:
    login_db: app
    nodes:
      - {name: worker1-2, group: 1, role: primary}

- name: Empty worker 2 and unregister it
  citus_ha.cluster.citus_node:
    login_db: app
    nodes:
      - name: worker2-1
      - name: worker2-2
    state: absent
    drain: true
    wait_timeout: 86400
"""

RETURN = r"""
nodes:
  description: All registered nodes afterwards (in check mode as they would be), ordered by group, role, name.
  returned: success
  type: list
  elements: dict
  contains:
    node_id: {description: Citus' number of the node; null when check mode only predicts it., type: int, sample: 2}
    name: {description: Host name., type: str, sample: worker1-1}
    port: {description: Port., type: int, sample: 5432}
    group: {description: Citus group., type: int, sample: 1}
    role: {description: V(primary) or V(secondary)., type: str, sample: primary}
    cluster: {description: Citus' C(nodecluster)., type: str, sample: default}
    is_active: {description: Whether Citus uses the node., type: bool, sample: true}
    has_metadata: {description: Whether the node is sent Citus' metadata., type: bool, sample: true}
    metadata_synced: {description: Whether that copy is up to date., type: bool, sample: true}
    should_have_shards: {description: Whether shards may come to the node., type: bool, sample: true}
actions:
  description: The steps that were taken (in check mode, would be), in order.
  returned: success
  type: list
  elements: dict
  contains:
    action:
      description:
        - One of V(set_coordinator_host), V(add), V(update_address), V(activate), V(start_metadata_sync),
          V(stop_metadata_sync), V(set_should_have_shards), V(drain), V(replicate_reference_tables), V(disable),
          V(remove).
      type: str
      sample: add
    name: {description: Host name of the node., type: str, sample: worker1-1}
    port: {description: Port of the node., type: int, sample: 5432}
progress:
  description: How far a drain is, as the module C(citus_rebalance) tells it.
  returned: when O(wait_timeout) is over while shards are moved
  type: dict
  sample: {"job_id": 3, "state": "running", "moves_done": 4, "moves_total": 10, "percent": 40}
timed_out:
  description: Whether the task failed because O(wait_timeout) was over while shards were moved.
  returned: failure
  type: bool
  sample: true
missing:
  description:
    - What is not as asked yet, one sentence each. Empty unless in check mode or with O(wait=false); a task that
      runs into O(wait_timeout) fails with it.
  returned: success and time-out
  type: list
  elements: str
  sample: ["worker2-1:5432 is not registered"]
queries:
  description: Statements that changed something, without their values.
  returned: success
  type: list
  elements: str
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_nodes import (
    Action,
    Address,
    Catalog,
    Desired,
    Node,
    observe_answering,
    observe_holdings,
    observe_nodes,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_nodes_absent import (
    plan_absent,
    plan_disabled,
    plan_drained,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_nodes_apply import (
    apply_moves,
    apply_step,
    predict,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_nodes_present import (
    check_desired,
    plan_patroni,
    plan_present,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_nodes_settled import (
    missing_after_present,
    missing_under_patroni,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_rebalance_drain import drain
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_server import (
    Server,
    observe_server,
    require_coordinator,
    require_superuser,
    require_versions,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import (
    Session,
    connect,
    connection_argument_spec,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput, TimedOut
from ansible_collections.citus_ha.cluster.plugins.module_utils._lock import exclusive
from ansible_collections.citus_ha.cluster.plugins.module_utils._runner import run
from ansible_collections.citus_ha.cluster.plugins.module_utils._wait import wait_for

NODE_OPTIONS = {
    "name": {"type": "str", "required": True},
    "port": {"type": "int", "default": 5432},
    "group": {"type": "int"},
    "role": {"type": "str", "choices": ["primary", "secondary"]},
    "cluster": {"type": "str", "default": "default"},
    "should_have_shards": {"type": "bool"},
    "metadata_synced": {"type": "bool"},
    "previous_name": {"type": "str"},
    "previous_port": {"type": "int"},
}


def observe(session: Session, params: dict[str, Any], desired: Sequence[Desired]) -> Catalog:
    """What the plan for ``params`` depends on."""
    nodes = observe_nodes(session)
    if params["state"] == "present":
        return Catalog(nodes)
    asked = {entry.address for entry in desired}
    registered = [node for node in nodes if node.address in asked]
    if not registered:
        return Catalog(nodes)
    answering: frozenset[Address] = frozenset()
    if params["state"] == "absent" and params["postgres_manager"] == "patroni":
        answering = observe_answering(session, registered)
    return Catalog(nodes, observe_holdings(session), answering)


def plan(params: dict[str, Any], desired: Sequence[Desired], catalog: Catalog) -> list[Action]:
    """The steps for ``params``."""
    state, mode = params["state"], params["shard_transfer_mode"]
    patroni = params["postgres_manager"] == "patroni"
    if state == "absent":
        return plan_absent(desired, catalog, params["drain"], patroni, mode)
    if state == "drained":
        return plan_drained(desired, catalog, mode, patroni)
    if state == "disabled":
        return plan_disabled(desired, catalog)
    return plan_patroni(desired, catalog) if patroni else plan_present(desired, catalog)


def missing(params: dict[str, Any], desired: Sequence[Desired], nodes: Sequence[Node]) -> list[str]:
    """What ``state: present`` still lacks."""
    if params["state"] != "present":
        return []
    if params["postgres_manager"] == "patroni":
        return missing_under_patroni(desired, nodes)
    return missing_after_present(desired, nodes)


def apply(session: Session, actions: Sequence[Action], params: dict[str, Any], module: AnsibleModule) -> None:
    """Take the steps in order; all changes of address take effect together."""
    moves = [action for action in actions if action.kind == "update_address"]
    drains = [action for action in actions if action.kind == "drain"]
    for action in actions:
        if action.kind == "update_address":
            if moves:
                apply_moves(session, moves)
                moves = []
        elif action.kind == "drain":
            if drains:
                remaining = partial(shards_on, session, {(step.name, step.port) for step in drains})
                drain(session, remaining, params["shard_transfer_mode"], params["wait_timeout"], module.log)
                drains = []
        else:
            apply_step(session, action)


def shards_on(session: Session, addresses: set[Address]) -> int:
    """Shards of distributed tables in the groups of ``addresses``."""
    groups = [node.group for node in observe_nodes(session) if node.address in addresses]
    return int(
        session.value(
            "SELECT count(*) FROM pg_dist_placement p JOIN pg_dist_shard s USING (shardid)"
            " JOIN pg_dist_partition t USING (logicalrelid)"
            " WHERE p.groupid = ANY (%s) AND p.shardstate = 1 AND t.repmodel <> 't'"
            " AND NOT (t.partmethod = 'n' AND t.colocationid = 0)",
            (groups,),
        )
    )


def options_in_use(params: dict[str, Any]) -> list[str]:
    """Keys of the table of minimum versions."""
    return [f"state={params['state']}", *(["drain"] if params["drain"] else [])]


def wait_for_nodes(session: Session, params: dict[str, Any], desired: Sequence[Desired]) -> tuple[Node, ...]:
    """Wait until nothing is missing, and return all nodes."""
    patroni = params["postgres_manager"] == "patroni"
    return wait_for(
        lambda: observe_nodes(session),
        lambda nodes: missing(params, desired, nodes),
        params["wait_timeout"],
        f"Waiting on {session.where} for {'Patroni to register' if patroni else 'Citus to activate'} nodes",
        "Look at the logs of the coordinator and of the nodes that are missing"
        + (", and at Patroni's on the coordinator's leader." if patroni else "."),
    )


def work(module: AnsibleModule) -> dict[str, Any]:
    """Connect, and do everything that changes something alone."""
    params = module.params
    desired = [Desired(**entry) for entry in params["nodes"]]
    check_desired(desired)
    if params["progress_interval"] < 1:
        raise InvalidInput(
            f"progress_interval is {params['progress_interval']}.", "Give a number of seconds from 1 up."
        )
    session = connect(params)
    try:
        server = observe_server(session)
        require_coordinator(server)
        require_versions(server, "citus_node", options_in_use(params))
        if module.check_mode:
            return bring_about(module, session, server, desired)
        if params["state"] == "present" and params["postgres_manager"] == "patroni" and params["wait"]:
            wait_for_nodes(session, params, desired)
        with exclusive(session, params["wait_for_other_run"]):
            return bring_about(module, session, server, desired)
    finally:
        session.close()


def bring_about(module: AnsibleModule, session: Session, server: Server, desired: Sequence[Desired]) -> dict[str, Any]:
    """Observe, plan, apply."""
    params = module.params
    catalog = observe(session, params, desired)
    actions = plan(params, desired, catalog)
    after = predict(catalog.nodes, actions)
    if actions:
        require_superuser(server, "change the nodes of a Citus cluster")
    if not module.check_mode:
        try:
            apply(session, actions, params, module)
        except TimedOut as error:
            # What has been begun, for the action plugin that goes on waiting.
            error.details.update(
                timed_out=True,
                changed=True,
                actions=[action.as_dict() for action in actions],
                queries=session.executed,
                diff={"before": as_text(catalog.nodes), "after": as_text(after)},
            )
            raise
        if params["state"] == "present" and params["wait"]:
            after = wait_for_nodes(session, params, desired)
        elif actions:
            after = observe_nodes(session)
    result = {
        "changed": bool(actions),
        "nodes": [asdict(node) for node in after],
        "actions": [action.as_dict() for action in actions],
        "missing": missing(params, desired, after),
        "queries": session.executed,
    }
    if actions:
        result["diff"] = {"before": as_text(catalog.nodes), "after": as_text(after)}
    return result


def as_text(nodes: Sequence[Node]) -> str:
    """One line a node, for the diff."""
    lines = []
    for node in nodes:
        flags = [
            "active" if node.is_active else "inactive",
            "metadata" if node.has_metadata else "no metadata",
            "shards" if node.should_have_shards else "no shards",
        ]
        lines.append(f"group {node.group} {node.role} {node} ({node.cluster}): {', '.join(flags)}\n")
    return "".join(lines)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            "nodes": {"type": "list", "elements": "dict", "required": True, "options": NODE_OPTIONS},
            "state": {"type": "str", "choices": ["present", "absent", "drained", "disabled"], "default": "present"},
            "postgres_manager": {"type": "str", "choices": ["none", "patroni"], "default": "none"},
            "drain": {"type": "bool", "default": False},
            "shard_transfer_mode": {
                "type": "str",
                "choices": ["auto", "force_logical", "block_writes"],
                "default": "auto",
            },
            "wait": {"type": "bool", "default": True},
            "wait_timeout": {"type": "int", "default": 300},
            "progress_interval": {"type": "int", "default": 10},
            "wait_for_other_run": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    run(module, work)


if __name__ == "__main__":
    main()
