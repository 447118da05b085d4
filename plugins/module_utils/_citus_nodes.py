# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes of a Citus cluster: what is registered, what is asked for, and how it is observed.

Facts about Citus' behaviour, here and in the other files ``_citus_nodes_*``, are from
``src/backend/distributed/metadata/node_metadata.c`` of Citus 14.0, those about Patroni's from
``patroni/postgresql/mpp/citus.py`` of Patroni 4.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_server import COORDINATOR_GROUP
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput

PRIMARY = "primary"
SECONDARY = "secondary"

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
    """One step. ``values`` holds what its statement needs beside name and port."""

    kind: str
    name: str
    port: int
    values: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The step as the module returns it."""
        return {"action": self.kind, "name": self.name, "port": self.port, **self.values}


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


def as_registered(entry: Desired, catalog: Catalog) -> Node:
    """The row Citus writes for a new node: it activates it, and keeps shards off the coordinator."""
    role = entry.role or PRIMARY
    if entry.group == COORDINATOR_GROUP and role == PRIMARY:
        sitting = catalog.primary_of(COORDINATOR_GROUP)
        if sitting is not None:
            return replace(sitting, name=entry.name, port=entry.port)
    group = known_group(entry)
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


def known_group(entry: Desired) -> int:
    """The group that is asked for.

    :raises InvalidInput: there is none.
    """
    if entry.group is None:
        raise InvalidInput(f"Node {entry} is a new secondary without a group.", "Set group to that of its primary.")
    return entry.group
