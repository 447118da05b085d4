# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Membership of nodes in a Citus cluster: what is registered, what has to change, and how.

:func:`plan` is pure. Facts about Citus' behaviour are from ``src/backend/distributed/metadata/node_metadata.c``
of Citus 14.0, those about Patroni's from ``patroni/postgresql/mpp/citus.py`` of Patroni 4.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_server import COORDINATOR_GROUP
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput, Refused

PRIMARY = "primary"
SECONDARY = "secondary"
DEMOTED_SUFFIX = "-demoted"
"""Patroni appends this to a primary's name while its group changes leaders."""
PARKING_SUFFIX = "-moving"
"""Appended for the moment in which two nodes exchange addresses; never visible outside the transaction."""

Address = tuple[str, int]


@dataclass(frozen=True)
class Node:
    """One row of ``pg_dist_node``. ``node_id`` is None when check mode predicts it."""

    node_id: int | None
    name: str
    port: int
    group: int
    role: str
    cluster: str = "default"
    is_active: bool = True
    has_metadata: bool = True
    metadata_synced: bool = True
    should_have_shards: bool = True

    @property
    def address(self) -> Address:
        """Name and port, which Citus keeps unique."""
        return self.name, self.port

    @property
    def is_primary(self) -> bool:
        """Whether the node is the one of its group that is written to."""
        return self.role == PRIMARY

    def __str__(self) -> str:
        return f"{self.name}:{self.port}"


@dataclass(frozen=True)
class Holdings:
    """The shards in one group. ``only_*`` count those that no other group has a copy of."""

    distributed: int = 0
    distributed_bytes: int = 0
    only_reference: int = 0
    only_local: int = 0
    only_distributed: int = 0
    tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Catalog:
    """All nodes, what their groups hold, and which of the asked ones answer (observed where it matters)."""

    nodes: tuple[Node, ...]
    holdings: Mapping[int, Holdings] = field(default_factory=dict)
    answering: frozenset[Address] = frozenset()

    def at(self, address: Address) -> Node | None:
        """The node registered at ``address``."""
        return next((node for node in self.nodes if node.address == address), None)

    def primary_of(self, group: int) -> Node | None:
        """The primary of ``group``."""
        return next((node for node in self.nodes if node.group == group and node.is_primary), None)


@dataclass(frozen=True)
class Desired:
    """One entry of the module's ``nodes``; None leaves a property as it is."""

    name: str
    port: int = 5432
    group: int | None = None
    role: str | None = None
    cluster: str = "default"
    should_have_shards: bool | None = None
    metadata_synced: bool | None = None
    previous_name: str | None = None
    previous_port: int | None = None

    @property
    def address(self) -> Address:
        """Name and port."""
        return self.name, self.port

    @property
    def previous(self) -> Address | None:
        """The address under which the node was known before."""
        if self.previous_name is None and self.previous_port is None:
            return None
        return self.previous_name or self.name, self.previous_port or self.port

    def __str__(self) -> str:
        return f"{self.name}:{self.port}"


