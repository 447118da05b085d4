# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""A whole cluster for tests: the default Docker inventory under other names, ports and addresses.

A demo cluster on the same machine is left alone, and what the inventory says of names and ports is put to the test.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import docker
import psycopg2
import psycopg2.extensions
import yaml
from system_log import Heard

from playbooks import REPOSITORY, Run, run_playbook

T = TypeVar("T")
PREFIX = "citus-ha-test-"
PORTS = {
    "coordinator-1": {"postgres_published_port": 25432},
    "coordinator-2": {"postgres_published_port": 25433},
    "pgbouncer-1": {
        "pgbouncer_published_port": 26432,
        "haproxy_primary_published_port": 25000,
        "haproxy_standby_published_port": 25001,
    },
}


@dataclass(frozen=True)
class Again:
    """The second run of ``site.yml``, by the collection in the folder ``installed``, and what the system log heard."""

    installed: Path
    run: Run
    heard: Heard


def renamed(group: dict[str, Any]) -> dict[str, Any]:
    """A group of an inventory with every host under the tests' prefix and on the tests' ports."""
    result = dict(group)
    if "hosts" in group:
        result["hosts"] = {PREFIX + host: PORTS.get(host, variables) for host, variables in group["hosts"].items()}
    if "children" in group:
        result["children"] = {name: renamed(child) for name, child in group["children"].items()}
    return result


class Cluster:
    """A cluster on this machine's Docker engine, made from an inventory of its own in ``folder``."""

    def __init__(self, folder: Path, source: str = "auto", template: str = "docker", **variables: Any) -> None:
        origin = REPOSITORY / "inventories" / template
        self.inventory = folder
        self.source = source
        self.docker = docker.from_env()
        #: The run that made it, where somebody keeps it.
        self.made: Run | None = None
        groups = yaml.safe_load((origin / "hosts.yml").read_text(encoding="utf-8"))
        shutil.copytree(origin / "group_vars", folder / "group_vars")
        everywhere = folder / "group_vars/all.yml"
        self.variables: dict[str, Any] = yaml.safe_load(everywhere.read_text(encoding="utf-8")) | {
            "cluster_name": "citus_ha_test",
            "service_docker_subnet": "172.30.0.0/16",
            "postgres_client_networks": ["172.30.0.1/32"],
            "postgres_memory": "512m",
            "citus_package_source": source,
            "citus_standin_path": str(REPOSITORY / "tests/standin"),
        }
        self.variables.update(variables)
        everywhere.write_text(yaml.safe_dump(self.variables), encoding="utf-8")
        self.groups = {name: renamed(group) for name, group in groups.items()}
        self.save()

    def save(self) -> None:
        """Write the groups, after a test has changed them."""
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(self.groups, sort_keys=False), encoding="utf-8")

    def play(self, name: str, *arguments: str, **options: Any) -> Run:
        """Run a playbook on this cluster."""
        return run_playbook(name, self.inventory, *arguments, **options)

    @property
    def dsn(self) -> str:
        """What ``make dsn`` prints: the URI of the application role through PgBouncer."""
        return (self.inventory / ".secrets/app.dsn").read_text(encoding="utf-8").strip()

    @property
    def password(self) -> str:
        """The application role's, as the controller has it."""
        return (self.inventory / ".secrets/passwords/app").read_text(encoding="utf-8").strip()

    def connect(self, **parameters: Any) -> psycopg2.extensions.connection:
        """An autocommit session of the application role; ``parameters`` replace those of :attr:`dsn`."""
        connection = psycopg2.connect(self.dsn, **{"connect_timeout": 5, **parameters})
        connection.autocommit = True
        return connection

    def query(self, statement: str, values: tuple[Any, ...] | None = None, **parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of one statement in a session of its own."""
        connection = self.connect(**parameters)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def inside(self, node: str, *argv: str) -> str:
        """Standard output of a command in a node's container, as the container's user."""
        return inside(self.docker.containers.get(PREFIX + node), *argv)

    def etcd_login(self) -> dict[str, str]:
        """The ``username`` and ``password`` that a server logs in with at etcd."""
        return dict(yaml.safe_load(self.inside("worker1-1", "cat", "/etc/citus_ha/postgres/etcd_login.yml"))["etcd3"])

    def psql(self, node: str, statement: str, database: str = "app", user: str = "postgres") -> str:
        """What a statement answers on a node, over its Unix socket: unaligned, without heading."""
        return self.inside(
            node,
            "psql",
            "--host=/run/postgresql",
            f"--username={user}",
            "-XAtq",
            f"--dbname={database}",
            f"--command={statement}",
        ).strip()

    def containers(self, everything: bool = True) -> list[Any]:
        """The cluster's containers."""
        return self.docker.containers.list(
            all=everything, filters={"label": f"io.citus_ha.cluster={self.variables['cluster_name']}"}
        )

    def leader(self, group: str) -> str:
        """The node that leads a group such as ``worker1``, without the tests' prefix."""
        nodes = [name for name in self.nodes() if name.startswith(f"{group}-")]
        running = {c.name.removeprefix(PREFIX) for c in self.containers(everything=False)}
        for node in nodes:
            if node in running and self.psql(node, "SELECT NOT pg_is_in_recovery()", database="postgres") == "t":
                return node
        raise LookupError(f"no leader among {nodes}")

    def nodes(self) -> list[str]:
        """All nodes, without the tests' prefix."""
        return sorted({c.labels["io.citus_ha.node"].removeprefix(PREFIX) for c in self.containers()})

    def destroy(self) -> Run:
        """Remove everything, with the playbook."""
        return self.play("destroy", "-e", "confirm=yes")


def inside(container: Any, *argv: str) -> str:
    """Standard output of a command in a container, as the container's user."""
    code, output = container.exec_run(list(argv), demux=True)
    assert code == 0, f"{argv} in {container.name}: {output}"
    return (output[0] or b"").decode()


def eventually(look: Callable[[], T], timeout: float = 90, interval: float = 0.5) -> T:
    """What ``look`` returns once it is true and raises nothing; its last word after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            seen = look()
            if seen:
                return seen
            problem: object = f"it was {seen!r}"
        except Exception as error:  # the servers are expected to be away for a while
            problem = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} seconds: {problem}")
        time.sleep(interval)


@contextmanager
def cluster(folder: Path, source: str = "auto", **options: Any) -> Iterator[Cluster]:
    """A cluster that is removed in the end, whatever happened."""
    made = Cluster(folder, source, **options)
    made.destroy()
    try:
        yield made
    finally:
        made.destroy()
