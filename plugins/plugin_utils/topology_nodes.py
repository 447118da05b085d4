# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an inventory says of each host: its kind, addresses, ports and memory."""

from __future__ import annotations

import ipaddress
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.common.text.formatters import human_to_bytes
from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.addresses import endpoint, literal, subnet_remedy
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.system import demands

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
    "pooler": ("pgbouncer_port", "haproxy_primary_port", "haproxy_standby_port", "haproxy_stats_port"),
}
# Those that only the machine itself may reach, and those that it reaches at its loopback address too.
LOOPBACK_ONLY = {"etcd_metrics_port", "haproxy_stats_port"}
LOOPBACK_TOO = {"postgres_port", "pgbouncer_port", "haproxy_primary_port", "haproxy_standby_port"}

# The process that a kind of node is, and what runs beside it by the end of its name. The variables that limit memory
# and CPU are named after them.
PROCESS = {"etcd": "etcd", "postgres": "postgres", "pooler": "pgbouncer"}
# What a node says of where it answers, by the variable of the port.
URLS = {"etcd_client": "etcd_client_port", "etcd_peer": "etcd_peer_port", "patroni": "postgres_patroni_port"}
BESIDE = {"lease": "postgres_lease", "haproxy": "haproxy"}


@dataclass
class Node:
    """One inventory host as the other nodes see it."""

    name: str
    kind: str
    """``etcd``, ``postgres`` or ``pooler``."""
    group: str
    """Of a worker its replication group, else the inventory's group."""
    machine: str
    """What its ports and memory are shared on."""
    address: str
    """The name or address that others connect to."""
    ip: str
    """The address that they see its connections come from; never a name: ``Inventory.resolve`` knows that of one."""
    become: bool
    """Whether tasks have to become the service's user: in a container they are it already."""
    own_network: bool
    """Whether all addresses of its network are its own."""
    ports: dict[str, int] = field(default_factory=dict)
    """The ports that it listens on, by variable."""
    urls: dict[str, str] = field(default_factory=dict)
    """Where its ``etcd_client``, ``etcd_peer`` and ``patroni`` answer the other nodes."""
    beside: list[str] = field(default_factory=list)
    """The processes beside the node's own, by the end of their names."""
    processes: list[str] = field(default_factory=list)
    """All of its processes, by what their variables begin with."""
    memory: int = 0
    """The sum of their limits in bytes; 0 without any."""
    cpus: float = 0
    """The largest of their limits; 0 without any."""
    published: list[dict[str, Any]] = field(default_factory=list)
    """The ports that it takes on its machine: ``address``, ``port``, and the ``variable`` that says so."""
    citus_group: int | None = None
    manager: str | None = None
    """Of a server, ``patroni`` or ``none``."""
    initial_primary: bool = False
    proxy_address: str | None = None
    """As ``address``, of the HAProxy beside a pooler."""
    proxy_ip: str | None = None
    """As ``ip``, of the HAProxy beside a pooler."""
    client: dict[str, Any] | None = None
    """How clients outside reach a pooler: ``address``, and the ports ``pooler``, ``primary`` and ``standby``."""
    system: dict[str, Any] = field(default_factory=dict)
    """What it needs of its machine's operating system: names of kernel parameters (``sysctl``), a device (``watchdog``,
    empty for none) and ``time_check``; empty in Docker."""
    repository: str = ""
    """Where its packages of PostgreSQL come from."""

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
        resolve: Callable[[str], str | None] = lambda _name: None,
    ) -> None:
        self.groups = groups
        self.hostvars = hostvars
        self.specs = specs
        self.profiles = profiles
        self.resolve = resolve

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
        """The child group of ``workers`` that the host is in.

        An inventory may group its hosts by place or by purpose as well: what counts is that all hosts of the group
        are workers with the number of this one.
        """
        others = {"all", "ungrouped", *KINDS}
        workers, number = set(self.hosts("workers")), self.hostvars[host].get("citus_group")
        mine = [
            name
            for name, hosts in self.groups.items()
            if name not in others
            and host in hosts
            and workers.issuperset(hosts)
            and all(self.hostvars[each].get("citus_group") == number for each in hosts)
        ]
        return max(mine, key=lambda name: len(self.groups[name]), default="workers")


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