@dataclass(frozen=True)
class Action:
    """One step. ``values`` holds what :data:`STATEMENTS` needs beside name and port."""

    kind: str
    name: str
    port: int
    values: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The step as the module returns it."""
        return {"action": self.kind, "name": self.name, "port": self.port, **self.values}


STATEMENTS = {
    "set_coordinator_host": "SELECT citus_set_coordinator_host(%(name)s, %(port)s)",
    "add": "SELECT citus_add_node(%(name)s, %(port)s, %(group)s, %(role)s::noderole, %(cluster)s)",
    "update_address": "SELECT citus_update_node(%(node_id)s, %(new_name)s, %(new_port)s)",
    "activate": "SELECT citus_activate_node(%(name)s, %(port)s)",
    "start_metadata_sync": "SELECT start_metadata_sync_to_node(%(name)s, %(port)s)",
    "stop_metadata_sync": "SELECT stop_metadata_sync_to_node(%(name)s, %(port)s)",
    "set_should_have_shards": "SELECT citus_set_node_property(%(name)s, %(port)s, 'shouldhaveshards', %(value)s)",
    "replicate_reference_tables": "SELECT replicate_reference_tables(%(shard_transfer_mode)s)",
    "disable": "SELECT citus_disable_node(%(name)s, %(port)s, true)",
    "remove": "SELECT citus_remove_node(%(name)s, %(port)s)",
}
"""The statement of every kind of action but ``drain``, which is a background job of the server."""


# ---- observe -----------------------------------------------------------------------------------


def observe_nodes(session: Session) -> tuple[Node, ...]:
    """All rows of ``pg_dist_node``, in the order group, primary first, name."""
    rows = session.query(
        "SELECT nodeid, nodename, nodeport, groupid, noderole::text, nodecluster::text, isactive, hasmetadata,"
        " metadatasynced, shouldhaveshards FROM pg_dist_node ORDER BY groupid, noderole, nodename, nodeport"
    )
    return tuple(
        Node(
            node_id=row["nodeid"],
            name=row["nodename"],
            port=row["nodeport"],
            group=row["groupid"],
            role=row["noderole"],
            cluster=row["nodecluster"],
            is_active=row["isactive"],
            has_metadata=row["hasmetadata"],
            metadata_synced=row["metadatasynced"],
            should_have_shards=row["shouldhaveshards"],
        )
        for row in rows
    )


def observe_holdings(session: Session) -> dict[int, Holdings]:
    """What every group holds; sizes are asked of the nodes only when there is a distributed shard."""
    rows = session.query(
        "WITH placement AS ("
        " SELECT p.groupid, s.shardid, s.logicalrelid,"
        "  CASE WHEN t.repmodel = 't' THEN 'reference'"
        "   WHEN t.partmethod = 'n' AND t.colocationid = 0 THEN 'local' ELSE 'distributed' END AS kind,"
        "  count(*) OVER (PARTITION BY s.shardid) AS copies"
        " FROM pg_dist_placement p JOIN pg_dist_shard s USING (shardid) JOIN pg_dist_partition t USING (logicalrelid)"
        " WHERE p.shardstate = 1)"
        " SELECT groupid, count(*) FILTER (WHERE kind = 'distributed') AS distributed,"
        " count(*) FILTER (WHERE kind = 'distributed' AND copies = 1) AS only_distributed,"
        " count(*) FILTER (WHERE kind = 'reference' AND copies = 1) AS only_reference,"
        " count(*) FILTER (WHERE kind = 'local' AND copies = 1) AS only_local,"
        " (array_agg(DISTINCT logicalrelid::regclass::text ORDER BY logicalrelid::regclass::text)"
        "  FILTER (WHERE copies = 1 OR kind = 'distributed'))[1:5] AS tables"
        " FROM placement GROUP BY groupid"
    )
    sizes: dict[int, int] = {}
    if any(row["distributed"] for row in rows):
        sizes = {
            row["groupid"]: int(row["bytes"])
            for row in session.query(
                "SELECT n.groupid, coalesce(sum(s.shard_size), 0) AS bytes FROM citus_shards s"
                " JOIN pg_dist_node n ON n.nodename = s.nodename AND n.nodeport = s.nodeport"
                " WHERE n.noderole = 'primary' AND s.citus_table_type NOT IN ('reference', 'local') GROUP BY n.groupid"
            )
        }
    return {
        row["groupid"]: Holdings(
            distributed=row["distributed"],
            distributed_bytes=sizes.get(row["groupid"], 0),
            only_reference=row["only_reference"],
            only_local=row["only_local"],
            only_distributed=row["only_distributed"],
            tables=tuple(row["tables"] or ()),
        )
        for row in rows
    }


def observe_answering(session: Session, nodes: Sequence[Node]) -> frozenset[Address]:
    """Those of ``nodes`` to which the coordinator gets a connection; one query."""
    if not nodes:
        return frozenset()
    rows = session.query(
        "SELECT nodename, nodeport FROM pg_dist_node"
        " WHERE nodeid = ANY (%s) AND citus_check_connection_to_node(nodename, nodeport)",
        ([node.node_id for node in nodes],),
    )
    return frozenset((row["nodename"], row["nodeport"]) for row in rows)


# ---- plan --------------------------------------------------------------------------------------


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
            later += _properties(entry, _as_registered(entry, catalog))
        else:
            _require_same_place(entry, node, ignore_role=True)
            if entry.role is not None and entry.role != node.role:
                node = _exchange(entry, node, catalog, wanted, moves)
            later += _properties(entry, node)
    return coordinator + _moves(moves, catalog) + adds + later


def _with_groups(desired: Sequence[Desired], catalog: Catalog) -> list[Desired]:
    """Give every new primary without a group the next free one.

    Citus' own choice comes from a sequence that knows nothing of groups which were given by number.
    """
    taken = {node.group for node in catalog.nodes} | {entry.group for entry in desired if entry.group is not None}
    following = max(taken, default=COORDINATOR_GROUP) + 1
    result = []
    for entry in desired:
        known = catalog.at(entry.address) or (catalog.at(entry.previous) if entry.previous else None)
        if known is None and entry.group is None and entry.role != SECONDARY:
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
    sitting = catalog.primary_of(_known_group(entry))
    if entry.group == COORDINATOR_GROUP:
        # The session itself proves which server the coordinator is; only the name for it is new.
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
        {"group": _known_group(entry), "role": role, "cluster": entry.cluster},
    )


def _as_registered(entry: Desired, catalog: Catalog) -> Node:
    """The row Citus writes for a new node: it activates it, and keeps shards off the coordinator."""
    role = entry.role or PRIMARY
    if entry.group == COORDINATOR_GROUP and role == PRIMARY:
        sitting = catalog.primary_of(COORDINATOR_GROUP)
        if sitting is not None:
            return replace(sitting, name=entry.name, port=entry.port)
    group = _known_group(entry)
    return Node(
        None,
        entry.name,
        entry.port,
        group,
        role,
        entry.cluster,
        has_metadata=role == PRIMARY,
        metadata_synced=role == PRIMARY,
        should_have_shards=group != COORDINATOR_GROUP,
    )


def _known_group(entry: Desired) -> int:
    if entry.group is None:
        raise InvalidInput(f"Node {entry} is a new secondary without a group.", "Set group to that of its primary.")
    return entry.group


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


def missing_under_patroni(desired: Sequence[Desired], nodes: Sequence[Node]) -> list[str]:
    """What Patroni has not registered yet, one sentence each; empty when everything is as expected.

    Without a role in ``desired`` any role will do, since Patroni may have switched over; every group
    named must have an active primary with its metadata in sync.
    """
    lacking = []
    catalog = Catalog(tuple(nodes))
    groups: set[int] = set()
    for entry in desired:
        node = catalog.at(entry.address)
        if entry.group is not None:
            groups.add(entry.group)
        if node is None:
            demoted = catalog.at((entry.name + DEMOTED_SUFFIX, entry.port))
            same_name = [other for other in nodes if other.name == entry.name]
            if demoted is not None:
                lacking.append(f"{entry} is being switched over (registered as {demoted})")
            elif same_name:
                lacking.append(f"{entry} is registered with port {same_name[0].port} instead")
            else:
                lacking.append(f"{entry} is not registered")
            continue
        if entry.group is not None and node.group != entry.group:
            lacking.append(f"{entry} is in group {node.group}, not {entry.group}")
        if entry.role is not None and node.role != entry.role:
            lacking.append(f"{entry} is a {node.role}, not a {entry.role}")
        if entry.cluster != node.cluster:
            lacking.append(f"{entry} is in cluster {node.cluster}, not {entry.cluster}")
        if not node.is_active:
            lacking.append(f"{entry} is not active")
        groups.add(node.group)
    for group in sorted(groups):
        primary = catalog.primary_of(group)
        if primary is None:
            lacking.append(f"group {group} has no primary")
        else:
            lacking += _unsynced(primary)
    return list(dict.fromkeys(lacking))


def missing_after_present(desired: Sequence[Desired], nodes: Sequence[Node]) -> list[str]:
    """What is not settled yet after registration: nodes that are inactive or wait for Citus' metadata."""
    catalog = Catalog(tuple(nodes))
    lacking = []
    for entry in desired:
        node = catalog.at(entry.address)
        if node is None:
            lacking.append(f"{entry} is not registered")
        elif not node.is_active:
            lacking.append(f"{entry} is not active")
        elif node.is_primary and entry.metadata_synced is not False:
            lacking += _unsynced(node)
    return lacking


