# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""One client inside every PostgreSQL node, past network, pooler and coordinator: does this server acknowledge writes?

A server that is cut off still hears its own probe. Two servers of a group that answer in the same period are a split
brain.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

from checker import Ack
from nodes import PSQL, Nodes

# One of an earlier run has its keys already, so that nothing would be acknowledged.
TABLE = ("DROP TABLE IF EXISTS chaos_probe", "CREATE TABLE chaos_probe (key bigint PRIMARY KEY)")
# The server says on which timeline it writes: the first eight digits of the file's name.
INSERT = (
    "INSERT INTO chaos_probe VALUES ({key})"
    " RETURNING 'timeline ' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8);\n"
    "\\echo end {key}\n"
)


def commands(*statements: str) -> list[str]:
    """Arguments of psql."""
    return [f"--command={statement}" for statement in statements]


class Probes:
    """A thread for each node."""

    def __init__(self, nodes: Nodes, interval: float = 0.25) -> None:
        self._nodes = nodes
        self._interval = interval
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._key = 0
        self.acks: list[Ack] = []
        self.answers = dict.fromkeys(nodes.postgres, 0)
        """How many probes each server answered, if only by a refusal."""
        self._threads = [threading.Thread(target=self._watch, args=(node,), daemon=True) for node in nodes.postgres]

    def start(self) -> None:
        """Make the tables and begin."""
        for group in self._nodes.groups:
            self._nodes.must(self._nodes.leader(group), *self._psql(self._nodes.leader(group)), *commands(*TABLE))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End all of them; one that still waits for its server is not waited for."""
        self._stop.set()
        for thread in self._threads:
            thread.join(5)

    def stored(self) -> dict[str, list[int]]:
        """The probes that each group has."""
        return {
            group: [
                int(line)
                for line in self._nodes.must(
                    self._nodes.leader(group),
                    *self._psql(self._nodes.leader(group)),
                    *commands("SELECT key FROM chaos_probe"),
                ).split()
            ]
            for group in self._nodes.groups
        }

    def remove(self) -> None:
        """Drop the tables."""
        for group in self._nodes.groups:
            self._nodes.must(self._nodes.leader(group), *self._psql(self._nodes.leader(group)), *commands(TABLE[0]))

    def _psql(self, node: str) -> list[str]:
        port = self._nodes.port(node, "postgres_port")
        return [*PSQL, "--host=/run/postgresql", f"--port={port}", "--username=postgres", "--dbname=postgres"]

    def _watch(self, node: str) -> None:
        while not self._stop.is_set():
            # No node, no server, a broken session: try again.
            process = subprocess.Popen(
                self._nodes.host(node).command(*self._psql(node)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            lines = self._lines(process)
            try:
                while not self._stop.is_set() and self._probe(node, process, lines):
                    self._stop.wait(self._interval)
            except (OSError, ValueError):
                pass
            finally:
                process.kill()
                process.wait()
            self._stop.wait(self._interval)

    def _probe(self, node: str, process: subprocess.Popen[bytes], lines: Iterator[str]) -> bool:
        """One write; False when the session is over."""
        with self._lock:
            self._key += 1
            key = self._key
        begun = time.time()
        stdin: Any = process.stdin
        stdin.write(INSERT.format(key=key).encode())
        stdin.flush()
        timeline, warned = None, False
        for line in lines:
            if line.startswith("timeline "):
                timeline = int(line.split()[1], 16)
            elif "WARNING" in line or "FATAL" in line:
                warned = True
            elif line == f"end {key}":
                break
        else:
            return False
        with self._lock:
            self.answers[node] += 1
            if timeline is not None and not warned:
                self.acks.append(Ack(self._nodes.group_of(node), node, timeline, key, begun, time.time()))
        return True

    def _lines(self, process: subprocess.Popen[bytes]) -> Iterator[str]:
        """Lines as they come, until the process or the whole run ends."""
        stdout: Any = process.stdout
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not self._stop.is_set():
                if selector.select(0.5):
                    piece = os.read(stdout.fileno(), 65536)
                    if not piece:
                        return
                    *lines, rest = (rest + piece).split(b"\n")
                    yield from (line.decode() for line in lines)
