# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that may be wrong with a topology: each check tells where, which variable, and what would be right."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.addresses import subnet_remedy, unreachable_remedy
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.system import container_watchdog_remedy, limit_remedy
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.topology_nodes import (
    Inventory,
    Node,
    addresses,
    has_own_network,
)

# What the roles themselves set for later plays.
FACTS = {
    "cluster_topology",
    "citus_node_image",
    "citus_node_image_source",
    "etcd_is_open",
    "postgres_is_leader",
    "postgres_restarts",
    "service_machine",
    "service_down",
    "service_missing",
    "service_machine_cpus",
    "service_machine_memory",
    "service_waits",
}

# PostgreSQL versions of each major version of Citus, https://docs.citusdata.com/en/stable/installation/; below 16
# pg_ident.conf cannot say what the roles' certificates need.
CITUS_POSTGRESQL = {"12": (16,), "13": (16, 17), "14": (16, 17, 18)}

MINIMUM_PASSWORD_LENGTH = 12


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: where (host or group), the variable, its value, and what would be right."""

    where: str
    variable: str
    value: Any
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.variable} is {self.value!r}: {self.remedy}"


def check(inventory: Inventory, nodes: Mapping[str, Node]) -> Iterable[Finding]:
    """All findings at once."""
    yield from _check_names(inventory, nodes)
    yield from _check_groups(inventory, nodes)
    yield from _check_ports(inventory, nodes)
    yield from _check_addresses(inventory, nodes)
    yield from _check_parameters(inventory, nodes)
    yield from _check_system(inventory, nodes)
    yield from _check_patroni(inventory, nodes)
    yield from _check_hold_limit(inventory, nodes)
    yield from _check_passwords(inventory, nodes)
    yield from _check_etcd(inventory, nodes)
    yield from _check_control_plane(inventory, nodes)
    yield from unknown_variables(inventory, nodes)


def _check_groups(inventory: Inventory, nodes: Mapping[str, Node]) -> Iterable[Finding]:
    managed = [n for n in nodes.values() if n.manager == "patroni"]
    members = inventory.hosts("etcd")
    if managed and not members:
        yield Finding("inventory", "group etcd", members, "Patroni needs etcd: put 3 hosts into the group etcd.")
    elif members and len(members) % 2 == 0:
        yield Finding(
            "inventory",
            "group etcd",
            members,
            f"{len(members)} members tolerate no more failures than {len(members) - 1}: use an odd number (1, 3 or 5).",
        )
    if (inventory.hosts("workers") or inventory.hosts("pgbouncer")) and not inventory.hosts("coordinator"):
        yield Finding(
            "inventory", "group coordinator", [], "a Citus cluster needs a coordinator: put at least one host into it."
        )

    numbers: dict[int, set[str]] = defaultdict(set)
    for node in nodes.values():
        if node.kind != "postgres" or node.group == "standalone":
            continue
        if node.citus_group is None:
            yield Finding(
                node.name,
                "citus_group",
                None,
                f"give the group {node.group} a number of its own, such as citus_group: 1.",
            )
        else:
            numbers[node.citus_group].add(node.group)
    for number, owners in sorted(numbers.items()):
        if len(owners) > 1:
            yield Finding(
                " and ".join(sorted(owners)),
                "citus_group",
                number,
                "every group needs a number of its own; 0 is the coordinator's.",
            )
    children = {n.group for n in nodes.values() if n.kind == "postgres" and n.group not in ("standalone",)}
    for group, hosts in inventory.groups.items():
        if not hosts and inventory.hosts("workers") and group.startswith("worker") and group != "workers":
            yield Finding(
                f"group {group}", "hosts", [], "a worker group needs a primary: give it a host, or remove the group."
            )
    for group in sorted(children):
        siblings = [n for n in nodes.values() if n.group == group]
        if siblings and not any(n.initial_primary for n in siblings):
            yield Finding(
                f"group {group}",
                "postgres_initial_role",
                "standby",
                "every host of the group is a standby: leave one of them without it, or set it to primary.",
            )
        primaries = [n.name for n in siblings if inventory.get(n.name, "postgres_initial_role") == "primary"]
        if len(primaries) > 1:
            yield Finding(
                ", ".join(primaries),
                "postgres_initial_role",
                "primary",
                f"only one host of {group} can be the primary.",
            )


def _check_ports(inventory: Inventory, nodes: Mapping[str, Node]) -> Iterable[Finding]:
    taken: dict[tuple[str, int], tuple[str, str]] = {}
    for node in nodes.values():
        shared = not has_own_network(inventory, node.name)
        # Listening ports collide within a machine, or within the container that has its own network.
        scope = node.machine if shared else node.name
        ports = [(scope, name, port) for name, port in node.ports.items()]
        if not shared:
            ports += [(f"{node.machine} (published)", entry["variable"], entry["port"]) for entry in node.published]
        for place, variable, port in ports:
            if not 1 <= port <= 65535:
                yield Finding(node.name, variable, port, "a port is a number from 1 to 65535.")
                continue
            other = taken.setdefault((place, port), (node.name, variable))
            if other != (node.name, variable):
                yield Finding(
                    node.name,
                    variable,
                    port,
                    f"{other[0]} uses it as {other[1]} on the same machine: choose another port.",
                )


def _check_addresses(inventory: Inventory, nodes: Mapping[str, Node]) -> Iterable[Finding]:
    subnets = {inventory.get(name, "service_docker_subnet") for name, node in nodes.items() if node.own_network}
    for subnet in sorted(subnets, key=str):
        if remedy := subnet_remedy(subnet):
            yield Finding("inventory", "service_docker_subnet", subnet, remedy)
    alone = len({node.machine for node in nodes.values()}) == 1
    seen: dict[str, tuple[str, Node]] = {}
    for node in nodes.values():
        for name, ip in addresses(inventory, node).items():
            other, owner = seen.setdefault(ip, (name, node))
            if other != name and (node.own_network or owner.machine != node.machine):
                yield Finding(
                    node.name,
                    "service_ip",
                    ip,
                    f"{name} and {other} have the same address: set service_ip for {node.name} or {owner.name}"
                    + (
                        ". A machine that systemd runs carries one node."
                        if node.system
                        else ", or give one another name, or choose a larger service_docker_subnet."
                    ),
                )
        remedy = unreachable_remedy(node.ip, alone=alone) if node.ip and not node.own_network else None
        if remedy:
            variable = "service_ip" if inventory.get(node.name, "service_ip") else "ansible_host"
            yield Finding(node.name, variable, node.address, remedy)


def _check_parameters(inventory: Inventory, nodes: Mapping[str, Node]) -> Iterable[Finding]:
    for node in nodes.values():
        if node.kind != "postgres":
            continue
        parameters = inventory.get(node.name, "postgres_parameters") or {}
        libraries = parameters.get("shared_preload_libraries", "")
        names = libraries if isinstance(libraries, list) else [part.strip() for part in str(libraries).split(",")]
        if "auto_explain" in names and node.citus_group is not None:
            yield Finding(
                node.name,
                "postgres_parameters.shared_preload_libraries",
                libraries,
                "auto_explain crashes Citus when it is preloaded: take it out, and LOAD it where it is needed.",
            )
    first = next(iter(nodes), None)
    citus = str(inventory.get(first, "citus_version")) if first else ""
    supported = CITUS_POSTGRESQL.get(citus.partition(".")[0])
    if supported is None:
        yield Finding(
            "inventory",
            "citus_version",
            citus,
            f"this collection knows Citus {', '.join(CITUS_POSTGRESQL)}: choose one of them.",
        )
        return
    versions = {int(inventory.get(n.name, "postgres_version")) for n in nodes.values() if n.kind == "postgres"}
    for version in sorted(versions - set(supported)):
        yield Finding(
            "inventory",
            "postgres_version",
            version,
            f"Citus {citus} runs on PostgreSQL {', '.join(map(str, supported))} here: choose one of them, "
            "or another citus_version.",
        )


def _check_system(inventory: Inventory, nodes: Mapping[str, Node]) -> Iterable[Finding]:
    reported = set()
    for node in nodes.values():
        said = {
            f"service_limits.{name}": (value, limit_remedy(str(name), value))
            for name, value in (inventory.get(node.name, "service_limits") or {}).items()
        }
        if node.manager == "patroni" and not node.system:
            watchdog = inventory.get(node.name, "postgres_watchdog")
            said["postgres_watchdog"] = (watchdog, container_watchdog_remedy(watchdog))
        for variable, (value, remedy) in said.items():
            # Most often it is everybody's variable: once is enough.
            if remedy and (variable, str(value)) not in reported:
                reported.add((variable, str(value)))
                yield Finding(node.name, variable, value, remedy)


# What Patroni raises by itself, with no more than a line in its log: the least of each, in seconds.
# https://patroni.readthedocs.io/en/latest/dynamic_configuration.html
PATRONI_LEAST = {"postgres_ttl": 20, "postgres_loop_wait": 1, "postgres_retry_timeout": 3}


def _check_patroni(inventory: Inventory, nodes: Mapping[str, Node]) -> Iterable[Finding]:
    reported = set()
    for node in nodes.values():
        if node.manager != "patroni":
            continue
        values = {name: int(inventory.get(node.name, name)) for name in PATRONI_LEAST}
        if (node.group, *values.values()) in reported:
            continue
        reported.add((node.group, *values.values()))
        for name, least in PATRONI_LEAST.items():
            if values[name] < least:
                yield Finding(node.name, name, values[name], f"Patroni takes no less than {least} seconds.")
        ttl, loop_wait, retry_timeout = values.values()
        if loop_wait + 2 * retry_timeout > ttl:
            yield Finding(
                node.name,
                "postgres_ttl",
                ttl,
                "a leader must be able to try twice before its lease ends: postgres_loop_wait + 2 * "
                f"postgres_retry_timeout is {loop_wait} + 2 * {retry_timeout} = {loop_wait + 2 * retry_timeout}. Raise "
                "postgres_ttl, or lower the others.",
            )


HOLD_LIMIT_MARGIN = 15
"""Seconds that a switchover may take once open transactions have ended."""


def _check_hold_limit(inventory: Inventory, nodes: Mapping[str, Node]) -> Iterable[Finding]:
    """Clients must not go on in the middle of what they are held for."""
    names = ("cluster_drain_timeout", "cluster_hold_limit")
    for drain, limit in sorted({tuple(int(inventory.get(host, name)) for name in names) for host in nodes}):
        if limit < drain + HOLD_LIMIT_MARGIN:
            yield Finding(
                "all",
                "cluster_hold_limit",
                limit,
                f"clients would go on in the middle of a switchover: set it to {drain + HOLD_LIMIT_MARGIN} or more, "
                f"cluster_drain_timeout ({drain}) and {HOLD_LIMIT_MARGIN}.",
            )


def _check_names(inventory: Inventory, nodes: Mapping[str, Node]) -> Iterable[Finding]:
    """Names that certificates carry, and by which somebody is known."""
    for name in {str(inventory.get(node.name, "cluster_name")) for node in nodes.values()}:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            yield Finding("all", "cluster_name", name, "use letters, digits, - and _ only.")
    if "root" in nodes:
        yield Finding("root", "inventory_hostname", "root", "etcd knows its administrator by it: choose another.")


def _check_etcd(inventory: Inventory, nodes: Mapping[str, Node]) -> Iterable[Finding]:
    """What etcd's members make is what the servers are told."""
    for variable in ("cluster_control_plane_tls", "cluster_etcd_password", "cluster_etcd_authentication"):
        values = {str(inventory.get(node.name, variable)) for node in nodes.values()}
        if len(values) > 1:
            yield Finding("all", variable, "not the same on all hosts", "write it once, into group_vars/all.")


