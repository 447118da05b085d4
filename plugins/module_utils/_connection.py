# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions with PostgreSQL: the shared connection options and a thin typed client over psycopg2."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    ConnectionFailed,
    InvalidInput,
    ServerError,
)

try:
    import psycopg2
    import psycopg2.extensions
    import psycopg2.extras
    from psycopg2 import sql as pgsql

    PSYCOPG2_IMPORT_ERROR = None
except ImportError:  # reported by the runner, with the name of the package to install
    psycopg2 = None
    pgsql = None
    PSYCOPG2_IMPORT_ERROR = traceback.format_exc()


def connection_argument_spec() -> dict[str, dict[str, Any]]:
    """Argument spec of the options documented in the doc fragment ``citus_ha.cluster.connection``."""
    return {
        "login_host": {"type": "str", "default": "/var/run/postgresql"},
        "login_port": {"type": "int", "default": 5432},
        "login_user": {"type": "str", "default": "postgres"},
        "login_password": {"type": "str", "no_log": True},
        "login_db": {"type": "str", "default": "postgres"},
        "ssl_mode": {
            "type": "str",
            "default": "prefer",
            "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
        },
        "ca_cert": {"type": "path"},
        "ssl_cert": {"type": "path"},
        "ssl_key": {"type": "path"},
        "connect_params": {"type": "dict", "default": {}},
        "connect_timeout": {"type": "int", "default": 10},
        "lock_timeout": {"type": "int", "default": 0},
        "statement_timeout": {"type": "int", "default": 0},
    }


class Session:
    """One autocommit session; :meth:`transaction` groups statements.

    Every statement that :meth:`execute` runs is kept in :attr:`executed` as text without bound
    values (they may be secrets).

    :raises ServerError: a statement failed; ``details`` holds ``sqlstate`` and ``query``.
    :raises ConnectionFailed: the session broke while a statement ran.
    """

    def __init__(self, connection: Any, where: str) -> None:
        self._connection = connection
        self.where = where
        self.executed: list[str] = []
        #: Statements sent so far, reading ones included: what the tests of scale count.
        self.round_trips = 0

    @property
    def server_version(self) -> int:
        """PostgreSQL's version as one number, such as 170011 for 17.11."""
        return int(self._connection.server_version)

    @property
    def closed(self) -> bool:
        """True once the session has ended or broken."""
        return bool(self._connection.closed)

    @property
    def notices(self) -> list[str]:
        """Messages the server sent so far."""
        return list(self._connection.notices)

    def query(self, statement: Any, values: Sequence[Any] | Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows of a reading statement as dicts; not recorded in :attr:`executed`."""
        return self._run(statement, values, fetch=True)

    def value(self, statement: Any, values: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """First column of the first row, or None when there is no row."""
        rows = self.query(statement, values)
        return next(iter(rows[0].values())) if rows else None

    def execute(self, statement: Any, values: Sequence[Any] | Mapping[str, Any] | None = None) -> None:
        """Run a statement that changes something, and record it."""
        self.executed.append(self._text(statement))
        self._run(statement, values, fetch=False)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside take effect together, or none does."""
        self._run("BEGIN", None, fetch=False)
        try:
            yield
        except BaseException:
            if not self._connection.closed:
                self._run("ROLLBACK", None, fetch=False)
            raise
        self._run("COMMIT", None, fetch=False)

    def close(self) -> None:
        """End the session; safe to call twice."""
        self._connection.close()

    def _text(self, statement: Any) -> str:
        return str(statement.as_string(self._connection) if isinstance(statement, pgsql.Composable) else statement)

    def _run(self, statement: Any, values: Any, fetch: bool) -> list[dict[str, Any]]:
        self.round_trips += 1
        try:
            with self._connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
                cursor.execute(statement, values)
                return [dict(row) for row in cursor.fetchall()] if fetch else []
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            if self._connection.closed:
                raise ConnectionFailed(
                    f"The connection to {self.where} broke during: {self._text(statement)}."
                    f" The server said: {_said(error)}",
                    "Run the task again: it looks at what is already done and does the rest.",
                ) from error
            raise self._server_error(error, statement) from error
        except psycopg2.Error as error:
            raise self._server_error(error, statement) from error
        except ValueError as error:
            # A zero byte, or half of a surrogate pair: psycopg2 sends no such text.
            raise InvalidInput(
                f"A value of this task cannot be sent to {self.where}: {error}.",
                "Look for characters that are no text, such as a zero byte.",
            ) from error

    def _server_error(self, error: Any, statement: Any) -> ServerError:
        text = self._text(statement)
        return ServerError(
            f"{self.where} rejected: {text}. The server said: {_said(error)}",
            sqlstate=getattr(error, "pgcode", None),
            query=text,
            server_message=_said(error),
        )


def _said(error: Any) -> str:
    """The server's words on one line, with its DETAIL and HINT."""
    diag = getattr(error, "diag", None)
    parts = [getattr(diag, field, None) for field in ("message_primary", "message_detail", "message_hint")]
    text = " ".join(part for part in parts if part) or str(error)
    return " ".join(text.split())


def connect(params: Mapping[str, Any]) -> Session:
    """Open a session from a module's parameters (see :func:`connection_argument_spec`).

    Units: ``connect_timeout`` seconds; ``lock_timeout`` and ``statement_timeout`` milliseconds, 0 for no limit.

    :raises InvalidInput: options that are none.
    :raises ConnectionFailed: with host, port, user and database, and what the server said.
    """
    where = f"{params['login_host']}:{params['login_port']}/{params['login_db']} as {params['login_user']}"
    options = {
        "host": params["login_host"],
        "port": params["login_port"],
        "user": params["login_user"],
        "password": params["login_password"],
        "dbname": params["login_db"],
        "sslmode": params["ssl_mode"],
        "sslrootcert": params["ca_cert"],
        "sslcert": params["ssl_cert"],
        "sslkey": params["ssl_key"],
        "connect_timeout": params["connect_timeout"],
        "client_encoding": "utf8",
    }
    arguments = {
        "application_name": "citus_ha",
        **params["connect_params"],
        **{key: value for key, value in options.items() if value is not None},
    }
    try:
        # Through a connection string: there, connect_params cannot reach psycopg2's own arguments.
        dsn = psycopg2.extensions.make_dsn(**arguments)
    except (psycopg2.Error, TypeError, ValueError) as error:
        raise InvalidInput(
            f"The connection options are not valid: {_said(error)}",
            "Check login_host, login_user, login_db and connect_params, which takes libpq's connection parameters.",
        ) from error
    try:
        connection = psycopg2.connect(dsn)
    except (psycopg2.Error, ValueError) as error:
        raise ConnectionFailed(
            f"Could not connect to {where}: {_said(error)}",
            "Check login_host, login_port, login_user and the TLS options, and that the server accepts connections.",
        ) from error
    connection.autocommit = True
    session = Session(connection, where)
    # Catalog queries look expensive to the planner and are not: compiling them takes longer than running them.
    session.query(
        "SELECT set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false),"
        " set_config('jit', 'off', false)",
        (str(params["lock_timeout"]), str(params["statement_timeout"])),
    )
    return session
