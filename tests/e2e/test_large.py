# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""An inventory that is nothing like the default one, in INI form, on Docker.

Five etcd members, three worker groups of three, two poolers, other names, with a domain, and other ports.
tests/unit/test_inventory.py says the same of machines, and what is rendered; test_vm_ipv6.py has IPv6 addresses.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import psycopg2
import pytest
from cluster import PREFIX, eventually, inside

from playbooks import REPOSITORY, Run, run_playbook

pytestmark = pytest.mark.slow

NAME = "citus_ha_test_large"
WORKERS = ("north", "east", "south")
MODES = {"north": "quorum"}


def host(name: str) -> str:
    """A node's name in the inventory."""
    return f"{PREFIX}{name}.example.com"


def section(group: str, hosts: list[str], **variables: Any) -> str:
    """A group with its variables."""
    lines = [f"[{group}]", *hosts, f"[{group}:vars]", *(f"{name}={value}" for name, value in variables.items())]
    return "\n".join(lines) + "\n\n"


class Large:
    """The cluster of this module."""

    def __init__(self, folder: Path) -> None:
        self.inventory = folder / "inventory"
        self.docker = docker.from_env()
        text = section("etcd", [host(f"registry-{letter}") for letter in "abcde"], etcd_client_port=3379)
        text += section("coordinator", [host("head-1"), host("head-2")], postgres_port=6000)
        for number, group in enumerate(WORKERS, 11):
            members = [host(f"{group}-{member}") for member in (1, 2, 3)]
            mode = MODES.get(group, "on")
            text += section(
                group, members, citus_group=number, postgres_port=6000 + number, postgres_synchronous_mode=mode
            )
        text += "[workers:children]\n" + "\n".join(WORKERS) + "\n\n"
        doors = [f"{host(f'door-{number}')} pgbouncer_published_port=2743{number}" for number in (1, 2)]
        text += section("pgbouncer", doors, pgbouncer_port=7432, haproxy_primary_port=7000, haproxy_standby_port=7001)
        # By place: no business of the cluster's, and smaller than a worker group.
        text += section("hall_1", [host(f"{group}-1") for group in WORKERS[:2]], hall=1)
        (self.inventory / "group_vars").mkdir(parents=True)
        (self.inventory / "hosts.ini").write_text(text)
        variables = {
            "cluster_name": NAME,
            "service_docker_subnet": "172.31.0.0/16",
            "ansible_connection": "community.docker.docker",
            "ansible_python_interpreter": "/usr/bin/python3",
            "postgres_memory": "256m",
            "postgres_max_connections": 60,
            "service_limits": {"nofile": 4096},
            "citus_package_source": "auto",
            "citus_allow_standin": True,
            "citus_standin_path": str(REPOSITORY / "tests/standin"),
        }
        (self.inventory / "group_vars/all.json").write_text(json.dumps(variables))

    def play(self, name: str, *arguments: str) -> Run:
        """Run a playbook."""
        return run_playbook(name, self.inventory, *arguments, timeout=1800)

    def query(self, statement: str, values: tuple[Any, ...] | None = None) -> list[tuple[Any, ...]]:
        """Rows of a statement of the application role, through whichever pooler answers."""
        connection = psycopg2.connect((self.inventory / ".secrets/app.dsn").read_text().strip(), connect_timeout=5)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def inside(self, node: str, *argv: str) -> str:
        """Standard output of a command in a node's container."""
        return inside(self.docker.containers.get(node), *argv).strip()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Large]:
    """The cluster, made in batches as a first deployment may be."""
    made = Large(tmp_path_factory.mktemp("large"))
    made.play("destroy", "-e", "confirm=yes")
    try:
        made.play("site", "-e", "batch=4").succeeded()
        yield made
    finally:
        made.play("destroy", "-e", "confirm=yes").succeeded()


@pytest.mark.timeout(1800)
def test_every_node_has_its_place(large: Large) -> None:
    nodes = (
        "SELECT groupid, noderole, count(*), min(nodeport), max(nodeport) FROM pg_dist_node GROUP BY 1, 2 ORDER BY 1, 2"
    )
    assert eventually(lambda: large.query(nodes)) == [
        (0, "primary", 1, 6000, 6000),
        (0, "secondary", 1, 6000, 6000),
        *(
            (number, role, count, 6000 + number, 6000 + number)
            for number in (11, 12, 13)
            for role, count in (("primary", 1), ("secondary", 2))
        ),
    ]
    limits = large.docker.containers.get(host("north-1")).attrs["HostConfig"]["Ulimits"]
    assert limits == [{"Name": "nofile", "Soft": 4096, "Hard": 4096}]


