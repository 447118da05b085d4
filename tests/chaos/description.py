# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What the collection itself knows of a cluster, and the nodes that come of it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from containers import Container, own_network
from hosts import Host
from network import Network, NoNetwork
from reach import Login, Machine
from units import MachineNetwork, Unit

REPOSITORY = Path(__file__).resolve().parents[2]

Description = Mapping[str, Any]
"""What describe.yml writes: ``topology``, ``secrets``, ``processes`` and ``logins``."""


def describe(inventory: Path) -> Description:
    """Ask the collection."""
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "description"
        ran = subprocess.run(
            [
                program,
                "-i",
                str(inventory),
                str(Path(__file__).with_name("describe.yml")),
                "-e",
                f"description={written}",
            ],
            cwd=REPOSITORY,
            check=False,
            capture_output=True,
            text=True,
        )
        if not written.exists():
            sys.exit(f"{inventory} cannot be understood: {(ran.stdout + ran.stderr)[-3000:]}")
        described: Description = json.loads(written.read_text(encoding="utf-8"))
    return described


def kind_of(node: Mapping[str, Any]) -> type[Host]:
    """What a node of the topology is made of."""
    return Unit if node["become"] else Container


def needs(described: Description) -> dict[str, tuple[str, ...]]:
    """The programs that each machine must have."""
    nodes = described["topology"]["nodes"]
    return {nodes[name]["machine"]: kind_of(nodes[name]).needs for name in described["processes"]}


def logins(described: Description) -> dict[str, Login]:
    """How the inventory's hosts are reached."""
    return {
        name: Login(**{key: str(value) for key, value in login.items()}) for name, login in described["logins"].items()
    }


def hosts(described: Description, machines: Mapping[str, Machine]) -> dict[str, Host]:
    """Where each process of the cluster lives."""
    nodes = described["topology"]["nodes"]
    peers = [nodes[name]["ip"] for name in described["processes"]]
    networks = {name: _network(machine, peers) for name, machine in machines.items()}
    shared = {
        name: NoNetwork(machine, f"the containers on {name} have no network of their own (service_docker_network_mode)")
        for name, machine in machines.items()
    }
    made: dict[str, Host] = {}
    for node, processes in described["processes"].items():
        machine = machines[nodes[node]["machine"]]
        for name, unit in processes.items():
            if kind_of(nodes[node]) is Unit:
                made[name] = Unit(name, unit, machine, networks[machine.name])
            else:
                own = nodes[node]["own_network"]
                network = own_network(name, machine, peers) if own else shared[machine.name]
                made[name] = Container(name, name, machine, network)
    return made


def _network(machine: Machine, peers: list[str]) -> Network:
    if machine.ssh is None:
        return NoNetwork(machine, f"{machine.name} is the machine that this program runs on")
    return MachineNetwork(machine, (), peers)
