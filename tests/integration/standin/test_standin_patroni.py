# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Patroni's own Citus support, unchanged: it makes the extension, registers the nodes and pauses a worker's switchover.

One coordinator and a worker group of two, without TLS. It runs on real Citus and on the stand-in.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from patroni_servers import PGDATA
from servers import Server, servers

GROUPS = {"coordinator": 0, "one": 1, "two": 1}
DATABASE = "app"


def configuration(name: str, host: Server) -> dict[str, Any]:
    """Patroni's configuration; JSON is YAML too."""
    return {
        "scope": "test",
        "name": name,
        "restapi": {"listen": "0.0.0.0:8008", "connect_address": f"{name}:8008"},
        "etcd3": {"hosts": "etcd:2379"},
        "citus": {"group": GROUPS[name], "database": DATABASE},
        "bootstrap": {
            "dcs": {
                "ttl": 20,
                "loop_wait": 2,
                "retry_timeout": 5,
                "synchronous_mode": True,
                "postgresql": {
                    "use_pg_rewind": True,
                    "parameters": {
                        "shared_buffers": "32MB",
                        "fsync": "off",
                        "max_connections": 60,
                        "citus.node_conninfo": "sslmode=prefer",
                    },
                },
            },
            "initdb": [{"encoding": "UTF8"}, "data-checksums", "no-sync"],
        },
        "postgresql": {
            "listen": "0.0.0.0:5432",
            "connect_address": f"{name}:5432",
            "data_dir": PGDATA,
            "pg_hba": ["local all all trust", "host all all all trust", "host replication all all trust"],
            "authentication": {
                "superuser": {"username": "postgres", "password": "unused"},
                "replication": {"username": "replicator", "password": "unused"},
            },
            "basebackup": {"checkpoint": "fast", "no-sync": ""},
        },
    }


def wait_until(look: Callable[[], Any], what: str, hosts: dict[str, Server], timeout: float = 120.0) -> None:
    """Return when ``look()`` is true; errors count as "not yet"."""
    deadline = time.monotonic() + timeout
    seen: Any = None
    while time.monotonic() < deadline:
        try:
            seen = look()
            if seen:
                return
        except psycopg2.Error as error:
            seen = error
        time.sleep(0.5)
    logs = "\n".join(f"--- {name}\n" + hosts[name].run(["tail", "-n", "40", "/tmp/patroni.log"]) for name in GROUPS)
    raise AssertionError(f"{what}: {seen}\n{logs}")


@pytest.fixture(scope="module")
def hosts() -> Iterator[dict[str, Server]]:
    """The members, with Patroni running on each and all of them registered in Citus."""
    with servers(["etcd", *GROUPS], initdb=False) as started:
        started["etcd"].container.exec_run(
            [
                "sh",
                "-c",
                "exec etcd --data-dir /tmp/etcd --unsafe-no-fsync --listen-client-urls http://0.0.0.0:2379"
                " --advertise-client-urls http://etcd:2379 >/tmp/etcd.log 2>&1",
            ],
            detach=True,
        )
        for name in GROUPS:
            text = json.dumps(configuration(name, started[name]))
            started[name].run(["sh", "-c", 'printf %s "$1" >/tmp/patroni.yml', "sh", text])
            started[name].container.exec_run(
                ["sh", "-c", "exec patroni /tmp/patroni.yml >>/tmp/patroni.log 2>&1"], user="postgres", detach=True
            )
        wait_until(
            lambda: [role for _name, role, _port in registry(started)] == ["primary", "primary", "secondary"],
            "registration",
            started,
        )
        print("Runs on", started["coordinator"].query("SELECT citus_version()", dbname=DATABASE)[0][0])
        yield started


def registry(hosts: dict[str, Server], server: str = "coordinator") -> list[tuple[Any, ...]]:
    """(group, role, name) of every node."""
    return hosts[server].query(
        "SELECT groupid, noderole::text, nodename FROM pg_dist_node ORDER BY groupid, noderole", dbname=DATABASE
    )


def has_synchronous_standby(leader: Server) -> bool:
    """Only such a standby may take over."""
    with urllib.request.urlopen(f"http://{leader.address}:8008/cluster", timeout=5) as answer:
        return any(member["role"] == "sync_standby" for member in json.load(answer)["members"])


def test_switchover_of_a_worker_stalls_writes_and_loses_none(hosts: dict[str, Server]) -> None:
    coordinator = hosts["coordinator"]
    coordinator.query("CREATE TABLE t (id bigserial, k int, PRIMARY KEY (k, id))", dbname=DATABASE)
    coordinator.query("SELECT create_distributed_table('t', 'k', shard_count => 4)", dbname=DATABASE)
    stop = threading.Event()
    acknowledged: list[int] = []
    errors: list[str] = []

    def write() -> None:
        connection = coordinator.connect(DATABASE)
        with connection.cursor() as cursor:
            while not stop.is_set():
                try:
                    cursor.execute("INSERT INTO t (k) VALUES (%s)", [len(acknowledged)])
                    acknowledged.append(1)
                except psycopg2.Error as error:
                    errors.append(str(error))
                    time.sleep(0.1)
                time.sleep(0.01)
        connection.close()

    old = next(name for group, role, name in registry(hosts) if (group, role) == (1, "primary"))
    new = {"one": "two", "two": "one"}[old]
    wait_until(lambda: has_synchronous_standby(hosts[old]), "a synchronous standby", hosts)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        request = urllib.request.Request(
            f"http://{hosts[old].address}:8008/switchover", json.dumps({"leader": old, "candidate": new}).encode()
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200
        wait_until(lambda: (1, "primary", new) in registry(hosts), "the coordinator's registry", hosts)
        before = len(acknowledged)
        wait_until(lambda: len(acknowledged) > before + 20, "writes go on", hosts)
    finally:
        stop.set()
        writer.join()
    assert errors == []
    assert coordinator.query("SELECT count(*) FROM t", dbname=DATABASE) == [(len(acknowledged),)]
    wait_until(
        lambda: (
            registry(hosts)
            == registry(hosts, new)
            == [(0, "primary", "coordinator"), (1, "primary", new), (1, "secondary", old)]
        ),
        "the workers' registry",
        hosts,
    )
    assert hosts[new].query("SELECT count(*) FROM t", dbname=DATABASE) == [(len(acknowledged),)]


def test_a_worker_that_dies_is_replaced(hosts: dict[str, Server]) -> None:
    before = hosts["coordinator"].query("SELECT count(*) FROM t", dbname=DATABASE)
    old = next(name for group, role, name in registry(hosts) if (group, role) == (1, "primary"))
    new = {"one": "two", "two": "one"}[old]
    wait_until(lambda: has_synchronous_standby(hosts[old]), "a synchronous standby", hosts)
    hosts[old].container.kill()
    wait_until(
        lambda: (
            (1, "primary", new)
            in hosts["coordinator"].query("SELECT groupid, noderole::text, nodename FROM pg_dist_node", dbname=DATABASE)
        ),
        "the failover",
        {name: host for name, host in hosts.items() if name != old} | {old: hosts[new]},
    )
    assert hosts["coordinator"].query("SELECT count(*) FROM t", dbname=DATABASE) == before
    hosts["coordinator"].query("INSERT INTO t (k) SELECT generate_series(1, 50)", dbname=DATABASE)
