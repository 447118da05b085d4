# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Planning which nodes are registered, at which addresses and with which properties.

Everything here is pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_nodes import (
    PRIMARY,
    SECONDARY,
    Action,
    Address,
    Catalog,
    Desired,
    Node,
    as_registered,
    known_group,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_server import COORDINATOR_GROUP
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput, Refused

PARKING_SUFFIX = "-moving"
"""Appended for the moment in which two nodes exchange addresses; never visible outside the transaction."""


def check_desired(desired: Sequence[Desired]) -> None:
    """Refuse lists that contradict themselves.

    :raises InvalidInput: naming the entries.
    """
    seen: set[Address] = set()
    primaries: dict[int, Desired] = {}
    for entry in desired:
        if not entry.name or len(entry.name) > 255:
            raise InvalidInput(
                f"nodes: the name {entry.name!r} has {len(entry.name)} characters.", "A host name has 1 to 255."
            )
        if "\x00" in entry.name:
            raise InvalidInput(f"nodes: the name {entry.name!r} contains a null character.", "Give a host name.")
        if not 1 <= entry.port <= 65535:
            raise InvalidInput(f"nodes: {entry.name} has port {entry.port}.", "A port is a number from 1 to 65535.")
        if entry.group is not None and not 0 <= entry.group <= 2147483647:
            raise InvalidInput(
                f"nodes: {entry} has group {entry.group}.", "Group 0 is the coordinator, workers are 1, 2, ..."
            )
        if entry.address in seen:
            raise InvalidInput(f"nodes: {entry} is named twice.", "Name every node once.")
        seen.add(entry.address)
        if entry.role == PRIMARY and entry.group is not None:
            other = primaries.setdefault(entry.group, entry)
            if other is not entry:
                raise InvalidInput(
                    f"nodes: both {other} and {entry} are to be the primary of group {entry.group}.",
                    "A group has one primary; make the other one role: secondary, or give it another group.",
                )
    claimed: set[Address] = set()
    for entry in desired:
        if entry.previous is None or entry.previous == entry.address:
            continue
        name = f"{entry.previous[0]}:{entry.previous[1]}"
        if entry.previous in seen:
            raise InvalidInput(
                f"nodes: {name} is listed as a node and as the previous address of {entry}.",
                "Change the address in a call of its own; leave previous_name out once that is done.",
            )
        if entry.previous in claimed:
            raise InvalidInput(f"nodes: two entries have the previous address {name}.", "Only one can be that node.")
        claimed.add(entry.previous)


def plan_present(desired: Sequence[Desired], catalog: Catalog) -> list[Action]:
    """Steps that register ``desired``, move addresses, and set properties; empty when all is as asked.

    :raises Refused: a step would put another server in a registered node's place without being asked to.
    :raises InvalidInput: an entry contradicts the catalog.
    """
    coordinator: list[Action] = []
    moves: dict[int, Address] = {}
    adds: list[Action] = []
    later: list[Action] = []
    wanted = {entry.address: entry for entry in desired}
    _refuse_two_newcomers(desired, catalog, wanted)
    for entry in sorted(_with_groups(desired, catalog), key=_registration_order):
        node = catalog.at(entry.address)
        previous = catalog.at(entry.previous) if entry.previous else None
        if node is None and previous is not None:
            _require_same_place(entry, previous)
            moves[_id(previous)] = entry.address
            later += _properties(entry, previous)
        elif node is None:
            step = _registration(entry, catalog)
            (coordinator if step.kind == "set_coordinator_host" else adds).append(step)
            later += _properties(entry, as_registered(entry, catalog))
        else:
            _require_same_place(entry, node, ignore_role=True)
            if entry.role is not None and entry.role != node.role:
                node = _exchange(entry, node, catalog, wanted, moves)
            later += _properties(entry, node)
    return coordinator + _moves(moves, catalog) + adds + later


def _known(entry: Desired, catalog: Catalog) -> Node | None:
    """The row that the entry has already, at its address or the one before."""
    return catalog.at(entry.address) or (catalog.at(entry.previous) if entry.previous else None)


def _refuse_two_newcomers(desired: Sequence[Desired], catalog: Catalog, wanted: Mapping[Address, Desired]) -> None:
    """Of the entries without a role that would become the primary of their group there may be one."""
    primaries: dict[int, str] = {}
    for node in catalog.nodes:
        if node.is_primary and node.address in wanted and wanted[node.address].role != SECONDARY:
            primaries[node.group] = str(node)
    for entry in desired:
        if _known(entry, catalog) is not None or entry.group is None or entry.role == SECONDARY:
            continue
        other = primaries.setdefault(entry.group, str(entry))
        if other != str(entry):
            raise InvalidInput(
                f"nodes: both {other} and {entry} would be the primary of group {entry.group}.",
                "A group has one primary; make the other one role: secondary, or give it another group.",
            )


def _with_groups(desired: Sequence[Desired], catalog: Catalog) -> list[Desired]:
    """Give every new primary without a group the next free one.

    Citus' own choice comes from a sequence that knows nothing of groups which were given by number.
    """
    taken = {node.group for node in catalog.nodes} | {entry.group for entry in desired if entry.group is not None}
    following = max(taken, default=COORDINATOR_GROUP) + 1
    result = []
    for entry in desired:
        if _known(entry, catalog) is None and entry.group is None and entry.role != SECONDARY:
            entry = replace(entry, group=following)
            following += 1
        result.append(entry)
    return result


def _registration_order(entry: Desired) -> tuple[bool, bool, int, Address]:
    group = entry.group if entry.group is not None else 2147483647
    return group != COORDINATOR_GROUP, entry.role == SECONDARY, group, entry.address


def _id(node: Node) -> int:
    if node.node_id is None:
        raise InvalidInput(f"Node {node} is only predicted and has no id yet.")
    return node.node_id


def _require_same_place(entry: Desired, node: Node, ignore_role: bool = False) -> None:
    if entry.group is not None and entry.group != node.group:
        raise InvalidInput(
            f"Node {node} is in group {node.group}; group {entry.group} was asked for, and Citus cannot change a"
            " node's group.",
            f"Set group: {node.group}, or remove the node (state: absent, drain: true) and add it again.",
        )
    if not ignore_role and entry.role is not None and entry.role != node.role:
        raise InvalidInput(
            f"Node {node} is a {node.role}; its new address {entry} was asked for with role {entry.role}.",
            f"Change the address first with role: {node.role}, then the role.",
        )
    if entry.cluster != node.cluster:
        raise InvalidInput(
            f"Node {node} belongs to cluster {node.cluster}; {entry.cluster} was asked for; Citus cannot change it.",
            f"Set cluster: {node.cluster}, or remove the node and add it again.",
        )


def _registration(entry: Desired, catalog: Catalog) -> Action:
    """How a node comes in that no row has the address of."""
    role = entry.role or PRIMARY
    if role == SECONDARY:
        return _add(entry, role)
    sitting = catalog.primary_of(known_group(entry))
    if entry.group == COORDINATOR_GROUP:
        # The session itself proves which server the coordinator is; only the name for it is new.
        if sitting is not None:
            _require_same_place(entry, sitting)
        return Action("set_coordinator_host", entry.name, entry.port, {"previous": str(sitting)} if sitting else {})
    if sitting is not None:
        raise Refused(
            f"Group {entry.group} already has the primary {sitting}; registering {entry} in its place would send its"
            " queries to another server.",
            f"If {entry} is the same node at a new address, set previous_name: {sitting.name} (and previous_port when"
            " the port changed). If it is another node, give it another group, or role: secondary.",
        )
    return _add(entry, role)


def _add(entry: Desired, role: str) -> Action:
    return Action(
        "add",
        entry.name,
        entry.port,
        {"group": known_group(entry), "role": role, "cluster": entry.cluster},
    )


def _exchange(
    entry: Desired, node: Node, catalog: Catalog, wanted: Mapping[Address, Desired], moves: dict[int, Address]
) -> Node:
    """A primary and a secondary of one group exchange their rows' addresses, as after a failover.

    Returns the row that ``entry`` will be in.
    """
    if entry.role == PRIMARY:
        sitting = catalog.primary_of(node.group)
        if sitting is None:
            raise InvalidInput(
                f"Node {node} is a secondary of group {node.group}, which has no primary.",
                "Remove the node and add it again with role: primary.",
            )
        moves[_id(sitting)] = node.address
        moves.setdefault(_id(node), sitting.address)
        return replace(sitting, name=entry.name, port=entry.port)
    heirs = [
        other
        for other in wanted.values()
        if other.role == PRIMARY and _group_of(other, catalog) == node.group and other.address != entry.address
    ]
    if not heirs:
        raise Refused(
            f"Node {node} is the primary of group {node.group}; as a secondary it would leave the group without one.",
            "Name the group's new primary in the same call, with role: primary.",
        )
    return replace(node, role=SECONDARY, has_metadata=False, metadata_synced=False)


def _group_of(entry: Desired, catalog: Catalog) -> int | None:
    node = catalog.at(entry.address)
    return node.group if node is not None else entry.group


def _moves(moves: Mapping[int, Address], catalog: Catalog) -> list[Action]:
    """Order changes of address so that no two nodes ever have the same one, with a parking place for circles."""
    by_id = {node.node_id: node for node in catalog.nodes if node.node_id is not None}
    address_of = {node_id: node.address for node_id, node in by_id.items()}
    pending = {node_id: target for node_id, target in moves.items() if address_of[node_id] != target}
    actions: list[Action] = []

    def step(node_id: int, target: Address) -> None:
        name, port = address_of[node_id]
        values = {"node_id": node_id, "new_name": target[0], "new_port": target[1]}
        actions.append(Action("update_address", name, port, values))
        address_of[node_id] = target

    while pending:
        taken = set(address_of.values())
        free = [node_id for node_id, target in pending.items() if target not in taken]
        if free:
            step(free[0], pending.pop(free[0]))
            continue
        node_id, target = next(iter(pending.items()))
        holder = next(other for other, address in address_of.items() if address == target)
        if holder not in pending:
            raise Refused(
                f"Node {by_id[node_id]} cannot move to {target[0]}:{target[1]}: {by_id[holder]} is registered there.",
                "Remove that node first (state: absent), or name its own new address in the same call.",
            )
        name, port = address_of[holder]
        step(holder, (name + PARKING_SUFFIX, port))
    return actions


def _properties(entry: Desired, node: Node) -> list[Action]:
    actions = []
    if not node.is_active:
        actions.append(Action("activate", entry.name, entry.port))
    synced = entry.metadata_synced is not False
    if node.is_primary and node.group != COORDINATOR_GROUP and synced != node.has_metadata:
        # Activating a node sends it the metadata as well.
        if not synced:
            actions.append(Action("stop_metadata_sync", entry.name, entry.port))
        elif node.is_active:
            actions.append(Action("start_metadata_sync", entry.name, entry.port))
    if entry.should_have_shards is not None and node.is_primary and entry.should_have_shards != node.should_have_shards:
        actions.append(Action("set_should_have_shards", entry.name, entry.port, {"value": entry.should_have_shards}))
    return actions


def plan_patroni(desired: Sequence[Desired], catalog: Catalog) -> list[Action]:
    """Under Patroni only what Patroni leaves alone: ``should_have_shards`` of each group's primary.

    The property stays with the primary at a switchover, since Patroni changes the address in its row.

    :raises InvalidInput: members of one group ask for different values.
    """
    actions = []
    wanted: dict[int, Desired] = {}
    for entry in desired:
        node = catalog.at(entry.address)
        group = node.group if node is not None else entry.group
        if entry.should_have_shards is None or group is None:
            continue
        first = wanted.setdefault(group, entry)
        if first.should_have_shards != entry.should_have_shards:
            raise InvalidInput(
                f"nodes: {first} and {entry} of group {group} have different should_have_shards.",
                "The shards of a group live on all of its members: give them the same value.",
            )
    for group, entry in sorted(wanted.items()):
        primary = catalog.primary_of(group)
        if primary is not None and primary.should_have_shards != entry.should_have_shards:
            values = {"value": entry.should_have_shards}
            actions.append(Action("set_should_have_shards", primary.name, primary.port, values))
    return actions
