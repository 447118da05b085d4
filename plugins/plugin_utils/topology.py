# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The topology that an inventory describes, and everything that is wrong with it.

Pure functions over plain data: groups, the variables of each host, and the roles' argument specs.
"""

from __future__ import annotations

import ipaddress
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible.module_utils.common.text.formatters import human_to_bytes

# What an inventory host can be. The group decides; a host is exactly one of them.
KINDS = {
    "etcd": "etcd",
    "coordinator": "postgres",
    "workers": "postgres",
    "standalone": "postgres",
    "pgbouncer": "pooler",
}

# The variables that hold the ports each kind of node listens on.
LISTENERS = {
    "etcd": ("etcd_client_port", "etcd_peer_port", "etcd_metrics_port"),
    "postgres": ("postgres_port", "postgres_patroni_port"),
    "pooler": ("pgbouncer_port", "haproxy_primary_port", "haproxy_standby_port"),
}

# The variables that limit the memory of the containers of each kind of node.
MEMORY_LIMITS = {
    "etcd": ("etcd_memory",),
    "postgres": ("postgres_memory",),
    "pooler": ("pgbouncer_memory", "haproxy_memory"),
}

# What the roles themselves set for later plays.
FACTS = {
    "cluster_topology",
    "citus_node_image",
    "citus_node_image_source",
    "postgres_is_leader",
    "service_machine",
    "service_missing",
    "service_machine_memory",
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


@dataclass
class Node:
    """One inventory host as the other nodes see it.

    ``address`` is the name or address that others connect to, ``ip`` the address that they see its connections
    come from, ``machine`` what its ports and memory are shared on, ``own_network`` whether all addresses of its
    network are its own. ``become`` says whether tasks have to become the service's user: in a container they
    are it already. ``memory`` is the sum of the node's limits in bytes, 0 without any. ``published`` are the
    ports that the node takes on its machine: ``address``, ``port`` and the ``variable`` that says so.
    ``proxy_address`` and ``proxy_ip`` are the same for the HAProxy beside a pooler, and ``client`` says how
    clients outside reach both: ``address``, ``pooler``, ``primary`` and ``standby`` (ports).
    """

    name: str
    kind: str
    group: str
    machine: str
    address: str
    ip: str
    become: bool
    own_network: bool
    ports: dict[str, int] = field(default_factory=dict)
    memory: int = 0
    published: list[dict[str, Any]] = field(default_factory=list)
    citus_group: int | None = None
    manager: str | None = None
    initial_primary: bool = False
    proxy_address: str | None = None
    proxy_ip: str | None = None
    client: dict[str, Any] | None = None

    @property
    def names(self) -> list[str]:
        """Every name and address that a client may reach the node by."""
        return list(dict.fromkeys([self.name, self.address, self.ip, "localhost", "127.0.0.1", "::1"]))


class Inventory:
    """Groups and variables, with a role's default where a host says nothing."""

    def __init__(
        self,
        groups: Mapping[str, list[str]],
        hostvars: Mapping[str, Mapping[str, Any]],
        specs: Mapping[str, Mapping[str, Any]],
        profiles: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.groups = groups
        self.hostvars = hostvars
        self.specs = specs
        self.profiles = profiles

    def hosts(self, group: str) -> list[str]:
        """Hosts of a group in the inventory's order; empty when there is no such group."""
        return list(self.groups.get(group, []))

    def get(self, host: str, variable: str) -> Any:
        """The host's value, what its profile says, or the default of the role that owns the variable."""
        variables = self.hostvars[host]
        if variable in variables:
            return variables[variable]
        if variable != "ha_profile":
            profile = self.profiles.get(self.get(host, "ha_profile"), {})
            if variable in profile:
                return profile[variable]
        for options in self.specs.values():
            if variable in options:
                return options[variable].get("default")
        return None

    def worker_group_of(self, host: str) -> str:
        """The child group of ``workers`` that the host is in."""
        others = {"all", "ungrouped", *KINDS}
        mine = [name for name, hosts in self.groups.items() if host in hosts and name not in others]
        return min(mine, key=lambda name: len(self.groups[name]), default="workers")


def container_ip(name: str, subnet: str) -> str:
    """A node's fixed address in the Docker network, the same wherever and whenever it is computed.

    Derived from the name alone so that adding or removing a node moves no other; the first 256
    addresses are left to Docker (gateway) and to users.
    """
    network = ipaddress.ip_network(subnet)
    usable = network.num_addresses - 257
    return str(network[256 + zlib.crc32(name.encode()) % usable])


def proxy_name(pooler: str) -> str:
    """Name of the HAProxy container beside a pooler."""
    return f"{pooler}-haproxy"


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
            nodes[host] = _node(inventory, host, group, kind)
    findings += _check_groups(inventory, nodes)
    findings += _check_ports(inventory, nodes)
    findings += _check_addresses(inventory, nodes)
    findings += _check_parameters(inventory, nodes)
    findings += _check_patroni(inventory, nodes)
    findings += _check_passwords(inventory, nodes)
    findings += unknown_variables(inventory, nodes)
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
        "postgres_repository": inventory.get(next(iter(nodes)), "postgres_repository") if nodes else None,
    }
    return topology, findings


def machines(nodes: Mapping[str, Node]) -> dict[str, list[str]]:
    """The nodes of each machine, in the inventory's order; the first acts for the machine."""
    result: dict[str, list[str]] = defaultdict(list)
    for node in nodes.values():
        result[node.machine].append(node.name)
    return dict(result)


