# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server's half of planned work: it begins when the poolers have let go of their sessions there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.citus_ha.cluster.plugins.module_utils import _connection, _lock
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import ConnectionFailed, Refused
from ansible_collections.citus_ha.cluster.plugins.module_utils._wait import wait_for

#: Second half of the key of the advisory lock that planned work holds on the server that its clients enter through.
LOCK_PLANNED_WORK = 2

# Seconds that a standby has to answer while clients wait.
STANDBY_SECONDS = 2

# Sessions that come from outside: those of the poolers (their certificate names them), and whoever else has a
# transaction open and is not Citus itself, which names its sessions so.
_SESSIONS = """
SELECT a.pid, a.usename, a.application_name, host(a.client_addr) AS client,
       coalesce(substring(s.client_dn FROM 'CN=([^/,]+)') = ANY (%(poolers)s), false) AS pooled,
       round(extract(epoch FROM now() - a.xact_start))::int AS seconds
  FROM pg_stat_activity AS a LEFT JOIN pg_stat_ssl AS s USING (pid)
 WHERE a.backend_type = 'client backend' AND a.client_addr IS NOT NULL AND a.pid <> pg_backend_pid()
   AND (coalesce(substring(s.client_dn FROM 'CN=([^/,]+)') = ANY (%(poolers)s), false)
        OR (a.xact_start IS NOT NULL AND a.application_name !~ '^citus_(internal|rebalancer|run_command) gpid='))
"""


class Entrance:
    """The server that clients enter through, over its Unix socket: the coordinator's leader; for readers a standby."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        """``params``: those of the doc fragments ``citus_ha.cluster.held`` and ``citus_ha.cluster.patroni``."""
        spec = _connection.connection_argument_spec()
        self._defaults = {name: option.get("default") for name, option in spec.items()}
        self._params = params
        self._session = self._connect(login_host=params["socket_dir"], login_port=params["socket_port"])

    def _connect(self, **options: Any) -> _connection.Session:
        return _connection.connect({**self._defaults, **options})

    def refuse_standby(self) -> None:
        """Whoever writes enters through the leader."""
        if self._session.value("SELECT pg_is_in_recovery()"):
            raise Refused(
                f"{self._session.where} is a standby, not the leader. Nothing was changed.",
                "Run this on the node of the coordinator's leader.",
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock that keeps other planned work away. The server's end releases it, too."""
        with ExitStack() as held:
            try:
                held.enter_context(_lock.exclusive(self._session, 0, LOCK_PLANNED_WORK))
            except _lock.TimedOut as error:
                raise Refused(
                    f"Another switchover or restart is running: {error.message} Nothing was changed.", "Wait for it."
                ) from error
            # Outside: what the block waits for in vain is no other work.
            yield

    def wait_for_silence(self) -> None:
        """Return when the poolers have let go of every session and nobody else from outside has a transaction open.

        Here, and on the standbys.

        :raises TimedOut: with whoever still has.
        """
        with ExitStack() as open_ones:
            sessions = [self._session]
            for url in self._params["standbys"]:
                with suppress(ConnectionFailed):  # it serves nobody
                    session = self._standby(url)
                    open_ones.callback(session.close)
                    sessions.append(session)
            wait_for(
                lambda: [row for session in sessions for row in self._sessions_of(session)],
                lambda seen: [_session_text(row) for row in seen],
                # Poolers hold readers first, then everybody else.
                self._params["drain_timeout"] * (2 if self._params["standbys"] else 1),
                "Waiting for the clients' open transactions",
                "Nothing was changed and clients go on as before. End these, or allow more time with drain_timeout.",
                interval=0.03,
                longest_interval=0.03,
            )

    def _standby(self, url: str) -> _connection.Session:
        parts = urlsplit(url)
        return self._connect(
            login_host=parts.hostname,
            login_port=parts.port,
            ssl_mode=self._params["ssl_mode"],
            ca_cert=self._params["ca_cert"],
            ssl_cert=self._params["client_cert"],
            ssl_key=self._params["client_key"],
            connect_timeout=STANDBY_SECONDS,
        )

    def _sessions_of(self, session: _connection.Session) -> list[dict[str, Any]]:
        try:
            return session.query(_SESSIONS, {"poolers": self._params["poolers"]})
        except ConnectionFailed:
            if session is self._session:
                raise
            return []


def _session_text(row: Mapping[str, Any]) -> str:
    whose = f"process {row['pid']} of {row['usename']} from {row['client']}"
    if row["pooled"]:
        return f"{whose} (through a pooler that is not paused yet)"
    return f"{whose} ({row['application_name'] or 'no application_name'}), open for {row['seconds']} seconds"
