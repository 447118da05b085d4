# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Planning how nodes lose their shards, are taken out of use, and leave the cluster.

Everything here is pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_nodes import (
    Action,
    Catalog,
    Desired,
    Holdings,
    Node,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_server import COORDINATOR_GROUP
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput, Refused


def plan_drained(
    desired: Sequence[Desired], catalog: Catalog, mode: str = "auto", patroni: bool = False
) -> list[Action]:
    """Steps that leave ``desired`` without shards of distributed tables and keep new ones away.

    :raises InvalidInput: a node is not registered.
    :raises Refused: the shards have nowhere to go, or are the group's, and Patroni lets another member lead it.
    """
    nodes = [_registered(entry, catalog) for entry in desired]
    if patroni:
        _refuse_standbys_alone(nodes, catalog)
    return _drain(nodes, catalog, mode)


def _refuse_standbys_alone(nodes: Sequence[Node], catalog: Catalog) -> None:
    """A secondary has nothing of its own, but who names a member before removing its group means the group."""
    led = {node.group for node in nodes if node.is_primary}
    for node in nodes:
        primary = catalog.primary_of(node.group)
        holdings = catalog.holdings.get(node.group, Holdings())
        if node.group not in led and primary is not None and holdings.distributed:
            raise Refused(
                f"Node {node} is a secondary now; the shards of group {node.group} are drained from its primary,"
                f" {primary}.",
                "Name all nodes of the group.",
            )


def _drain(nodes: Sequence[Node], catalog: Catalog, mode: str) -> list[Action]:
    primaries = [node for node in nodes if node.is_primary]
    leaving = {node.group for node in primaries}
    actions = []
    drains = []
    for node in primaries:
        holdings = catalog.holdings.get(node.group, Holdings())
        if node.should_have_shards:
            actions.append(Action("set_should_have_shards", node.name, node.port, {"value": False}))
        if holdings.distributed:
            values = {"shards": holdings.distributed, "bytes": holdings.distributed_bytes, "shard_transfer_mode": mode}
            drains.append(Action("drain", node.name, node.port, values))
    if drains:
        targets = [
            node
            for node in catalog.nodes
            if node.is_primary and node.is_active and node.should_have_shards and node.group not in leaving
        ]
        if not targets:
            raise Refused(
                f"The shards of {', '.join(f'{step.name}:{step.port}' for step in drains)} have nowhere to go: no other"
                " active primary may have shards.",
                "Add a worker, or set should_have_shards: true on a node that stays.",
            )
    return actions + drains


def _registered(entry: Desired, catalog: Catalog) -> Node:
    node = catalog.at(entry.address)
    if node is None:
        known = ", ".join(str(node) for node in catalog.nodes) or "none"
        raise InvalidInput(f"Node {entry} is not registered. Registered nodes: {known}.", "Correct name or port.")
    return node


def plan_disabled(desired: Sequence[Desired], catalog: Catalog) -> list[Action]:
    """Steps that take ``desired`` out of use and keep them registered.

    :raises Refused: a node has the only copy of a shard, or is the coordinator.
    """
    actions = []
    for entry in desired:
        node = _registered(entry, catalog)
        if not node.is_active:
            continue
        if node.group == COORDINATOR_GROUP and node.is_primary:
            raise Refused(f"Node {node} is the coordinator and cannot be disabled.", "Name a worker.")
        if node.is_primary:
            holdings = catalog.holdings.get(node.group, Holdings())
            only = holdings.only_distributed + holdings.only_reference + holdings.only_local
            if only:
                raise Refused(
                    f"Node {node} has the only copy of {only} shards (tables {', '.join(holdings.tables)}): disabled,"
                    " it would take them away from the cluster.",
                    "Move them away first with state: drained.",
                )
        actions.append(Action("disable", node.name, node.port))
    return actions


def plan_absent(
    desired: Sequence[Desired], catalog: Catalog, drain: bool, patroni: bool, mode: str = "auto"
) -> list[Action]:
    """Steps that unregister ``desired``: move shards away when ``drain`` allows it, secondaries first.

    :raises Refused: data would become unreachable, a group would lose its primary only, or Patroni
        would register the node again.
    """
    nodes = [node for entry in desired if (node := catalog.at(entry.address)) is not None]
    if patroni:
        _refuse_running_under_patroni(nodes, catalog)
    going = {node.address for node in nodes}
    actions: list[Action] = []
    to_drain = False
    copy_reference: list[Node] = []
    leaving = {node.group for node in nodes if node.is_primary}
    staying = [n for n in catalog.nodes if n.is_primary and n.is_active and n.group not in leaving]
    for node in nodes:
        if not node.is_primary:
            continue
        orphans = [n for n in catalog.nodes if n.group == node.group and n.address not in going]
        if orphans:
            raise Refused(
                f"Group {node.group} would keep {', '.join(map(str, orphans))} without its primary {node}.",
                "Name all nodes of the group in the same call.",
            )
        holdings = catalog.holdings.get(node.group, Holdings())
        if holdings.only_local:
            raise Refused(
                f"Node {node} has {holdings.only_local} local tables that Citus manages"
                f" ({', '.join(holdings.tables)}); they cannot be moved to another node.",
                "Undistribute or drop them first.",
            )
        if (holdings.distributed or holdings.only_reference) and not drain:
            raise Refused(
                f"Node {node} still has {_held(holdings)} (tables {', '.join(holdings.tables)}).",
                "Set drain: true to move them to the other nodes first, online; state: drained does only that.",
            )
        if holdings.only_reference:
            if not staying:
                raise Refused(
                    f"Node {node} is the only place of {holdings.only_reference} reference tables, and no other active"
                    " node is left to take them.",
                    "Add a node first, or drop the tables.",
                )
            copy_reference.append(node)
        to_drain = to_drain or bool(holdings.distributed)
    if copy_reference:
        first = copy_reference[0]
        actions.append(Action("replicate_reference_tables", first.name, first.port, {"shard_transfer_mode": mode}))
    if to_drain:  # all that leave: one without shards must not get the others'
        actions += _drain(nodes, catalog, mode)
    for node in sorted(nodes, key=lambda n: (n.is_primary, n.group, n.address)):
        actions.append(Action("remove", node.name, node.port))
    return actions


def _held(holdings: Holdings) -> str:
    parts = []
    if holdings.distributed:
        parts.append(f"{holdings.distributed} shards ({holdings.distributed_bytes} bytes)")
    if holdings.only_reference:
        parts.append(f"the only copy of {holdings.only_reference} reference tables")
    return " and ".join(parts)


def _refuse_running_under_patroni(nodes: Sequence[Node], catalog: Catalog) -> None:
    running = [node for node in nodes if node.address in catalog.answering]
    if running:
        raise Refused(
            f"{', '.join(map(str, running))} still {'answers' if len(running) == 1 else 'answer'}: Patroni would"
            " register it again.",
            "Remove a group in this order: state: drained; stop Patroni on all of its members; take the group out of"
            " the DCS (patronictl remove CLUSTER --group N); then state: absent.",
        )