# What a caller of etcd or Patroni proves by a certificate, and how to demand nothing.
PROVEN_BY_CERTIFICATE = {
    "cluster_etcd_authentication": "false",
    "postgres_patroni_verify_client": "none",
    "haproxy_check_verify": "none",
}


def _check_control_plane(inventory: Inventory, nodes: Mapping[str, Node]) -> Iterable[Finding]:
    """Without TLS nothing is demanded that nobody could show."""
    bare = [
        node.name
        for node in nodes.values()
        if node.manager == "patroni" and not boolean(inventory.get(node.name, "cluster_control_plane_tls"))
    ]
    for variable, without in PROVEN_BY_CERTIFICATE.items() if bare else ():
        for value in sorted({str(inventory.get(name, variable)).lower() for name in nodes} - {without}):
            yield Finding(
                "all",
                variable,
                value,
                f"with cluster_control_plane_tls: false there are no certificates. Set it to {without}, too, or leave "
                "cluster_control_plane_tls on.",
            )


def _given_passwords(inventory: Inventory, node: Node) -> Iterable[tuple[str, str, str]]:
    """Whose password, in which variable, and what it is."""
    for role in inventory.get(node.name, "cluster_roles") or []:
        if role.get("password") is not None:
            yield f"role {role.get('name')}", "cluster_roles[].password", str(role["password"])
    if given := inventory.get(node.name, "cluster_etcd_password"):
        yield "Patroni", "cluster_etcd_password", str(given)


