# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Clients of the cluster: they write at a given rate whether the cluster keeps up or not, through PgBouncer."""

from __future__ import annotations

import itertools
import queue
import random
import threading
import time
from typing import Any

import psycopg2
import psycopg2.extensions
from checker import Read, Transfer
from ledger import Entry, Kind, Ledger, Outcome

ACCOUNTS = 100
BALANCE = 1000
BUCKETS = 64
MIX = (
    *(Kind.WRITE, Kind.WRITE, Kind.TRANSFER, Kind.WRITE, Kind.WRITE, Kind.REFERENCE),
    *(Kind.WRITE, Kind.WRITE, Kind.WRITE, Kind.TRANSFER, Kind.WRITE),
)
SETUP = (
    "DROP SCHEMA IF EXISTS chaos CASCADE",
    "CREATE SCHEMA chaos",
    "CREATE TABLE chaos.writes (bucket int, key bigint, PRIMARY KEY (bucket, key))",
    "SELECT create_distributed_table('chaos.writes', 'bucket', shard_count => 16)",
    "CREATE TABLE chaos.accounts (account int PRIMARY KEY, balance bigint NOT NULL)",
    "SELECT create_distributed_table('chaos.accounts', 'account', shard_count => 16)",
    "CREATE TABLE chaos.transfers (account int, key bigint, target int, amount bigint, PRIMARY KEY (account, key))",
    "SELECT create_distributed_table('chaos.transfers', 'account', colocate_with => 'chaos.accounts')",
    "CREATE TABLE chaos.reference (key bigint PRIMARY KEY)",
    "SELECT create_reference_table('chaos.reference')",
    f"INSERT INTO chaos.accounts SELECT g, {BALANCE} FROM generate_series(1, {ACCOUNTS}) g",
)
STORED = {
    Kind.WRITE: "SELECT key FROM chaos.writes",
    Kind.TRANSFER: "SELECT key FROM chaos.transfers",
    Kind.REFERENCE: "SELECT key FROM chaos.reference",
}
# Citus has no snapshot over several nodes: what is read is a moment between transfers. The lock waits for those that
# are under way. One that is in doubt has left it, and holds its rows alone: they are waited for, too, though not for
# long, as all transfers wait for this one meanwhile.
TOTAL = (
    "SET LOCAL citus.propagate_set_commands = 'local'",
    "SET LOCAL lock_timeout = '500ms'",
    "LOCK TABLE chaos.accounts IN SHARE MODE",
    "UPDATE chaos.accounts SET balance = balance",
    "SELECT sum(balance) FROM chaos.accounts",
)

# Classes of SQLSTATE in which PostgreSQL has certainly not committed: read-only and broken transactions, constraints,
# serialization and deadlocks, too many connections, locks that were not had.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
NOT_COMMITTED = ("23", "25", "40", "53", "55")
UNCERTAIN = "40003"  # statement_completion_unknown
# With several poolers each client takes any of them, and not all the first.
ANY_POOLER = {"load_balance_hosts": "random"} if psycopg2.extensions.libpq_version() >= 160000 else {}


def outcome_of(error: psycopg2.Error, sent: bool) -> Outcome:
    """What a client knows after an error. What is not certain is unknown.

    :param sent: whether it had sent what commits.
    """
    if not sent:
        return Outcome.FAILED
    code = error.pgcode or ""
    return Outcome.FAILED if code[:2] in NOT_COMMITTED and code != UNCERTAIN else Outcome.UNKNOWN


class Client:
    """One application: a connection that is opened anew after it has broken."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Any = None
        self.sent = False
        """Whether what commits the write was sent: after that an error says little."""

    def connection(self) -> Any:
        """An open connection. Silence of the pooler for ten seconds breaks it."""
        if self._connection is None or self._connection.closed:
            self._connection = psycopg2.connect(
                self._dsn,
                connect_timeout=5,
                keepalives_idle=3,
                keepalives_interval=2,
                keepalives_count=3,
                tcp_user_timeout=10000,
                application_name="chaos",
                **ANY_POOLER,
            )
        del self._connection.notices[:]
        return self._connection

    def drop(self) -> None:
        """Close it: after an error nobody knows in which state it is."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def warned(self) -> bool:
        """Whether the wait for the standby was cancelled: the acknowledgement is worth less then."""
        return any("synchronous replication" in notice for notice in self._connection.notices)