def _node(inventory: Inventory, host: str, group: str, kind: str) -> Node:
    variables = inventory.hostvars[host]
    docker = inventory.get(host, "service_manager") == "docker"
    on_bridge = _has_own_network(inventory, host)
    machine = str(inventory.get(host, "service_docker_machine")) if docker else host
    ip = inventory.get(host, "service_ip") or (
        container_ip(host, inventory.get(host, "service_docker_subnet"))
        if on_bridge
        else inventory.hostvars.get(machine, variables).get("ansible_host", machine)
    )
    address = inventory.get(host, "service_address") or (host if on_bridge else ip)
    node = Node(
        name=host,
        kind=kind,
        group=inventory.worker_group_of(host) if group == "workers" else group,
        machine=machine,
        address=str(address),
        ip=str(ip),
        become=not docker,
        own_network=on_bridge,
        memory=sum(_bytes(inventory.get(host, limit)) for limit in MEMORY_LIMITS[kind]),
        ports={port: int(inventory.get(host, port)) for port in LISTENERS[kind]},
    )
    if kind == "pooler":
        # Not localhost: that may be ::1 first, where HAProxy does not listen.
        node.proxy_address = proxy_name(host) if on_bridge else "127.0.0.1"
        node.proxy_ip = (
            container_ip(proxy_name(host), inventory.get(host, "service_docker_subnet")) if on_bridge else node.ip
        )
        node.client = _client(inventory, node, on_bridge)
    if kind == "postgres":
        node.manager = "none" if group == "standalone" else inventory.get(host, "postgres_manager")
        if node.manager == "none":
            del node.ports["postgres_patroni_port"]
        if group != "standalone":
            number = variables.get("citus_group", 0 if group == "coordinator" else None)
            node.citus_group = None if number is None else int(number)
        siblings = inventory.hosts(group if group in ("coordinator", "standalone") else node.group)
        candidates = [h for h in siblings if inventory.get(h, "postgres_initial_role") != "standby"]
        node.initial_primary = group == "standalone" or bool(candidates and candidates[0] == host)
    if on_bridge:
        node.published = [
            {
                "address": str(inventory.get(host, "service_docker_publish_address")),
                "port": int(inventory.get(host, port)),
                "variable": port,
            }
            for port in published_variables(kind)
            if int(inventory.get(host, port))
        ]
    else:
        node.published = [{"address": node.ip, "port": port, "variable": name} for name, port in node.ports.items()]
    return node


def _has_own_network(inventory: Inventory, host: str) -> bool:
    """Whether the node is a container with an address of its own; otherwise it has its machine's."""
    return (
        inventory.get(host, "service_manager") == "docker"
        and inventory.get(host, "service_docker_network_mode") == "bridge"
    )


def _client(inventory: Inventory, node: Node, on_bridge: bool) -> dict[str, Any]:
    """How a client outside the cluster reaches a pooler: by its published ports, or by its own address."""
    ports = {
        "pooler": ("pgbouncer_port", "pgbouncer_published_port"),
        "primary": ("haproxy_primary_port", "haproxy_primary_published_port"),
        "standby": ("haproxy_standby_port", "haproxy_standby_published_port"),
    }
    published = on_bridge and int(inventory.get(node.name, "pgbouncer_published_port"))
    publish_address = str(inventory.get(node.name, "service_docker_publish_address"))
    machine = inventory.hostvars.get(node.machine, {}).get("ansible_host", node.machine)
    address = (machine if publish_address in ("0.0.0.0", "::") else publish_address) if published else node.ip
    return {
        "address": "localhost" if address in ("127.0.0.1", "::1") else address,
        **{
            name: int(inventory.get(node.name, outside if published else inside))
            for name, (inside, outside) in ports.items()
        },
    }


def _bytes(size: Any) -> int:
    """A size such as ``1g`` in bytes; 0 for none, and for what is no size (Docker refuses that itself)."""
    try:
        return int(human_to_bytes(str(size))) if size else 0
    except ValueError:
        return 0


def _check_groups(inventory: Inventory, nodes: Mapping[str, Node]) -> Iterable[Finding]:
    managed = [n for n in nodes.values() if n.manager == "patroni"]
    members = inventory.hosts("etcd")
    if managed and not members:
        yield Finding("inventory", "group etcd", members, "Patroni needs a registry: put 3 hosts into the group etcd.")
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
        shared = not _has_own_network(inventory, node.name)
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


def published_variables(kind: str) -> tuple[str, ...]:
    """The variables that publish a container's ports on its Docker machine (0: not published)."""
    return {
        "postgres": ("postgres_published_port",),
        "pooler": ("pgbouncer_published_port", "haproxy_primary_published_port", "haproxy_standby_published_port"),
    }.get(kind, ())


def _check_addresses(inventory: Inventory, nodes: Mapping[str, Node]) -> Iterable[Finding]:
    seen: dict[str, str] = {}
    for node in nodes.values():
        if not _has_own_network(inventory, node.name):
            continue
        other = seen.setdefault(node.ip, node.name)
        if other != node.name:
            yield Finding(
                node.name, "service_ip", node.ip, f"{other} has the same address: set service_ip for one of the two."
            )


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


def _check_passwords(inventory: Inventory, nodes: Mapping[str, Node]) -> Iterable[Finding]:
    reported = set()
    for node in nodes.values():
        for role in inventory.get(node.name, "cluster_roles") or []:
            password = role.get("password")
            name = role.get("name")
            if password is not None and len(str(password)) < MINIMUM_PASSWORD_LENGTH and name not in reported:
                reported.add(name)
                yield Finding(
                    f"role {name}",
                    "cluster_roles[].password",
                    f"{len(str(password))} characters long",
                    f"use at least {MINIMUM_PASSWORD_LENGTH} characters, or leave it out and one is generated.",
                )


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
