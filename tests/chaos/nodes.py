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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker

REPOSITORY = Path(__file__).resolve().parents[2]
TLS = "/etc/citus_ha/tls"
CURL = ["curl", "-s", "-m", "3", "--cacert", f"{TLS}/ca.crt", "--cert", f"{TLS}/node.crt", "--key", f"{TLS}/node.key"]
PSQL = ["psql", "-XAtq"]
SHOW_STATE = ["-h", "/run/pgbouncer", "-U", "pgbouncer", "-c", "SHOW STATE", "pgbouncer"]
PORTS = {"etcd_client_port": 2379, "postgres_port": 5432, "postgres_patroni_port": 8008, "pgbouncer_port": 6432}
"""The collection's defaults, for inventories that do not say."""
MAX_LAG = 16 * 2**20
"""Bytes that a standby may be behind and still be in step."""
MAX_DOUBT = 15
"""Seconds in which a transaction in doubt must be decided; Citus looks every ten."""
IN_DOUBT = f"SELECT count(*) FROM pg_prepared_xacts WHERE prepared < now() - interval '{MAX_DOUBT} seconds'"
KILLED = -9
"""Exit code of a playbook that was killed."""
DATA = "/var/lib/citus_ha/postgres/data"


class DidNotHappen(Exception):
    """A fault was to happen and did not: this program is wrong, and what it says of the cluster worth nothing."""


@dataclass(frozen=True)
class Member:
    """One PostgreSQL server as Patroni sees it; ``lag`` in bytes, None when it is not known."""

    name: str
    role: str
    state: str
    timeline: int
    lag: int | None = None


@dataclass(frozen=True)
class Seen:
    """What the nodes say at one moment.

    ``running`` whether each container runs, ``members`` those of each group, ``holding`` the poolers that hold their
    clients or do not say, ``speechless`` the etcd members that are not well, ``in_doubt`` how many transactions on
    each group's leader have been undecided for too long, "" where it does not say.
    """

    running: Mapping[str, bool]
    members: Mapping[str, Sequence[Member]]
    holding: Sequence[str] = ()
    speechless: Sequence[str] = ()
    in_doubt: Mapping[str, str] = field(default_factory=dict)


