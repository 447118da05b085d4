# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses of nodes: IPv4 and IPv6, names, and how they are written where a port follows."""

from __future__ import annotations

import functools
import ipaddress
import socket
from typing import Any


def literal(address: str) -> str | None:
    """An IP address as everybody writes it, without the brackets that a URL needs; none for a name."""
    try:
        return ipaddress.ip_address(address.removeprefix("[").removesuffix("]")).compressed
    except ValueError:
        return None


def endpoint(address: str, port: int | str) -> str:
    """``address:port``, with an IPv6 address in brackets (RFC 3986); no address means all."""
    return f"[{address}]:{port}" if ":" in address and not address.startswith("[") else f"{address}:{port}"


@functools.cache
def resolve(name: str) -> str | None:
    """The address of a name on this machine, IPv4 before IPv6; none when it has none."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    families = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)
    return str(families[0][4][0])


def subnet_remedy(subnet: Any) -> str | None:
    """What would be right instead of this network of Docker nodes; none when it is fine."""
    try:
        network = ipaddress.ip_network(subnet)
    except ValueError as error:
        return f"{error}: write a network such as 172.29.0.0/16."
    if network.version == 6:
        return (
            "the nodes' network on one Docker machine is an IPv4 one: write one such as 172.29.0.0/16. IPv6 addresses "
            "are for machines over SSH, and for Docker machines with service_docker_network_mode: host."
        )
    if network.num_addresses < 1024:
        return "256 of its addresses stay free, and the nodes need the others: use a network of /22 or larger."
    return None


def unreachable_remedy(ip: str, alone: bool) -> str | None:
    """Why other nodes cannot use this address of a node, and what would be right; none when they can.

    ``alone``: all nodes are on one machine.
    """
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return (
            "this name does not resolve on the controller. Set service_ip to the address that the other nodes see, or "
            "make the name resolve."
        )
    if address.is_loopback and not alone:
        return (
            f"on the controller that is {ip}, where no other machine reaches it: set service_ip to the address that "
            "the other nodes see."
        )
    if address.version == 6 and address.is_link_local:
        return "a link-local address means something else on every machine: set service_ip to another one of the node."
    return None
