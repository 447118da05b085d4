# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cluster's nodes still lack after a change, by Citus or by Patroni: predicates to wait for.

Everything here is pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_nodes import Catalog, Desired, Node

DEMOTED_SUFFIX = "-demoted"
"""Patroni appends this to a primary's name while its group changes leaders."""


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
