# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The topology that an inventory describes, with everything that is wrong with it.

Pure functions over plain data: groups, the variables of each host, and the roles' argument specs.
One host is the matter of ``topology_nodes``, what may be wrong that of ``topology_checks``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.plugin_utils.topology_checks import Finding, check
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.topology_nodes import KINDS, Inventory, Node, node_of


def build(inventory: Inventory) -> tuple[dict[str, Any], list[Finding]]:
    """The topology as plain data, and all findings at once."""
    nodes: dict[str, Node] = {}
    findings: list[Finding] = []
    for group, kind in KINDS.items():
        for host in inventory.hosts(group):
            if host in nodes:
                findings.append(
                    Finding(
                        host,
                        "groups",
                        [nodes[host].group, group],
                        "a host is one node: take it out of one of the two groups.",
                    )
                )
                continue
            nodes[host] = node_of(inventory, host, group, kind)
    findings += check(inventory, nodes)
    workers = sorted(
        {
            n.citus_group
            for n in nodes.values()
            if n.group not in ("coordinator", "standalone") and n.citus_group is not None
        }
    )
    postgres = [n.name for n in nodes.values() if n.kind == "postgres"]
    topology = {
        "nodes": {name: {**asdict(node), "names": node.names} for name, node in nodes.items()},
        "etcd": inventory.hosts("etcd"),
        "coordinators": inventory.hosts("coordinator"),
        "workers": [name for name in inventory.hosts("workers") if name in nodes],
        "worker_groups": {
            str(number): [n.name for n in nodes.values() if n.citus_group == number and n.kind == "postgres"]
            for number in workers
        },
        "poolers": inventory.hosts("pgbouncer"),
        "standalone": inventory.hosts("standalone"),
        "machines": machines(nodes),
        # The image and the clients have a version even where no server is.
        "postgres_version": int(inventory.get((postgres or list(nodes))[0], "postgres_version")) if nodes else None,
    }
    return topology, findings


def machines(nodes: Mapping[str, Node]) -> dict[str, list[str]]:
    """The nodes of each machine, in the inventory's order; the first acts for the machine."""
    result: dict[str, list[str]] = defaultdict(list)
    for node in nodes.values():
        result[node.machine].append(node.name)
    return dict(result)
