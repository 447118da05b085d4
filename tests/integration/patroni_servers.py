# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""A Patroni group in containers: one etcd and some members, without TLS, in a private network.

with patroni_group(["one", "two"]) as group:
    requests to group.url("one"); SQL by group.servers["one"].query("SELECT 1")
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from servers import DATA, Server, servers

ETCD = "etcd"
API_PORT = 8008
# Its data folder is a mount point here, which initdb and pg_basebackup may fill but not remove.
PGDATA = f"{DATA}/data"


@dataclass(frozen=True)
class PatroniGroup:
    """A running group. ``servers`` are its members by name, etcd left out."""

    servers: dict[str, Server]
    etcd_url: str = ""

    def url(self, name: str) -> str:
        """Address of a member's REST API, as the test reaches it."""
        return f"http://{self.servers[name].address}:{API_PORT}"

    def get(self, name: str, path: str) -> Any:
        """Answer of a member's REST API, whatever its status."""
        try:
            with urllib.request.urlopen(self.url(name) + path, timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def start(self, name: str) -> None:
        """Start Patroni on a member."""
        self.servers[name].container.exec_run(
            ["sh", "-c", "exec patroni /tmp/patroni.yml >>/tmp/patroni.log 2>&1"], user="postgres", detach=True
        )

    def log(self, name: str) -> str:
        """The last lines that Patroni wrote on a member."""
        return self.servers[name].run(["tail", "-n", "60", "/tmp/patroni.log"])

    def leader(self, asked: str | None = None) -> str:
        """Name of the leader, as the first member or ``asked`` tells it."""
        members = self.get(asked or next(iter(self.servers)), "/cluster")["members"]
        return next(str(member["name"]) for member in members if member["role"] == "leader")

    def wait(self, timeout: float = 60.0) -> None:
        """Return when there is a leader and everyone else streams."""
        deadline = time.monotonic() + timeout
        seen: Any = None
        while time.monotonic() < deadline:
            try:
                seen = self.get(next(iter(self.servers)), "/cluster")["members"]
            except (OSError, ValueError):
                seen = None
            states = sorted(member["state"] for member in seen or [])
            if states == sorted(["running"] + ["streaming"] * (len(self.servers) - 1)):
                return
            time.sleep(0.25)
        logs = "\n".join(f"--- {name}\n{self.log(name)}" for name in self.servers)
        raise RuntimeError(f"The group did not come up: {seen}\n{logs}")


@contextmanager
def patroni_group(
    names: Sequence[str], *, dynamic: Mapping[str, Any] | None = None, loop_wait: int = 2, wait: bool = True
) -> Iterator[PatroniGroup]:
    """Start a group of members with these names; the first one bootstraps it."""
    with servers([ETCD, *names], initdb=False) as hosts:
        hosts[ETCD].container.exec_run(
            [
                "sh",
                "-c",
                "exec etcd --data-dir /tmp/etcd --unsafe-no-fsync --listen-client-urls http://0.0.0.0:2379"
                " --advertise-client-urls http://etcd:2379 >/tmp/etcd.log 2>&1",
            ],
            detach=True,
        )
        group = PatroniGroup({name: hosts[name] for name in names}, f"http://{hosts[ETCD].address}:2379")
        for name in names:
            configuration = json.dumps(_configuration(hosts[name], dynamic or {}, loop_wait))
            hosts[name].run(["sh", "-c", 'printf %s "$1" >/tmp/patroni.yml', "sh", configuration])
            group.start(name)
        if wait:
            group.wait()
        yield group


def _configuration(host: Server, dynamic: Mapping[str, Any], loop_wait: int) -> dict[str, Any]:
    """Patroni's configuration; JSON is YAML too."""
    return {
        "scope": "test",
        "name": host.name,
        "restapi": {"listen": f"0.0.0.0:{API_PORT}", "connect_address": f"{host.address}:{API_PORT}"},
        "etcd3": {"hosts": f"{ETCD}:2379"},
        "bootstrap": {
            "dcs": {
                "ttl": 20,
                "loop_wait": loop_wait,
                "retry_timeout": 5,
                **dynamic,
                "postgresql": {
                    "use_pg_rewind": True,
                    "use_slots": True,
                    "parameters": {"shared_buffers": "32MB", "fsync": "off", "max_connections": 50},
                    **dynamic.get("postgresql", {}),
                },
            },
            "initdb": [{"encoding": "UTF8"}, "data-checksums", "no-sync"],
        },
        "postgresql": {
            "listen": "0.0.0.0:5432",
            "connect_address": f"{host.address}:5432",
            "data_dir": PGDATA,
            "pg_hba": ["local all all trust", "host all all all trust", "host replication all all trust"],
            "authentication": {
                "superuser": {"username": "postgres", "password": "unused"},
                "replication": {"username": "replicator", "password": "unused"},
            },
            "basebackup": {"checkpoint": "fast", "no-sync": ""},
        },
    }
