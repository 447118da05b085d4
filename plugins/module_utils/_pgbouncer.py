# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PgBouncer on this node: its admin console, and holding its clients for a moment.

Whoever runs as PgBouncer's own user may use the console over the Unix socket as C(pgbouncer), without a password
(https://www.pgbouncer.org/usage.html#admin-console).
"""

from __future__ import annotations

import os
import select
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils import _connection
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    ConnectionFailed,
    Refused,
    ServerError,
    TimedOut,
)

# The request for TLS with which a PostgreSQL session begins.
# https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-SSLREQUEST
SSL_REQUEST = struct.pack("!ii", 8, 80877103)


# How often the guard tries to put PgBouncer right, each time with five seconds to connect and half a second after it.
GUARD_ATTEMPTS = 600
# Seconds that the module waits for a guard which has to do so, before it leaves that to the guard alone.
GUARD_PATIENCE = 10


class Console:
    """PgBouncer's admin console."""

    def __init__(self, socket_dir: str, port: int) -> None:
        self._address = {"host": socket_dir, "port": port}

    def paused_databases(self) -> list[str]:
        """Whose clients wait because somebody said PAUSE: names, or C(all databases)."""
        names = ["all databases"] if self._values("SHOW STATE")["paused"] == "yes" else []
        return names + [database["name"] for database in self._run("SHOW DATABASES") if int(database["paused"])]

    def known(self, databases: Sequence[str]) -> list[str]:
        """Those of ``databases`` that this PgBouncer has. One that the inventory has just got comes later."""
        there = {database["name"] for database in self._run("SHOW DATABASES")}
        return [database for database in databases if database in there]

    @property
    def where(self) -> str:
        """For messages."""
        return f"PgBouncer at {self._address['host']}, port {self._address['port']}"

    def reload(self) -> None:
        """Read the configuration and the list of users again."""
        self._run("RELOAD")

    def reconnect(self, databases: Sequence[str]) -> None:
        """Replace the sessions with the servers of these databases, each as soon as no client uses it."""
        for command in _commands("RECONNECT", databases):
            self._run(command)

    def outdated_sessions(self, databases: Sequence[str]) -> list[str]:
        """Those of before :meth:`reconnect` that a client still uses, for a message."""
        return [
            f"a session of {session['user']} with {session['database']}, in use since {session['request_time']}"
            for session in self._run("SHOW SERVERS")
            if session["database"] in databases and int(session["close_needed"])
        ]

    def resume(self, databases: Sequence[str] = ()) -> None:
        """Let clients of these databases, or of all, go on; nothing happens when they do already."""
        for command, database in zip(_commands("RESUME", databases), databases or ("all databases",)):
            try:
                self._run(command)
            except ServerError:
                if database in self.paused_databases():
                    raise

    def log_in_again(self, patience: float = 1.0) -> None:
        """Have every pool that has clients open one more session with its server.

        PgBouncer remembers that a pool's last login failed until another one succeeds, which may be never: in an outage
        it opens more sessions than are needed afterwards. While a pool has no session at all, as after PAUSE, it then
        refuses whoever comes (``server login has been failing``), although his is the login that would succeed.

        What has not succeeded within ``patience`` seconds is left: a pool that is full, a server that takes no logins.
        """
        before = self._sessions()
        if not before:
            return
        usual = self._values("SHOW CONFIG")["min_pool_size"]
        deadline = time.monotonic() + patience

        def restore() -> None:
            self._run(f"SET min_pool_size = {usual}")

        with _guard(restore, patience + GUARD_PATIENCE) as dismiss:
            try:
                self._run(f"SET min_pool_size = {max(before.values()) + 1}")
                while any(self._sessions().get(pool, 0) <= count for pool, count in before.items()):
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.05)
            finally:
                restore()
                dismiss()

    def _sessions(self) -> dict[tuple[str, str], int]:
        """How many sessions with its server every pool with clients has, by database and user."""
        counted = {}
        for pool in self._run("SHOW POOLS"):
            if pool["database"] != "pgbouncer" and pool["cl_active"] + pool["cl_waiting"] > 0:
                open_ones = ("sv_active", "sv_idle", "sv_used", "sv_tested")
                counted[pool["database"], pool["user"]] = sum(pool[state] for state in open_ones)
        return counted

    def refuse_if_paused(self, but: Sequence[str] = ()) -> None:
        """Two that hold clients would let them go while the other still needs them.

        :param but: databases that are paused by the one who asks.
        :raises Refused: it is paused.
        """
        if paused := [name for name in self.paused_databases() if name not in but]:
            raise Refused(
                f"PgBouncer is paused already ({', '.join(paused)}): other planned work runs, or somebody said PAUSE. "
                "Nothing was changed.",
                "Wait for it, or say RESUME on its admin console.",
            )

    @contextmanager
    def paused(
        self, drain_timeout: float, limit: float, databases: Sequence[str] = (), but: Sequence[str] = ()
    ) -> Iterator[None]:
        """PAUSE while the block runs. Clients are waiting from here on, and go on at its end, whatever happens.

        Those of ``databases`` only, when any is named; those of ``but`` are waiting already.

        A process of its own on this node says RESUME as soon as this one has died, and after ``limit`` seconds at the
        latest: nothing has to come from the controller.

        :raises TimedOut: transactions were still open after ``drain_timeout`` seconds.
        """
        self.refuse_if_paused(but)
        with _guard(lambda: self.resume(databases), limit) as dismiss:
            try:
                self._pause(drain_timeout, databases)
                yield
            finally:
                self.resume(databases)
                dismiss()

    def _pause(self, timeout: float, databases: Sequence[str]) -> None:
        """PAUSE answers when the last transaction has ended, which may be never."""
        failures: list[BaseException] = []

        def work(command: str) -> None:
            try:
                self._run(command)
            except (ServerError, ConnectionFailed) as error:
                failures.append(error)

        deadline = time.monotonic() + timeout
        waiting = [
            threading.Thread(target=work, args=(command,), daemon=True) for command in _commands("PAUSE", databases)
        ]
        for thread in waiting:
            thread.start()
        for thread in waiting:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in waiting):
            raise TimedOut(
                f"PgBouncer still had transactions open after {timeout:g} seconds, and goes on as before.",
                "Look for them in pg_stat_activity on the server, or allow more time with drain_timeout. In session "
                "pooling a client keeps its session until it leaves.",
            )
        if failures:
            raise failures[0]

    def _values(self, command: str) -> dict[str, Any]:
        return {row["key"]: row["value"] for row in self._run(command)}

    def _run(self, command: str) -> list[dict[str, Any]]:
        psycopg2 = _connection.psycopg2
        where = f"PgBouncer's admin console at {self._address['host']}, port {self._address['port']}"
        try:
            connection = psycopg2.connect(user="pgbouncer", dbname="pgbouncer", connect_timeout=5, **self._address)
        except psycopg2.Error as error:
            raise ConnectionFailed(
                f"Could not reach {where}: {' '.join(str(error).split())}.", "Run as the user that PgBouncer runs as."
            ) from error
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(command)
                names = [column.name for column in cursor.description or ()]
                return [dict(zip(names, row)) for row in cursor.fetchall()] if names else []
        except psycopg2.Error as error:
            raise ServerError(f"{where} rejected {command}: {' '.join(str(error).split())}.") from error
        finally:
            connection.close()