def lacking(groups: Mapping[str, Sequence[str]], seen: Seen) -> list[str]:
    """What a cluster lacks to be complete: all run, one leader in each group, the others stream in step."""
    lacks = [f"{name} does not run" for name, runs in seen.running.items() if not runs]
    lacks += [f"{name} is paused, or does not answer" for name in seen.holding]
    lacks += [f"{name} is not well" for name in seen.speechless]
    lacks += [
        f"{count or 'an unknown number of'} transactions on {node} are in doubt"
        for node, count in seen.in_doubt.items()
        if count != "0"
    ]
    for group, names in groups.items():
        members = {member.name: member for member in seen.members.get(group, ())}
        leaders = [member for member in members.values() if member.role == "leader" and member.state == "running"]
        lacks += [] if len(leaders) == 1 else [f"{group} has {len(leaders)} running leaders"]
        lacks += [
            f"{name} is {members[name].state if name in members else 'unknown'}"
            for name in names
            if name not in members or members[name].state not in ("running", "streaming")
        ]
        followers = [member for member in members.values() if member.role != "leader"]
        lacks += [f"{member.name} does not stream" for member in followers if member.state != "streaming"]
        lacks += [f"{member.name} lags" for member in followers if member.lag is None or member.lag > MAX_LAG]
        lacks += [
            f"{member.name} is on timeline {member.timeline}, {leader.name} on {leader.timeline}"
            for leader in leaders
            for member in followers
            if member.timeline != leader.timeline
        ]
        if followers and not any(member.role in ("sync_standby", "quorum_standby") for member in followers):
            lacks.append(f"{group} has no synchronous standby")
    return lacks


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
        self.proxies = [f"{name}-haproxy" for name in self.poolers]
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
        present = {container.name: container for container in self._docker.containers.list(all=True)}
        self.keepers = [name for name in (f"{node}-lease" for node in self.postgres) if name in present]
        self.all = [*self.etcd, *self.postgres, *self.keepers, *self.poolers, *self.proxies]
        modes = {name: present[name].attrs["HostConfig"]["NetworkMode"] for name in self.all if name in present}
        if exposed := [name for name, mode in modes.items() if mode == "host"]:
            sys.exit(f"The network of these nodes is this machine's own, and would be cut: {exposed}.")

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

    def port(self, node: str, variable: str) -> int:
        """A port of the node."""
        return int(self._variables[node].get(variable, PORTS[variable]))

    def url(self, node: str, variable: str, path: str) -> str:
        """Where a process of the node answers the node itself."""
        scheme = "https" if self._variables[node].get("cluster_control_plane_tls", True) else "http"
        return f"{scheme}://localhost:{self.port(node, variable)}/{path}"

    def inside(self, node: str, *argv: str) -> str:
        """Standard output of a command in the container; empty when it cannot run there."""
        try:
            _code, output = self.container(node).exec_run(list(argv), demux=True)
        except docker.errors.APIError:
            return ""
        return (output[0] or b"").decode() if output else ""

    def must(self, node: str, *argv: str) -> str:
        """Standard output of a command in the container.

        :raises DidNotHappen: it cannot run there, or fails.
        """
        try:
            code, output = self.container(node).exec_run(list(argv))
        except docker.errors.APIError as error:
            raise DidNotHappen(f"{' '.join(argv)} on {node}: {error}") from error
        text = (output or b"").decode()
        if code != 0:
            raise DidNotHappen(f"{' '.join(argv)} on {node} ended with {code}: {text.strip()}")
        return text

    def members(self, group: str, ask: Iterable[str] | None = None) -> list[Member]:
        """The group as the first member that answers sees it."""
        for node in ask or self.groups[group]:
            if not self.running(node):
                continue
            text = self.inside(node, *CURL, self.url(node, "postgres_patroni_port", "cluster"))
            try:
                answer = json.loads(text)
            except ValueError:
                continue
            return [
                Member(
                    *(item["name"], item["role"], item["state"], int(item.get("timeline") or 0)),
                    item["lag"] if isinstance(item.get("lag"), int) else None,
                )
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
        return [name for name in self.poolers if "paused|yes" in self._pooler_state(name)]

    def _pooler_state(self, pooler: str) -> str:
        return self.inside(pooler, *PSQL, "-p", str(self.port(pooler, "pgbouncer_port")), *SHOW_STATE)

    def seen(self) -> Seen:
        """Ask all of them."""
        members = {group: self.members(group) for group in self.groups}
        leaders = [member.name for group in members.values() for member in group if member.role == "leader"]
        return Seen(
            running={name: self.running(name) for name in self.all},
            members=members,
            holding=[name for name in self.poolers if "paused|no" not in self._pooler_state(name)],
            speechless=[name for name in self.etcd if '"true"' not in self._etcd_health(name)],
            in_doubt={name: self._query(name, IN_DOUBT) for name in leaders},
        )

    def _etcd_health(self, node: str) -> str:
        return self.inside(node, *CURL, self.url(node, "etcd_client_port", "health"))

    def _query(self, node: str, statement: str) -> str:
        port = str(self.port(node, "postgres_port"))
        return self.inside(node, *PSQL, "-h", "/run/postgresql", "-p", port, "-U", "postgres", "-c", statement).strip()

    def lacking(self) -> list[str]:
        """What the cluster lacks to be complete."""
        return lacking(self.groups, self.seen())

    def wait_until_complete(self, patience: float) -> list[str]:
        """What is lacking after ``patience`` seconds at most: nothing, if all went well."""
        deadline = time.monotonic() + patience
        while (lacks := self.lacking()) and time.monotonic() < deadline:
            time.sleep(1)
        return lacks

    def play(
        self, playbook: str, *arguments: str, until: Callable[[], object] | None = None, timeout: float = 900
    ) -> tuple[int, str]:
        """Run a playbook of the collection; its exit code and output.

        As soon as ``until`` says so it is killed, with every process that it has started here.

        :raises DidNotHappen: it lasted longer than ``timeout`` seconds, or ended before ``until`` said so.
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
            reached = until is None
            try:
                while (
                    running.poll() is None
                    and time.monotonic() < deadline
                    and not (until and (reached := bool(until())))
                ):
                    time.sleep(0.05)
                late = running.poll() is None and until is None
            finally:
                running.kill()  # does nothing to one that has ended
                code = running.wait()
            output.seek(0)
            text = output.read()
        if late or not reached:
            why = f"lasted longer than {timeout:g} seconds" if late else "ended before it was to be killed"
            raise DidNotHappen(f"{playbook}.yml {why}: {text[-1500:]}")
        return code, text


def _inventory(path: Path) -> dict[str, Any]:
    program = str(Path(sys.executable).with_name("ansible-inventory"))
    listed = subprocess.run(
        [program, "-i", str(path), "--list"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    described: dict[str, Any] = json.loads(listed.stdout)
    return described


def _hosts(described: dict[str, Any], group: str) -> list[str]:
    return list(described.get(group, {}).get("hosts", []))