def _check_passwords(inventory: Inventory, nodes: Mapping[str, Node]) -> Iterable[Finding]:
    reported = set()
    for node in nodes.values():
        for whose, variable, password in _given_passwords(inventory, node):
            if (whose, password) in reported:
                continue
            reported.add((whose, password))
            if len(password) < MINIMUM_PASSWORD_LENGTH:
                yield Finding(
                    whose,
                    variable,
                    f"{len(password)} characters long",
                    f"use at least {MINIMUM_PASSWORD_LENGTH} characters, or leave it out and one is generated.",
                )
            elif variable == "cluster_etcd_password" and any(map(str.isspace, password)):
                yield Finding(whose, variable, "has white space", "etcdctl takes it for the end: choose one without.")


def unknown_variables(inventory: Inventory, nodes: Mapping[str, Node]) -> Iterable[Finding]:
    """Variables with a role's prefix that no role knows: most often a typo."""
    known = {option for options in inventory.specs.values() for option in options} | FACTS
    prefixes = tuple(f"{role}_" for role in inventory.specs)
    hosts: dict[str, list[str]] = defaultdict(list)
    for host in nodes:
        for variable in inventory.hostvars[host]:
            if variable.startswith(prefixes) and variable not in known:
                hosts[variable].append(host)
    for variable, where in sorted(hosts.items()):
        near = nearest(variable, known)
        hint = f"did you mean {near}?" if near else "no role has such a variable; remove it."
        yield Finding(", ".join(where[:3]) + (" ..." if len(where) > 3 else ""), variable, "unknown", hint)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The most similar of ``choices``, if any is similar enough."""
    import difflib

    close = difflib.get_close_matches(word, sorted(choices), n=1, cutoff=0.75)
    return close[0] if close else None
