# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The nodes of a cluster as its inventory names them, and what they say of themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from description import REPOSITORY, Description
from errors import CannotHappen, DidNotHappen
from hosts import Host

T = TypeVar("T")
TLS = "/etc/citus_ha/tls"
CURL = ["curl", "-s", "-m", "3", "--cacert", f"{TLS}/ca.crt", "--cert", f"{TLS}/node.crt", "--key", f"{TLS}/node.key"]
PSQL = ["psql", "-XAtq"]
SHOW_STATE = ["-h", "/run/pgbouncer", "-U", "pgbouncer", "-c", "SHOW STATE", "pgbouncer"]
MAX_LAG = 16 * 2**20
"""Bytes that a standby may be behind and still be in step."""
MAX_DOUBT = 15
"""Seconds in which a transaction in doubt must be decided; leaders look every ten."""
IN_DOUBT = f"SELECT count(*) FROM pg_prepared_xacts WHERE prepared < now() - interval '{MAX_DOUBT} seconds'"
KILLED = -9
"""Exit code of a playbook that was killed."""
DATA = "/var/lib/citus_ha/postgres/data"


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

    ``running`` whether each node runs, ``members`` those of each group, ``holding`` the poolers that hold their
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
    """The nodes of a cluster, by the names that they have in the inventory."""

    def __init__(self, inventory: Path, described: Description, hosts: Mapping[str, Host]) -> None:
        self.inventory = inventory
        topology = described["topology"]
        self._nodes: dict[str, dict[str, Any]] = topology["nodes"]
        self._hosts = hosts
        self.groups: dict[str, list[str]] = {}
        for name in (*topology["coordinators"], *topology["workers"]):
            self.groups.setdefault(self._nodes[name]["group"], []).append(name)
        self.etcd: list[str] = topology["etcd"]
        self.poolers: list[str] = topology["poolers"]
        self.postgres = [name for members in self.groups.values() for name in members]
        self.proxies = self._beside(self.poolers, "haproxy")
        self.keepers = self._beside(self.postgres, "lease")
        self.all = [*self.etcd, *self.postgres, *self.keepers, *self.poolers, *self.proxies]
        self._secrets = Path(described["secrets"])

    def _beside(self, nodes: Iterable[str], process: str) -> list[str]:
        return [f"{name}-{process}" for name in nodes if process in self._nodes[name]["beside"]]

    @property
    def dsn(self) -> str:
        """How an application reaches the cluster. The file is there when that was made."""
        return (self._secrets / "app.dsn").read_text(encoding="utf-8").strip()

    def group_of(self, node: str) -> str:
        """The replication group of a PostgreSQL node."""
        return next(name for name, members in self.groups.items() if node in members)

    def host(self, node: str) -> Host:
        """Where it lives."""
        return self._hosts[node]

    def first_of_each(self, place: Callable[[Host], object]) -> list[str]:
        """A node of every place, such as a machine, that several may share."""
        first = {id(place(self.host(name))): name for name in reversed(self.all)}
        return list(first.values())

    def keeper_of(self, node: str) -> list[str]:
        """What would give the node's lease up, if it has that."""
        return [name for name in self.keepers if name == f"{node}-lease"]

    def running(self, node: str) -> bool:
        """Whether it runs and is not frozen."""
        return self.host(node).running()

    def address(self, node: str) -> str:
        """The address that the others see it at."""
        return str(self._nodes[node]["ip"])

    def port(self, node: str, variable: str) -> int:
        """A port of the node."""
        return int(self._nodes[node]["ports"][variable])

    def inside(self, node: str, *argv: str) -> str:
        """Standard output of a command in the node; empty when it cannot run there."""
        return self.host(node).inside(*argv)

    def must(self, node: str, *argv: str) -> str:
        """Standard output of a command in the node.

        :raises DidNotHappen: it cannot run there, or fails.
        """
        return self.host(node).must(*argv)

    def _ask(self, node: str, process: str, path: str) -> str:
        """What a process of the node answers the node itself."""
        return self.inside(node, *CURL, f"{self._nodes[node]['urls'][process]}/{path}")

    def members(self, group: str, ask: Iterable[str] | None = None) -> list[Member]:
        """The group as the first member that answers sees it."""
        for node in ask or self.groups[group]:
            if not self.running(node):
                continue
            try:
                answer = json.loads(self._ask(node, "patroni", "cluster"))
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
        """Ask all of them, side by side: it takes a while to reach a machine."""
        with ThreadPoolExecutor(max_workers=8) as pool:

            def answers(ask: Callable[[str], T], names: Iterable[str]) -> dict[str, T]:
                return dict(zip(names, pool.map(ask, names), strict=True))

            members = answers(self.members, self.groups)
            leaders = [member.name for group in members.values() for member in group if member.role == "leader"]
            return Seen(
                running=answers(self.running, self.all),
                members=members,
                holding=[
                    name for name, said in answers(self._pooler_state, self.poolers).items() if "paused|no" not in said
                ],
                speechless=[
                    name for name, said in answers(self._etcd_health, self.etcd).items() if '"true"' not in said
                ],
                in_doubt=answers(lambda name: self.query(name, IN_DOUBT), leaders),
            )

    def _etcd_health(self, node: str) -> str:
        return self._ask(node, "etcd_client", "health")

    def query(self, node: str, statement: str) -> str:
        """What the node's server says to its superuser; empty when it does not."""
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
        :raises CannotHappen: only root may kill all of them at once.
        """
        if until and os.geteuid() != 0:
            raise CannotHappen("only root can kill a controller with all that it has started (unshare --pid)")
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
                late = running.poll() is None and not (until and reached)
            finally:
                running.kill()  # does nothing to one that has ended
                code = running.wait()
            output.seek(0)
            text = output.read()
        if late or not reached:
            why = f"lasted longer than {timeout:g} seconds" if late else "ended before it was to be killed"
            raise DidNotHappen(f"{playbook}.yml {why}: {text[-1500:]}")
        return code, text