class Workload:
    """All clients. ``groups`` tells the Citus group of each bucket."""

    def __init__(self, dsn: str, ledger: Ledger, groups: dict[int, int], rate: float, clients: int, seed: int) -> None:
        self._dsn = dsn
        self._ledger = ledger
        self._groups = groups
        self._buckets = [[b for b, owner in groups.items() if owner == group] for group in sorted(set(groups.values()))]
        self._rate = rate
        self._random = random.Random(seed)
        self._due: queue.Queue[tuple[float, Kind, int, int] | None] = queue.Queue()
        self._stop = threading.Event()
        self.reads: list[Read] = []
        self.unread = 0
        """Reads of the total that failed, or would have had to wait for a transfer in doubt."""
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _number in range(clients)]
        self._pace = threading.Thread(target=self._plan, daemon=True)
        self._reader = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        """Let clients begin."""
        for thread in (*self._threads, self._pace, self._reader):
            thread.start()

    def stop(self, patience: float = 60) -> list[str]:
        """Plan no more, and let everybody finish what is due; the complaint of those who never got an answer."""
        self._stop.set()
        self._pace.join()
        for _thread in self._threads:
            self._due.put(None)
        deadline = time.monotonic() + patience
        for thread in (*self._threads, self._reader):
            thread.join(max(0.1, deadline - time.monotonic()))
        waiting = sum(thread.is_alive() for thread in self._threads)
        return [f"{waiting} clients had no answer {patience:g} seconds after the end"] if waiting else []

    def _plan(self) -> None:
        """Open loop: what is due is due, however long the answers take."""
        due = time.time()
        for number in itertools.count():
            if self._stop.is_set():
                break
            # In turn: each stream is steady, so that a silence of a second means something.
            kind = MIX[number % len(MIX)]
            if kind is Kind.WRITE:
                buckets = self._buckets[number % len(self._buckets)]
                first, second = self._random.choice(buckets), 0
            else:
                first, second = sorted(self._random.sample(range(1, ACCOUNTS + 1), 2))
            self._due.put((due, kind, first, second))
            due += 1 / self._rate
            self._stop.wait(max(0.0, due - time.time()))

    def _serve(self) -> None:
        client = Client(self._dsn)
        while (task := self._due.get()) is not None:
            planned, kind, first, second = task
            self._attempt(client, planned, kind, first, second)
        client.drop()

    def _attempt(self, client: Client, planned: float, kind: Kind, first: int, second: int) -> None:
        key = self._ledger.new_key()
        begun = time.time()
        client.sent = False
        error = ""
        try:
            {Kind.WRITE: _write, Kind.TRANSFER: _transfer, Kind.REFERENCE: _reference}[kind](client, key, first, second)
            outcome = Outcome.UNKNOWN if client.warned() else Outcome.OK
        except psycopg2.Error as problem:
            outcome = outcome_of(problem, client.sent)
            error = f"{problem.pgcode or ''} {' '.join(str(problem).split())}".strip()[:300]
            client.drop()
        group = self._groups[first] if kind is Kind.WRITE else -1
        self._ledger.record(Entry(kind, key, group, planned, begun, time.time(), outcome, error))
        if outcome is not Outcome.OK:
            self._stop.wait(0.1)  # an application that comes back at once, but not a thousand times a second

    def _read(self) -> None:
        client = Client(self._dsn)
        while not self._stop.wait(2):
            try:
                self.reads.append(Read(time.time(), total_of_accounts(client)))
            except psycopg2.Error:  # the next one will tell
                self.unread += 1
                client.drop()
        client.drop()


def total_of_accounts(client: Client) -> int:
    """The sum of all accounts between two transfers."""
    connection = client.connection()
    with connection, connection.cursor() as cursor:
        for statement in TOTAL:
            cursor.execute(statement)
        return int(cursor.fetchone()[0])


def _write(client: Client, key: int, bucket: int, _unused: int) -> None:
    _insert(client, "INSERT INTO chaos.writes (bucket, key) VALUES (%s, %s)", (bucket, key))


def _reference(client: Client, key: int, _first: int, _second: int) -> None:
    _insert(client, "INSERT INTO chaos.reference (key) VALUES (%s)", (key,))


def _insert(client: Client, statement: str, values: tuple[int, ...]) -> None:
    connection = client.connection()
    connection.autocommit = True
    with connection.cursor() as cursor:
        client.sent = True
        cursor.execute(statement, values)


def _transfer(client: Client, key: int, first: int, second: int) -> None:
    connection = client.connection()
    connection.autocommit = False
    # Different ones, so that two halves that were lost do not make up for each other.
    amount = 1 + key % 97
    with connection.cursor() as cursor:
        for account, change in ((first, -amount), (second, amount)):
            cursor.execute("UPDATE chaos.accounts SET balance = balance + %s WHERE account = %s", (change, account))
        cursor.execute("INSERT INTO chaos.transfers VALUES (%s, %s, %s, %s)", (first, key, second, amount))
    client.sent = True
    connection.commit()


def ask(dsn: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements one by one in autocommit; the rows of the last."""
    connection = psycopg2.connect(dsn, connect_timeout=10)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


def prepare(dsn: str) -> dict[int, int]:
    """Make the tables; the Citus group of each bucket."""
    ask(dsn, *SETUP)
    return {
        int(bucket): int(group)
        for bucket, group in ask(
            dsn,
            f"SELECT b, p.groupid FROM generate_series(0, {BUCKETS - 1}) AS b JOIN pg_dist_placement AS p"
            " ON p.shardid = get_shard_id_for_distribution_column('chaos.writes', b)",
        )
    }


def stored(dsn: str) -> dict[Kind, list[int]]:
    """The keys that are there, by kind."""
    return {kind: [int(key) for (key,) in ask(dsn, statement)] for kind, statement in STORED.items()}


def balances(dsn: str) -> dict[int, int]:
    """What each account has."""
    return {int(account): int(balance) for account, balance in ask(dsn, "SELECT account, balance FROM chaos.accounts")}


def transfers(dsn: str) -> list[Transfer]:
    """The transfers that are there."""
    rows = ask(dsn, "SELECT key, account, target, amount FROM chaos.transfers")
    return [Transfer(*(int(value) for value in row)) for row in rows]


def on_every_node(dsn: str, statement: str) -> dict[str, str]:
    """What a statement answers on the primary of every group."""
    rows = ask(
        dsn,
        "SELECT n.nodename, r.result FROM run_command_on_all_nodes($command$" + statement + "$command$) AS r"
        " JOIN pg_dist_node AS n ON n.nodeid = r.nodeid WHERE n.noderole = 'primary' AND r.success",
    )
    return {str(node): str(result) for node, result in rows}
