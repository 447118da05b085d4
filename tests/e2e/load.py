# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Clients that are connected and work while something happens to the cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg2
from cluster import Cluster, eventually


@dataclass
class Load:
    """What the clients have seen."""

    stored: list[int] = field(default_factory=list)
    longest: float = 0.0
    errors: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """How many transactions were acknowledged."""
        return len(self.stored)

    def __str__(self) -> str:
        return f"{self.done} transactions, {len(self.errors)} errors, longest {self.longest:.2f} s"


@contextmanager
def load(demo: Cluster, clients: int = 8) -> Iterator[Load]:
    """So many sessions through PgBouncer that were opened before the block and last until its end.

    Each writes and reads in one transaction of several statements, on shards of both worker groups. They are more than
    there is need for, so that PgBouncer opens sessions with the servers as it goes. None may have an error, all go on
    after the block, and what they were told is stored is stored.
    """
    seen = Load()
    stop = threading.Event()
    lock = threading.Lock()
    demo.query("CREATE TABLE IF NOT EXISTS load (key bigint PRIMARY KEY, value int)")
    if demo.query("SELECT count(*) FROM pg_dist_partition WHERE logicalrelid = 'load'::regclass") == [(0,)]:
        demo.query("SELECT create_distributed_table('load', 'key')", port=25000)

    def work(number: int, connection: psycopg2.extensions.connection) -> None:
        key = number * 10**9
        while not stop.is_set():
            key += 1
            begun = time.monotonic()
            try:
                with connection.cursor() as cursor:
                    cursor.execute("BEGIN")
                    cursor.execute("INSERT INTO load VALUES (%s, %s)", (key, number))
                    cursor.execute("INSERT INTO load VALUES (%s, %s)", (key + 5 * 10**8, number))
                    cursor.execute("SELECT value FROM load WHERE key = %s", (key,))
                    assert cursor.fetchone() == (number,)
                    cursor.execute("COMMIT")
            except psycopg2.Error as error:
                with lock:
                    seen.errors.append(f"{time.strftime('%T')} {' '.join(str(error).split())}")
                return
            with lock:
                seen.stored.append(key)
                seen.longest = max(seen.longest, time.monotonic() - begun)
            time.sleep(0.1)  # an application, no benchmark: what happens meanwhile needs the processors, too

    offset = time.time_ns() // 10**9 % 10**6 * 1000
    connections = [demo.connect() for _client in range(clients)]
    workers = [
        threading.Thread(target=work, args=(offset + number, connection))
        for number, connection in enumerate(connections, 1)
    ]
    for worker in workers:
        worker.start()
    try:
        eventually(lambda: seen.done > clients * 3)
        yield seen
        before = seen.done
        eventually(lambda: seen.errors or seen.done > before + clients * 5)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
        for connection in connections:
            connection.close()
    assert seen.errors == [], seen
    kept = {key for (key,) in demo.query("SELECT key FROM load WHERE key > %s", (offset * 10**9,))}
    assert {written for key in seen.stored for written in (key, key + 5 * 10**8)} <= kept


@contextmanager
def readers(demo: Cluster, sessions: int = 4, seconds: float = 4.0) -> Iterator[None]:
    """So many sessions that read the table of :func:`load` from standbys, through PgBouncer, as long as it is there.

    Each transaction reads from every worker group, waits so many ``seconds``, and reads again. None may have an error,
    neither in the block nor in the two transactions that each session begins after it.
    """
    errors: list[str] = []
    stop = threading.Event()

    def work() -> None:
        try:
            connection = demo.connect(dbname="app_ro")
            connection.autocommit = True
            with connection.cursor() as cursor:
                left = 2
                while left:
                    left -= stop.is_set()
                    for statement in ("BEGIN", COUNT, f"SELECT pg_sleep({seconds})", COUNT, "COMMIT"):
                        cursor.execute(statement)
        except psycopg2.Error as error:
            errors.append(f"{time.strftime('%T')} {' '.join(str(error).split())}")

    workers = [threading.Thread(target=work) for _session in range(sessions)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert errors == []


COUNT = "SELECT count(*) FROM load"