def _commands(verb: str, databases: Sequence[str]) -> list[str]:
    """One for each database; none named: one for all."""
    return [f'{verb} "{database}"' for database in databases] or [verb]


@contextmanager
def _guard(undo: Callable[[], None], limit: float) -> Iterator[Callable[[], None]]:
    """A child that calls ``undo`` when its parent ends the block, or dies, or ``limit`` seconds are over.

    It does not when the parent has dismissed it, by the function that the block is given.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(theirs)
        _watch(ours, undo, limit)
    os.close(ours)
    # The connection to the controller may break: what was begun is ended all the same.
    ignored = (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE)
    previous: dict[Any, Any] = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, _leave)
    try:
        yield lambda: _dismiss(theirs)
    finally:
        os.close(theirs)
        # It goes on by itself while PgBouncer does not listen.
        deadline = time.monotonic() + GUARD_PATIENCE
        while os.waitpid(child, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.01)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave(_number: int, _frame: Any) -> None:
    raise SystemExit("ended by SIGTERM")


def _dismiss(pipe: int) -> None:
    with suppress(OSError):
        os.write(pipe, b"done")


def _watch(pipe: int, undo: Callable[[], None], limit: float) -> None:
    """The life of the guard: it ends with the process, whatever happens."""
    try:
        os.setsid()
        # The controller waits until everybody has closed these.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        readable, _writable, _failed = select.select([pipe], [], [], limit)
        if not readable or os.read(pipe, 4) != b"done":
            _insist(undo)
    finally:
        os._exit(0)


def _insist(undo: Callable[[], None]) -> None:
    """Again and again while PgBouncer stands still, for it would stay paused when it goes on."""
    for _attempt in range(GUARD_ATTEMPTS):
        try:
            undo()
        except Exception:  # whatever it was: clients wait
            time.sleep(0.5)
        else:
            return


def login(role: str, password: str, timeout: int = 2, **where: Any) -> str | None:
    """What was wrong with a login, in one line; None when the password was taken.

    Whether the role may then use the database is another question: PgBouncer that is paused says nothing, and a server
    may refuse the database.
    """
    psycopg2 = _connection.psycopg2
    try:
        psycopg2.connect(user=role, password=password, connect_timeout=timeout, **where).close()
    except psycopg2.Error as error:
        said = " ".join(str(error).split())
        # Both come after the password.
        if "permission denied for database" in said or "is not permitted to log in" in said:
            return None
        return said
    return None


def where_it_leads(host: str, port: int, ca_cert: str, timeout: float = 2.0) -> str | None:
    """Name of the server that a connection to ``port`` reaches now, by its certificate; None when it reaches none."""
    context = ssl.create_default_context(cafile=ca_cert)
    try:
        with socket.create_connection((host, port), timeout=timeout) as plain:
            plain.sendall(SSL_REQUEST)
            if plain.recv(1) != b"S":
                return None
            with context.wrap_socket(plain, server_hostname=host) as secure:
                subject: Any = (secure.getpeercert() or {}).get("subject", ())
    except OSError:
        return None
    return next((value for parts in subject for key, value in parts if key == "commonName"), None)


def leads_steadily(host: str, port: int, ca_cert: str, timeout: float, probes: int = 4) -> frozenset[str]:
    """The servers that several connections in a row reach; empty as soon as one of them reaches none."""
    seen = set()
    for _probe in range(probes):
        server = where_it_leads(host, port, ca_cert, timeout)
        if server is None:
            return frozenset()
        seen.add(server)
    return frozenset(seen)
