# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run at a time: an advisory lock held by the session that changes the cluster's metadata.

Two runs that plan from the same state and then both act would do work twice or undo each other.
PostgreSQL drops the lock by itself when the session ends, however it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import ConnectionFailed, TimedOut
from ansible_collections.citus_ha.cluster.plugins.module_utils._wait import wait_for

#: First half of every key of this collection ("citu" as a number); the second half says which kind of work.
LOCK_CLASS = 0x63697475

#: Kinds of work: what changes nodes and what changes tables may not overlap, so both use one key.
CLUSTER_METADATA = 1

_TRY = """
SELECT pg_try_advisory_lock(%(class)s, %(work)s) AS held,
       (SELECT format('process %%s of role %%s, application "%%s", from %%s, since %%s',
                      a.pid, a.usename, a.application_name, coalesce(host(a.client_addr), 'the Unix socket'),
                      to_char(coalesce(a.state_change, a.backend_start), 'YYYY-MM-DD HH24:MI:SS TZ'))
          FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
         WHERE l.locktype = 'advisory' AND l.granted AND l.pid <> pg_backend_pid()
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND l.classid = %(class)s AND l.objid = %(work)s AND l.objsubid = 2
         LIMIT 1) AS holder
"""


@contextmanager
def exclusive(
    session: Session,
    wait_seconds: float,
    work: int = CLUSTER_METADATA,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Hold the lock while the block runs; wait up to ``wait_seconds`` for another run to finish.

    The lock belongs to the database that ``session`` is in: do not put a pooler in transaction
    mode between the module and the server.

    :raises TimedOut: the message names the process that holds the lock.
    """
    values = {"class": LOCK_CLASS, "work": work}

    def look() -> dict[str, Any]:
        return session.query(_TRY, values)[0]

    def missing(seen: dict[str, Any]) -> list[str]:
        return [] if seen["held"] else [f"the lock is held by {seen['holder'] or 'a session that has just ended'}"]

    wait_for(
        look,
        missing,
        wait_seconds,
        f"Waiting on {session.where} for another run of this collection to finish",
        "Run the task again when it has finished, or give it longer with wait_for_other_run.",
        clock=clock,
        sleep=sleep,
    )
    try:
        yield
    finally:
        with suppress(ConnectionFailed):  # the lock has ended with the session
            session.value("SELECT pg_advisory_unlock(%(class)s, %(work)s)", values)


__all__ = ["CLUSTER_METADATA", "LOCK_CLASS", "TimedOut", "exclusive"]
