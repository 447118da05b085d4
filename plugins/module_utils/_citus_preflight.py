# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the way of a plan: the checks that Citus makes while it distributes, made before.

Those of keys are in ``_citus_preflight_keys``, those of tables that belong together in ``_citus_preflight_colocation``.
Every function is pure. What they say is compared with Citus's own verdict in tests/integration.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_details import (
    Column,
    Details,
    Extra,
    ForeignKey,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_measure import Measure
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_server import Server
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_tables import Table
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_distribute import (
    Action,
    Desired,
    Finding,
    State,
    Statement,
    differences,
    format_bytes,
    step,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_preflight_colocation import (
    Final,
    drop_foreign_key,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._names import display


def relation_problems(desired: Desired, table: Table, extra: Extra, server: Server) -> list[Finding]:
    """What no option mends: the wrong kind of relation, the wrong owner."""
    found = []
    name = str(table)
    kinds = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index"}
    if table.relkind not in ("r", "p"):
        found.append(
            Finding(
                name, f"it is {kinds.get(table.relkind, 'no table')}; only tables are distributed.", "Leave it out."
            )
        )
        return found
    if not table.owned:
        found.append(
            Finding(
                name,
                f"it belongs to {display(table.owner)}, and Citus lets only the owner change how it is distributed.",
                f"Log in as {display(table.owner)}, a member of that role, or a superuser (login_user).",
            )
        )
    if desired.state != "undistributed":
        if table.persistence == "t":
            found.append(Finding(name, "it is a temporary table.", "Create it without TEMPORARY."))
        if table.schema in ("pg_catalog", "information_schema"):
            found.append(Finding(name, "it is a system catalog.", "Leave it out."))
        if extra.parent:
            found.append(
                Finding(
                    name, f"it is a partition of {extra.parent}.", f"Name {extra.parent}; its partitions follow it."
                )
            )
        if extra.multi_level:
            found.append(
                Finding(name, "its partitions are partitioned again, which Citus does not support.", "Use one level.")
            )
        if extra.inherits:
            found.append(
                Finding(name, "it is part of an inheritance tree, which Citus does not support.", "Use partitions.")
            )
        if table.relkind == "p" and desired.state == "reference":
            found.append(
                Finding(name, "it is partitioned; a reference table cannot be.", "Use state: distributed or local.")
            )
        if (
            extra.triggers
            and desired.state != "local"
            and server.setting("citus.enable_unsafe_triggers", "off") != "on"
        ):
            found.append(
                Finding(
                    name,
                    f"it has triggers ({', '.join(map(display, extra.triggers))}), which Citus does not run on shards.",
                    "Drop them, or set citus.enable_unsafe_triggers once you know that they work per shard:",
                    tuple(
                        str(
                            Statement(
                                "DROP TRIGGER {trigger} ON {table}",
                                {"trigger": (t,), "table": (table.schema, table.table)},
                            )
                        )
                        for t in extra.triggers
                    ),
                )
            )
    elif extra.parent:
        found.append(
            Finding(name, f"it is a partition of {extra.parent}.", f"Name {extra.parent}; its partitions follow it.")
        )
    return found


def measures(desired: Iterable[Desired], state: State) -> list[Measure]:
    """What has to be read from the rows themselves: cost, NULLs and skew of what is to change."""
    wanted = []
    for entry in desired:
        change = step(entry, state) if entry.kind == "table" else None
        if change is None:
            continue
        table = state.tables[entry.name]
        if not table.owned or table.relkind not in ("r", "p"):
            continue
        matters = entry.state == "distributed" and (change != "alter" or "column" in differences(entry, table, state))
        columns = state.details.columns.get(table.oid, ())
        column = next((item for item in columns if item.name == entry.column), None)
        wanted.append(Measure(table, column if matters else None))
    return wanted


def column_problems(desired: Desired, table: Table, details: Details) -> tuple[Column | None, list[Finding]]:
    """The distribution column, and what makes it unfit."""
    columns = details.columns.get(table.oid, ())
    column = next((item for item in columns if item.name == desired.column), None)
    name = str(table)
    if column is None:
        near = [item.name for item in columns if item.name.lower() == (desired.column or "").strip('"').lower()]
        listed = ", ".join(item.name for item in columns[:20])
        return None, [
            Finding(
                name,
                f"it has no column {desired.column!r}.",
                f"Write it as the catalogs have it, without quotes: {near[0]!r}."
                if near
                else f"Its columns: {listed}.",
            )
        ]
    found = []
    shown = display(column.name)
    if column.generated:
        found.append(Finding(name, f"the distribution column {shown} is generated.", "Distribute by a stored column."))
    if not column.hashable:
        found.append(
            Finding(
                name,
                f"the distribution column {shown} is of type {column.type}, which has no hash.",
                "Distribute by a column of a type that has one (integers, text, uuid, timestamps ...).",
            )
        )
    if not column.deterministic:
        found.append(
            Finding(
                name,
                f"the distribution column {shown} has a non-deterministic collation.",
                "Use a column with a deterministic collation.",
            )
        )
    if column.negative_scale:
        found.append(
            Finding(
                name,
                f"the distribution column {shown} is {column.type}: a numeric with negative scale.",
                "Use a numeric with a scale of 0 or more, or an integer.",
            )
        )
    if table.oid in details.nulls:
        found.append(
            Finding(
                name,
                f"the distribution column {shown} holds NULLs, and a row without a value has no shard.",
                "Give those rows a value or delete them; SET NOT NULL then keeps it so.",
            )
        )
    return column, found


def skew(column: Column, table: str, shards: int, rows: int | None, sampled: int | None = None) -> str | None:
    """A warning about a column that spreads its rows badly; None when it is fine or unknown.

    ``sampled`` is the number of different values among the first rows of a table without statistics.
    """
    if column.n_distinct is None:
        if sampled is None:
            return None
        distinct = float(sampled)
    else:
        distinct = column.n_distinct if column.n_distinct >= 0 else -column.n_distinct * (rows or 0)
    # A few rows prove nothing: the table has only begun to fill.
    if rows is not None and rows < 10 * shards:
        return None
    shown = display(column.name)
    if 0 < distinct < shards:
        return (
            f"{table}: the distribution column {shown} has about {distinct:.0f} different values for {shards} shards:"
            f" at least {shards - int(distinct)} shards stay empty, and each value's rows are all on one node."
        )
    if column.top_fraction is not None and column.top_fraction >= 0.25:
        return (
            f"{table}: one value of the distribution column {shown} has {column.top_fraction:.0%} of the rows;"
            " they are all on one node."
        )
    return None


def concurrency_problems(
    entry: Desired, table: Table, extra: Extra, keys: Sequence[ForeignKey], final: Final, server: Server
) -> list[Finding]:
    """What ``create_distributed_table_concurrently`` does not do."""
    found = []
    name = str(table)
    if not extra.replica_identity and not entry.force:
        found.append(
            Finding(
                name,
                "it has no primary key and no REPLICA IDENTITY: while it is distributed concurrently, every UPDATE and"
                " DELETE on it would fail.",
                "Add a primary key, set force: true if it is only inserted into, or run:",
                (str(Statement("ALTER TABLE {table} REPLICA IDENTITY FULL", {"table": (table.schema, table.table)})),),
            )
        )
    if server.setting("wal_level", "logical") != "logical":
        found.append(
            Finding(
                name,
                f"concurrently needs wal_level logical; it is {server.setting('wal_level', '?')}.",
                "Set wal_level = logical on every node and restart, or leave concurrently out.",
            )
        )
    plugins = server.settings.get("output_plugin_libraries")
    if plugins is not None and "citus" not in [item.strip(' "') for item in plugins.split(",")]:
        found.append(
            Finding(
                name,
                f"concurrently decodes changes with Citus's output plugin, and PostgreSQL allows only: {plugins}.",
                "Add citus to output_plugin_libraries on every node and reload, or leave concurrently out:",
                (f"ALTER SYSTEM SET output_plugin_libraries = {plugins}, citus;",),
            )
        )
    if server.setting("citus.shard_replication_factor", "1") != "1":
        found.append(Finding(name, "concurrently needs citus.shard_replication_factor 1.", "Leave concurrently out."))
    others = [key for key in keys if key.source.oid != key.target.oid]
    in_the_way = [key for key in others if key.target.oid == table.oid or final.state(key.target) != "reference"]
    if in_the_way:
        found.append(
            Finding(
                name,
                "concurrently works only without foreign keys from or to other than reference tables:"
                f" {', '.join(f'{key.source}: {display(key.name)}' for key in in_the_way)}.",
                "Leave concurrently out for this table, or drop the foreign keys and add them again afterwards:",
                tuple(str(drop_foreign_key(key)) for key in in_the_way),
            )
        )
    return found


def missing_problem(entry: Desired, state: State) -> Finding | None:
    if entry.kind == "schema":
        if entry.name.table in state.schemas:
            return None
        return Finding(display(entry.name.table), "there is no such schema.", "Create it first, or correct the name.")
    if entry.name in state.tables:
        return None
    where = "" if entry.name.schema else " in the search path"
    return Finding(
        str(entry.name),
        f"there is no such table{where}.",
        'Create it first, or correct the name: upper case and other characters need double quotes ("Name"), and a table'
        " outside the search path its schema.",
    )


def space_problems(back: Sequence[Action], state: State) -> list[Finding]:
    """Whether what comes ``back`` to the coordinator fits there: the rows, and as much again for their WAL."""
    needed = 2 * sum(action.bytes for action in back)
    if not needed:
        return []
    listed = ", ".join(action.object for action in back[:20])
    free = state.details.free_bytes
    if free is None:
        return [
            Finding(
                listed,
                f"the rows come back to the coordinator and need about {format_bytes(needed)} there (half of it WAL);"
                " how much is free, this server does not tell.",
                "Look yourself, and set force: true.",
            )
        ]
    if needed > free:
        return [
            Finding(
                listed,
                f"the rows come back to the coordinator and need about {format_bytes(needed)} there (half of it WAL);"
                f" {format_bytes(free)} are free.",
                "Make room, or set force: true if the WAL is on another disk.",
            )
        ]
    return []