def _unsynced(node: Node) -> list[str]:
    if not node.is_active:
        return [f"{node} is not active"]
    if not node.has_metadata:
        return [f"{node} has no copy of Citus' metadata"]
    if not node.metadata_synced:
        return [f"{node} waits for Citus' metadata"]
    return []


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


def plan_drained(desired: Sequence[Desired], catalog: Catalog, mode: str = "auto") -> list[Action]:
    """Steps that leave ``desired`` without shards of distributed tables and keep new ones away.

    :raises InvalidInput: a node is not registered.
    :raises Refused: the shards have nowhere to go.
    """
    nodes = [_registered(entry, catalog) for entry in desired]
    return _drain(nodes, catalog, mode)


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
    to_drain: list[Node] = []
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
        if holdings.distributed:
            to_drain.append(node)
    if copy_reference:
        first = copy_reference[0]
        actions.append(Action("replicate_reference_tables", first.name, first.port, {"shard_transfer_mode": mode}))
    actions += _drain(to_drain, catalog, mode)
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
            " the registry (patronictl remove CLUSTER --group N); then state: absent.",
        )


# ---- predict and apply -------------------------------------------------------------------------


def predict(nodes: Sequence[Node], actions: Sequence[Action]) -> tuple[Node, ...]:
    """The rows of ``pg_dist_node`` after ``actions``, for check mode and for the diff."""
    rows = list(nodes)

    def change(address: Address, **values: Any) -> None:
        for index, row in enumerate(rows):
            if row.address == address:
                rows[index] = replace(row, **values)

    for action in actions:
        name, port, values = action.name, action.port, action.values
        if action.kind == "set_coordinator_host":
            sitting = Catalog(tuple(rows)).primary_of(COORDINATOR_GROUP)
            if sitting is not None:
                change(sitting.address, name=name, port=port)
            else:
                rows.append(Node(None, name, port, COORDINATOR_GROUP, PRIMARY, should_have_shards=False))
        elif action.kind == "add":
            entry = Desired(name, port, values["group"], values["role"], values["cluster"])
            rows.append(_as_registered(entry, Catalog(tuple(rows))))
        elif action.kind == "update_address":
            change((name, port), name=values["new_name"], port=values["new_port"])
        elif action.kind == "activate":
            primary = any(row.address == (name, port) and row.is_primary for row in rows)
            change((name, port), is_active=True, has_metadata=primary, metadata_synced=primary)
        elif action.kind == "start_metadata_sync":
            change((name, port), has_metadata=True, metadata_synced=True)
        elif action.kind == "stop_metadata_sync":
            change((name, port), has_metadata=False, metadata_synced=False)
        elif action.kind == "set_should_have_shards":
            change((name, port), should_have_shards=values["value"])
        elif action.kind == "disable":
            change((name, port), is_active=False)
        elif action.kind == "remove":
            rows = [row for row in rows if row.address != (name, port)]
    return tuple(sorted(rows, key=lambda row: (row.group, row.role, row.name, row.port)))


def apply_step(session: Session, action: Action) -> None:
    """Run the statement of one action that has one."""
    session.execute(STATEMENTS[action.kind], {"name": action.name, "port": action.port, **action.values})


def apply_moves(session: Session, actions: Sequence[Action]) -> None:
    """Run changes of address together: no session ever sees a node at its parking place."""
    with session.transaction():
        for action in actions:
            apply_step(session, action)
