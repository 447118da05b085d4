# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The nodes of a cluster as its inventory names them, and what they say of themselves."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker

REPOSITORY = Path(__file__).resolve().parents[2]
TLS = "/etc/citus_ha/tls"
CURL = ["curl", "-s", "-m", "3", "--cacert", f"{TLS}/ca.crt", "--cert", f"{TLS}/node.crt", "--key", f"{TLS}/node.key"]
SHOW_STATE = ["psql", "-XAt", "-h", "/run/pgbouncer", "-p", "6432", "-U", "pgbouncer", "-c", "SHOW STATE", "pgbouncer"]
KILLED = -9
"""Exit code of a playbook that was killed."""
DATA = "/var/lib/citus_ha/postgres/data"


@dataclass(frozen=True)
class Member:
    """One PostgreSQL server as Patroni sees it."""

    name: str
    role: str
    state: str
    timeline: int


class Nodes:
    """Every node is a container on this machine's Docker engine, of the name that it has in the inventory."""

    def __init__(self, inventory: Path) -> None:
        self.inventory = inventory
        described = _inventory(inventory)
        variables: dict[str, dict[str, Any]] = described["_meta"]["hostvars"]
        self.groups: dict[str, list[str]] = {"coordinator": _hosts(described, "coordinator")}
        self.groups |= {name: _hosts(described, name) for name in described["workers"].get("children", [])}
        self.etcd = _hosts(described, "etcd")
        self.poolers = _hosts(described, "pgbouncer")
        self.postgres = [name for members in self.groups.values() for name in members]
        self.all = [*self.etcd, *self.postgres, *self.poolers, *(f"{name}-haproxy" for name in self.poolers)]
        self._variables = variables
        strangers = [
            name
            for name in variables
            if variables[name].get("service_manager", "docker") != "docker"
            or variables[name].get("service_docker_machine", "localhost") != "localhost"
        ]
        if strangers:
            sys.exit(f"Faults are made with this machine's Docker engine; these nodes are elsewhere: {strangers}.")
        self.dsn = (self._secrets() / "app.dsn").read_text(encoding="utf-8").strip()
        self._docker = docker.from_env()

    def _secrets(self) -> Path:
        given = self._variables[self.postgres[0]].get("cluster_secrets_path", "")
        folder = self.inventory if self.inventory.is_dir() else self.inventory.parent
        return folder / ".secrets" if not given or "{{" in given else Path(given)

    def group_of(self, node: str) -> str:
        """The replication group of a PostgreSQL node."""
        return next(name for name, members in self.groups.items() if node in members)

    def container(self, node: str) -> Any:
        """The node's container."""
        return self._docker.containers.get(node)

    def run_beside(self, name: str, image: str, command: list[str]) -> None:
        """A container that is none of the cluster's, without a network."""
        self._docker.containers.run(image, command, name=name, network_mode="none", detach=True, auto_remove=True)

    def remove_beside(self, prefix: str) -> None:
        """Remove those whose names begin so."""
        for container in self._docker.containers.list(all=True, filters={"name": f"^/?{prefix}"}):
            container.remove(force=True)

    def running(self, node: str) -> bool:
        """Whether the container runs and is not frozen."""
        return bool(self.container(node).status == "running")

    def pid(self, node: str) -> int:
        """The container's first process, as the machine numbers it."""
        return int(self.container(node).attrs["State"]["Pid"])

    def address(self, node: str) -> str:
        """The node's address in the cluster's network."""
        networks = self.container(node).attrs["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAMConfig"]["IPv4Address"])

    def inside(self, node: str, *argv: str) -> str:
        """Standard output of a command in the container; empty when it cannot run there."""
        try:
            _code, output = self.container(node).exec_run(list(argv), demux=True)
        except docker.errors.APIError:
            return ""
        return (output[0] or b"").decode() if output else ""

    def members(self, group: str, ask: Iterable[str] | None = None) -> list[Member]:
        """The group as the first member that answers sees it."""
        for node in ask or self.groups[group]:
            if not self.running(node):
                continue
            text = self.inside(node, *CURL, "https://localhost:8008/cluster")
            try:
                answer = json.loads(text)
            except ValueError:
                continue
            return [
                Member(item["name"], item["role"], item["state"], int(item.get("timeline") or 0))
                for item in answer.get("members", [])
            ]
        return []

    def leader(self, group: str) -> str:
        """Who leads.

        :raises LookupError: nobody at the moment.
        """
        if member := self._leading(group):
            return member.name
        raise LookupError(f"nobody leads {group}")

    def _leading(self, group: str, ask: Iterable[str] | None = None) -> Member | None:
        return next((member for member in self.members(group, ask) if member.role == "leader"), None)

    def standby(self, group: str) -> str:
        """A standby of the group."""
        leader = self.leader(group)
        return next(name for name in self.groups[group] if name != leader)

    def leadership(self, without: Iterable[str] = ()) -> dict[str, tuple[str, int]]:
        """Who leads each group, on which timeline. Both stay the same as long as nobody takes over.

        :param without: members that are not asked.
        """
        leading = {group: self._leading(group, {*names} - {*without}) for group, names in self.groups.items()}
        return {group: (member.name, member.timeline) if member else ("nobody", 0) for group, member in leading.items()}

    def paused(self) -> list[str]:
        """The poolers that hold their clients."""
        return [name for name in self.poolers if "paused|yes" in self.inside(name, *SHOW_STATE)]

    def lacking(self) -> list[str]:
        """What the cluster lacks to be complete: all run, one leader in each group, the others stream in step."""
        lacking = [f"{name} does not run" for name in self.all if not self.running(name)]
        lacking += [f"{name} is paused" for name in self.paused()]
        for group, names in self.groups.items():
            members = {member.name: member for member in self.members(group)}
            leaders = [member for member in members.values() if member.role == "leader" and member.state == "running"]
            lacking += [] if len(leaders) == 1 else [f"{group} has {len(leaders)} running leaders"]
            lacking += [
                f"{name} is {members[name].state if name in members else 'unknown'}"
                for name in names
                if name not in members or members[name].state not in ("running", "streaming")
            ]
            followers = [member for member in members.values() if member.role != "leader"]
            lacking += [f"{member.name} does not stream" for member in followers if member.state != "streaming"]
            if followers and not any(member.role in ("sync_standby", "quorum_standby") for member in followers):
                lacking.append(f"{group} has no synchronous standby")
        return lacking

    def wait_until_complete(self, patience: float) -> list[str]:
        """What is lacking after ``patience`` seconds at most: nothing, if all went well."""
        deadline = time.monotonic() + patience
        while (lacking := self.lacking()) and time.monotonic() < deadline:
            time.sleep(1)
        return lacking

    def play(
        self, playbook: str, *arguments: str, until: Callable[[], object] | None = None, timeout: float = 900
    ) -> tuple[int, str]:
        """Run a playbook of the collection; its exit code and output.

        As soon as ``until`` says so it is killed, with every process that it has started here.
        """
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(self.inventory)]
        # Ansible's workers are in sessions of their own; in a process namespace they die with the first process.
        alone = [] if until is None else ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with tempfile.TemporaryFile("w+") as output:
            running = subprocess.Popen(
                [*alone, *command, str(REPOSITORY / f"playbooks/{playbook}.yml"), *arguments],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
            deadline = time.monotonic() + timeout
            while running.poll() is None and time.monotonic() < deadline and not (until and until()):
                time.sleep(0.05)
            running.kill()  # does nothing to one that has ended
            code = running.wait()
            output.seek(0)
            return code, output.read()


def _inventory(path: Path) -> dict[str, Any]:
    program = str(Path(sys.executable).with_name("ansible-inventory"))
    listed = subprocess.run(
        [program, "-i", str(path), "--list"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    described: dict[str, Any] = json.loads(listed.stdout)
    return described


def _hosts(described: dict[str, Any], group: str) -> list[str]:
    return list(described.get(group, {}).get("hosts", []))
