# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing what has been planned for a cluster's nodes, or in check mode predicting what that makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_nodes import (
    PRIMARY,
    Action,
    Address,
    Catalog,
    Desired,
    Node,
    as_registered,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_server import COORDINATOR_GROUP
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session

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
            rows.append(as_registered(entry, Catalog(tuple(rows))))
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
