# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules must know of a server before they ask Citus anything: versions, place, rights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput, Refused
from ansible_collections.citus_ha.cluster.plugins.module_utils._versions import Version, parse_version, require

COORDINATOR_GROUP = 0


@dataclass(frozen=True)
class Server:
    """One server as its catalogs describe it."""

    where: str
    database: str
    postgresql_version: str
    postgresql_number: int
    citus_version: str
    interface: Version
    is_standin: bool
    in_recovery: bool
    upstream: str
    is_superuser: bool
    user: str
    group: int | None
    coordinator: str


def library_version(citus_version: str, extversion: str) -> str:
    """The dotted number in ``citus_version()``; that of the extension when there is none.

    >>> library_version("Citus 14.0.1 on x86_64-pc-linux-gnu, compiled by gcc", "14.0-1")
    '14.0.1'
    >>> library_version("stand-in", "14.0-1")
    '14.0-1'
    """
    found = re.search(r"\d+\.\d+(?:\.\d+)?", citus_version)
    return found.group(0) if found else extversion


def observe_server(session: Session) -> Server:
    """Look at the server behind ``session``: one query, a second one when it has Citus."""
    base = session.query(
        "SELECT current_database() AS database, current_setting('server_version') AS postgresql_version,"
        " pg_is_in_recovery() AS in_recovery, current_user AS user,"
        " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,"
        " coalesce((SELECT sender_host || ':' || sender_port FROM pg_stat_wal_receiver), '') AS upstream,"
        " coalesce((SELECT extversion FROM pg_extension WHERE extname = 'citus'), '') AS extversion"
    )[0]
    citus: dict[str, Any] = {"version": "", "group": None, "coordinator": ""}
    if base["extversion"]:
        citus = session.query(
            'SELECT citus_version() AS version, (SELECT groupid FROM pg_dist_local_group LIMIT 1) AS "group",'
            " coalesce((SELECT nodename || ':' || nodeport FROM pg_dist_node"
            " WHERE groupid = 0 AND noderole = 'primary' LIMIT 1), '') AS coordinator"
        )[0]
    return Server(
        where=session.where,
        database=base["database"],
        postgresql_version=base["postgresql_version"].split()[0],
        postgresql_number=session.server_version,
        citus_version=library_version(citus["version"], base["extversion"]) if base["extversion"] else "",
        interface=parse_version(base["extversion"]),
        is_standin="stand-in" in citus["version"].lower(),
        in_recovery=base["in_recovery"],
        upstream=base["upstream"],
        is_superuser=base["is_superuser"],
        user=base["user"],
        group=citus["group"],
        coordinator=citus["coordinator"],
    )


def require_citus(server: Server) -> None:
    """Refuse a database without the extension.

    :raises InvalidInput: naming the database and the way out.
    """
    if not server.citus_version:
        raise InvalidInput(
            f"Database {server.database} on {server.where} does not have the citus extension.",
            "Set login_db to the database that has it, or run CREATE EXTENSION citus there first.",
        )


def require_coordinator(server: Server) -> None:
    """Refuse every server but the coordinator's primary, and say where that is.

    :raises InvalidInput: naming what this server is and where to run the task instead.
    """
    require_citus(server)
    if server.group != COORDINATOR_GROUP:
        raise InvalidInput(
            f"{server.where} is a worker (Citus group {server.group}); only the coordinator can answer this.",
            f"Run the task against the coordinator, which this worker knows as {server.coordinator}."
            if server.coordinator
            else "Run the task against the coordinator (Citus group 0).",
        )
    if server.in_recovery:
        raise InvalidInput(
            f"{server.where} is a standby of the coordinator (it is in recovery) and cannot be written to.",
            f"Run the task against the primary, which streams to it from {server.upstream}."
            if server.upstream
            else "Run the task against the coordinator's primary.",
        )


def require_superuser(server: Server, what: str) -> None:
    """Refuse a role that Citus would turn away halfway.

    :raises Refused: naming the role, ``what`` it may not do, and the way out.
    """
    if not server.is_superuser:
        raise Refused(
            f"Role {server.user} on {server.where} is not a superuser and may not {what}.",
            "Set login_user to a superuser, such as postgres over the Unix socket.",
        )


def require_versions(server: Server, module: str, options: Iterable[str]) -> None:
    """Refuse options that the server is too old for.

    :raises InvalidInput: every such option, with both versions.
    """
    require(module, options, server.interface, server.postgresql_number)