def node_of(inventory: Inventory, host: str, group: str, kind: str) -> Node:
    variables = inventory.hostvars[host]
    docker = inventory.get(host, "service_manager") == "docker"
    on_bridge = has_own_network(inventory, host)
    machine = str(inventory.get(host, "service_docker_machine")) if docker else host
    place = inventory.get(host, "service_ip") or (
        _container_ip(inventory, host)
        if on_bridge
        else inventory.hostvars.get(machine, variables).get("ansible_host", machine)
    )
    address = str(inventory.get(host, "service_address") or (host if on_bridge else place))
    node = Node(
        name=host,
        kind=kind,
        group=inventory.worker_group_of(host) if group == "workers" else group,
        machine=machine,
        address=literal(address) or address,
        ip=literal(str(place)) or inventory.resolve(str(place)) or str(place),
        become=not docker,
        own_network=on_bridge,
        ports={port: int(inventory.get(host, port)) for port in LISTENERS[kind]},
        repository=str(inventory.get(host, "postgres_repository")),
    )
    if kind == "pooler":
        node.beside = ["haproxy"]
        # Not localhost: that may be ::1 first, where HAProxy does not listen.
        node.proxy_address = proxy_name(host) if on_bridge else "127.0.0.1"
        node.proxy_ip = _container_ip(inventory, proxy_name(host), host) if on_bridge else node.ip
        node.client = _client(inventory, node, on_bridge)
    if kind == "postgres":
        node.manager = "none" if group == "standalone" else inventory.get(host, "postgres_manager")
        if node.manager == "none":
            del node.ports["postgres_patroni_port"]
        if group != "standalone":
            number = variables.get("citus_group", 0 if group == "coordinator" else None)
            node.citus_group = None if number is None else int(number)
        siblings = inventory.hosts(group if group in ("coordinator", "standalone") else node.group)
        roles = {h: inventory.get(h, "postgres_initial_role") for h in siblings}
        candidates = [h for role in ("primary", "") for h in siblings if roles[h] == role]
        node.initial_primary = group == "standalone" or bool(candidates and candidates[0] == host)
        # Not where nobody could lead instead, nor where a server that crashed shall have the time to start again.
        replaced = len(siblings) > 1 and int(inventory.get(host, "postgres_primary_start_timeout")) == 0
        if node.manager == "patroni" and replaced and boolean(inventory.get(host, "postgres_lease_keeper")):
            node.beside = ["lease"]
    scheme = "https" if boolean(inventory.get(host, "cluster_control_plane_tls")) else "http"
    node.urls = {
        name: f"{scheme}://{endpoint(node.address, node.ports[port])}"
        for name, port in URLS.items()
        if port in node.ports
    }
    if kind == "postgres":
        node.urls["postgres"] = f"postgresql://{endpoint(node.address, node.ports['postgres_port'])}"
    node.processes = [PROCESS[kind], *(BESIDE[name] for name in node.beside)]
    node.memory = sum(_bytes(inventory.get(host, f"{process}_memory")) for process in node.processes)
    node.cpus = max(_cpus(inventory.get(host, f"{process}_cpus")) for process in node.processes)
    if not docker:
        node.system = demands(lambda variable: inventory.get(host, variable), node.manager)
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
        node.published = [
            {"address": address, "port": port, "variable": name}
            for name, port in node.ports.items()
            for address in _listen_addresses(name, node.ip)
        ]
    return node


def addresses(inventory: Inventory, node: Node) -> dict[str, str]:
    """The address of each process of a node by its name; those beside it have their own in a network of containers."""
    beside = [f"{node.name}-{process}" for process in node.beside] if node.own_network else []
    made = {node.name: node.ip} | {name: _container_ip(inventory, name, node.name) for name in beside}
    return {name: ip for name, ip in made.items() if ip}


def _container_ip(inventory: Inventory, name: str, host: str | None = None) -> str:
    """The fixed address in the Docker network of ``host``; empty where ``topology_checks`` refuses the network."""
    subnet = inventory.get(host or name, "service_docker_subnet")
    return "" if subnet_remedy(subnet) else container_ip(name, subnet)


def _listen_addresses(variable: str, ip: str) -> list[str]:
    """Where on a shared network the process listens on the port that ``variable`` names."""
    if variable in LOOPBACK_ONLY:
        return ["127.0.0.1"]
    return list(dict.fromkeys([ip, "127.0.0.1"])) if variable in LOOPBACK_TOO else [ip]


def has_own_network(inventory: Inventory, host: str) -> bool:
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
    inside = node.ip if on_bridge or inventory.get(node.name, "service_address") else node.address
    address = (machine if publish_address in ("0.0.0.0", "::") else publish_address) if published else inside
    return {
        "address": "localhost" if address in ("127.0.0.1", "::1") else address,
        **{
            name: int(inventory.get(node.name, published_as if published else port))
            for name, (port, published_as) in ports.items()
        },
    }


def _bytes(size: Any) -> int:
    """A size such as ``1g`` in bytes; 0 for none, and for what is no size (Docker refuses that itself)."""
    try:
        return int(human_to_bytes(str(size))) if size else 0
    except ValueError:
        return 0


def _cpus(limit: Any) -> float:
    """A number of CPUs; 0 for none, and for what is no number (the role's argument spec refuses that)."""
    try:
        return float(limit or 0)
    except ValueError:
        return 0


def published_variables(kind: str) -> tuple[str, ...]:
    """The variables that publish a container's ports on its Docker machine (0: not published)."""
    return {
        "postgres": ("postgres_published_port",),
        "pooler": ("pgbouncer_published_port", "haproxy_primary_published_port", "haproxy_standby_published_port"),
    }.get(kind, ())