@pytest.mark.timeout(900)
def test_a_second_run_changes_nothing_and_the_cluster_is_healthy(large: Large) -> None:
    assert large.play("site").succeeded().changed == {}
    large.play("example").succeeded()
    large.play("verify").succeeded()


@dataclass
class Writer:
    """A client that writes to one shard, and comes back when its connection breaks."""

    large: Large
    table: str
    bucket: int
    stored: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.work)

    def work(self) -> None:
        """One key after the other."""
        for key in itertools.count():
            if self.stopped.wait(0.05):
                return
            try:
                self.large.query(f"INSERT INTO {self.table} VALUES ({self.bucket}, {key}) RETURNING key")
                self.stored.append(key)
            except psycopg2.Error as error:
                self.errors.append(" ".join(str(error).split()))

    def goes_on(self) -> None:
        """Wait until more is stored."""
        before = len(self.stored)
        eventually(lambda: len(self.stored) > before + 10)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("group", ["north", "east"], ids=["quorum", "on"])
def test_a_dead_standby_of_three_stops_nothing_and_its_leader_may_die_then(large: Large, group: str) -> None:
    """The guarantee stays with two of three: whoever leads next has every acknowledged write."""
    number, table = 11 + WORKERS.index(group), f"kept_{group}"
    large.query(f"CREATE TABLE {table} (bucket int, key bigint, PRIMARY KEY (bucket, key))")
    large.query(f"SELECT create_distributed_table('{table}', 'bucket', shard_count => 12)")
    buckets = large.query(
        f"SELECT b FROM generate_series(1, 99) AS b JOIN pg_dist_placement AS p"
        f" ON p.shardid = get_shard_id_for_distribution_column('{table}', b) WHERE p.groupid = {number} LIMIT 1"
    )
    leaders = large.query(f"SELECT nodename FROM pg_dist_node WHERE groupid = {number} AND noderole = 'primary'")
    leader = leaders[0][0]
    # Who the leader waits for
    waited = large.inside(
        leader,
        *("psql", "-XAtq", "-h", "/run/postgresql", "-p", str(6000 + number), "-U", "postgres", "-c"),
        "SELECT application_name FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum') LIMIT 1",
    )
    members = {host(f"{group}-{member}") for member in (1, 2, 3)}
    assert waited in members, waited
    standbys = [waited, *(members - {leader, waited})]
    writer = Writer(large, table, buckets[0][0])
    writer.thread.start()
    try:
        writer.goes_on()
        large.docker.containers.get(standbys[0]).kill()
        writer.goes_on()
        assert writer.errors == [], "a standby's death is not noticed"
        time.sleep(10)  # Patroni has chosen the other one
        large.docker.containers.get(leader).kill()
        writer.goes_on()
    finally:
        writer.stopped.set()
        writer.thread.join()
        for node in (standbys[0], leader):
            large.docker.containers.get(node).start()
    primary = large.query(f"SELECT nodename FROM pg_dist_node WHERE groupid = {number} AND noderole = 'primary'")
    assert primary == [(standbys[1],)]
    assert {key for (key,) in large.query(f"SELECT key FROM {table}")} >= set(writer.stored)
    eventually(lambda: large.play("verify").code == 0, timeout=240)


@pytest.mark.timeout(900)
def test_a_pooler_two_etcd_members_and_a_server_of_each_group_may_be_lost(large: Large) -> None:
    uri = (large.inventory / ".secrets/app.dsn").read_text()
    assert "@localhost:27431,localhost:27432/" in uri
    lost = [host(name) for name in ("door-1", "registry-a", "registry-c", "north-1", "east-1", "south-1")]
    for name in lost:
        large.docker.containers.get(name).kill()
    eventually(lambda: len(large.query("UPDATE events SET event_type = event_type RETURNING 1")) == 6, timeout=120)
    for name in lost:
        large.docker.containers.get(name).start()
    eventually(lambda: large.play("verify").code == 0, timeout=240)
