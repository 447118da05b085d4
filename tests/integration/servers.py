# Copyright (c) 2026 citus_ha contributors
# SPDX-License-Identifier: MIT
"""Real PostgreSQL servers in containers, for the tests in this folder.

    with servers(["coordinator", "worker1"]) as group:
        with group["coordinator"].connect() as connection:   # psycopg2, autocommit, user postgres
            ...

Each server is one container of the node image (``CITUS_HA_TEST_IMAGE``) with a fresh data folder in
memory, in a private network where the servers reach each other by name ("coordinator", "worker1").
Containers and network are removed when the ``with`` block ends, whatever happened in it.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import docker
import psycopg2
import psycopg2.extensions

PREFIX = "citus-ha-test-"
DATA = "/var/lib/citus_ha/postgres"
PORT = 5432
OPEN_HBA = ("local all all trust", "host all all all trust", "host replication all all trust")
"""Anyone may be anyone: right for a private network that lives for one test."""

SETTINGS: Mapping[str, str] = {
    "shared_preload_libraries": "citus",
    "listen_addresses": "*",
    "wal_level": "logical",
    "max_prepared_transactions": "100",
    "citus.node_conninfo": "sslmode=prefer",
    # The data folder lives in memory and dies with the test.
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "log_min_messages": "warning",
}

# $1 = pg_hba.conf, the rest = options of initdb.
START = """
umask 0077
hba=$1 && shift
initdb --pgdata="$PGDATA" --username=postgres --auth=trust --no-sync --no-instructions "$@" >/dev/null
printf '%s\\n' "$hba" > "$PGDATA/pg_hba.conf"
exec postgres -D "$PGDATA"
"""


def test_image() -> str:
    """Name of the node image that the tests run on."""
    image = os.environ.get("CITUS_HA_TEST_IMAGE")
    if not image:
        raise RuntimeError("Set CITUS_HA_TEST_IMAGE to the name of a node image (`make test` does so).")
    return image


test_image.__test__ = False  # type: ignore[attr-defined]  # a helper that pytest must not collect


@dataclass(frozen=True)
class Server:
    """One running server. ``name`` is its host name inside the network, ``address`` reaches it from the test."""

    name: str
    address: str
    container: Any
    port: int = PORT

    def connect(
        self, dbname: str = "postgres", user: str = "postgres", **options: Any
    ) -> psycopg2.extensions.connection:
        """A new autocommit connection; close it, or let the container's end close it."""
        connection = psycopg2.connect(
            host=self.address, port=self.port, dbname=dbname, user=user, connect_timeout=5, **options
        )
        connection.autocommit = True
        return connection

    def query(self, statement: str, values: Any = None, **connection: Any) -> list[tuple[Any, ...]]:
        """Run one statement in a connection of its own and return its rows (none: an empty list)."""
        opened = self.connect(**connection)
        try:
            with opened.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []
        finally:
            opened.close()

    def run(self, command: Sequence[str], user: str = "postgres") -> str:
        """Run a program in the container and return its output; raise when it fails."""
        code, output = self.container.exec_run(list(command), user=user)
        text = str(output.decode(errors="replace"))
        if code != 0:
            raise RuntimeError(f"{list(command)} in {self.name} ended with {code}: {text}")
        return text

    def wait(self, timeout: float = 120.0) -> None:
        """Return when the server answers a query; raise with its log when it does not in time (seconds)."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.query("SELECT 1")
                return
            except psycopg2.OperationalError as error:
                self.container.reload()
                if time.monotonic() > deadline or self.container.status == "exited":
                    log = self.container.logs(tail=50).decode(errors="replace")
                    raise RuntimeError(f"{self.name} does not answer: {error}\n{log}") from error
            time.sleep(0.1)


@contextmanager
def servers(
    names: Sequence[str],
    *,
    image: str | None = None,
    settings: Mapping[str, str] | None = None,
    hba: Sequence[str] = OPEN_HBA,
    initdb: bool = True,
) -> Iterator[dict[str, Server]]:
    """Start one server per name and yield them by name.

    ``settings`` are put over :data:`SETTINGS` (an empty value takes one away); ``hba`` are the lines of
    pg_hba.conf. ``initdb=False`` starts containers that only sleep, as hosts for what a test builds itself.
    """
    client = docker.from_env()
    run_name = PREFIX + secrets.token_hex(4)
    merged = {key: value for key, value in {**SETTINGS, **(settings or {})}.items() if value != ""}
    options = [argument for key, value in merged.items() for argument in ("--set", f"{key}={value}")]
    command = ["sh", "-euc", START, "sh", "\n".join(hba), *options] if initdb else ["sleep", "infinity"]
    network = client.networks.create(run_name, driver="bridge")
    containers = []
    try:
        for name in names:
            container = client.containers.create(
                image or test_image(),
                command,
                name=f"{run_name}-{name}",
                hostname=name,
                user="postgres" if initdb else "root",
                environment={"PGDATA": DATA},
                tmpfs={DATA: "uid=5432,gid=5432,mode=0700", "/run/postgresql": "uid=5432,gid=5432,mode=2775"},
                stop_signal="SIGINT",  # a fast shutdown
                init=True,
                network=run_name,
                networking_config={run_name: client.api.create_endpoint_config(aliases=[name])},
            )
            containers.append(container)
            container.start()
        started = {}
        for name, container in zip(names, containers, strict=True):
            container.reload()
            address = container.attrs["NetworkSettings"]["Networks"][run_name]["IPAddress"]
            started[name] = Server(name, address, container)
        if initdb:
            for server in started.values():
                server.wait()
        yield started
    finally:
        for container in containers:
            container.remove(force=True, v=True)
        network.remove()
        client.close()
