# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many moves run at the same time: raising the server's limits for a run, and putting them back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session, pgsql

TOTAL = "citus.max_background_task_executors"
PER_NODE = "citus.max_background_task_executors_per_node"
LIMITS = {TOTAL: 1000, PER_NODE: 128}
RECORD = "citus_ha.rebalance_settings"
"""A setting of the database that remembers what a run has raised, so that a later call can put it back."""


def observe_executors(session: Session) -> dict[str, int]:
    """Current values of the two settings."""
    rows = session.query("SELECT name, setting::int FROM pg_settings WHERE name IN (%s, %s)", (TOTAL, PER_NODE))
    return {row["name"]: row["setting"] for row in rows}


def plan_executors(current: Mapping[str, int], parallelism: int | None, nodes: int) -> dict[str, int]:
    """Settings to raise so that each of ``nodes`` takes part in ``parallelism`` moves; never lowers one.

    >>> plan_executors({TOTAL: 1, PER_NODE: 1}, 4, 3)
    {'citus.max_background_task_executors': 12, 'citus.max_background_task_executors_per_node': 4}
    >>> plan_executors({TOTAL: 20, PER_NODE: 4}, 2, 3)
    {}
    """
    if parallelism is None:
        return {}
    wanted = {TOTAL: min(parallelism * max(nodes, 1), LIMITS[TOTAL]), PER_NODE: min(parallelism, LIMITS[PER_NODE])}
    return {name: value for name, value in wanted.items() if name in current and value > current[name]}


def observe_record(session: Session) -> dict[str, str | None] | None:
    """What a run has noted: the values in postgresql.auto.conf before it, None for a setting not there."""
    text = session.value(
        "SELECT substr(entry, length(%(record)s) + 2) FROM pg_db_role_setting, unnest(setconfig) AS entry"
        " WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) AND setrole = 0"
        " AND starts_with(entry, %(record)s || '=')",
        {"record": RECORD},
    )
    return None if not text else {str(name): value for name, value in json.loads(text).items()}


def raise_executors(session: Session, values: Mapping[str, int]) -> None:
    """Raise the settings for a run, after noting what they were."""
    if not values:
        return
    if observe_record(session) is None:
        rows = session.query(
            "SELECT name, setting FROM pg_file_settings WHERE name = ANY (%s)"
            " AND sourcefile = current_setting('data_directory') || '/postgresql.auto.conf'",
            (list(values),),
        )
        before = {**dict.fromkeys(values), **{row["name"]: row["setting"] for row in rows}}
        session.execute(
            pgsql.SQL("ALTER DATABASE {} SET {} = {}").format(
                pgsql.Identifier(session.value("SELECT current_database()")),
                _setting(RECORD),
                pgsql.Literal(json.dumps(before)),
            )
        )
    for name, value in values.items():
        session.execute(pgsql.SQL("ALTER SYSTEM SET {} = {}").format(_setting(name), pgsql.Literal(value)))
    session.execute("SELECT pg_reload_conf()")


def restore_executors(session: Session) -> bool:
    """Put back what :func:`raise_executors` has noted; False when there is no note."""
    before = observe_record(session)
    if before is None:
        return False
    for name, value in before.items():
        if name not in LIMITS:
            continue
        if value is None:
            session.execute(pgsql.SQL("ALTER SYSTEM RESET {}").format(_setting(name)))
        else:
            session.execute(pgsql.SQL("ALTER SYSTEM SET {} = {}").format(_setting(name), pgsql.Literal(value)))
    session.execute("SELECT pg_reload_conf()")
    session.execute(
        pgsql.SQL("ALTER DATABASE {} RESET {}").format(
            pgsql.Identifier(session.value("SELECT current_database()")), _setting(RECORD)
        )
    )
    return True


def _setting(name: str) -> Any:
    """A setting's name as SQL: two identifiers and a dot."""
    return pgsql.SQL(".").join(pgsql.Identifier(part) for part in name.split("."))
