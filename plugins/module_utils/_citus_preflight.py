# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the way of a plan: the checks that Citus makes while it distributes, made before.

Every function is pure. What they say is compared with Citus's own verdict in tests/integration.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_details import (
    Column,
    Details,
    Extra,
    ForeignKey,
    Key,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_measure import Measure
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_server import Server
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_tables import Table
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_distribute import (
    WORDS,
    Action,
    Desired,
    Finding,
    State,
    Statement,
    differences,
    format_bytes,
    step,
    target_of,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._names import Name, display

# ---- keys -------------------------------------------------------------------------------------------


def _matching_parenthesis(text: str) -> int | None:
    """Index of the parenthesis that closes the first one outside quotes; None when there is none."""
    depth = 0
    quote = ""
    for index, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                return index
    return None


def extended_definition(key: Key, column: str) -> str | None:
    """The key's definition, in the server's words, with ``column`` appended to its columns.

    None for an exclusion constraint: whether its index method can compare the column for equality is
    not known here.
    """
    end = _matching_parenthesis(key.definition)
    if end is None or key.constraint == "x":
        return None
    return f"{key.definition[:end]}, {display(column)}{key.definition[end:]}"


def mend_key(key: Key, column: str) -> tuple[Statement, ...]:
    """The statements that add ``column`` to the key; empty when that cannot be said."""
    definition = extended_definition(key, column)
    if definition is None:
        return ()
    names = {"table": (key.schema, key.table), "key": (key.name,), "index": (key.schema, key.name)}
    if key.constraint:
        first: tuple[Statement, ...] = (
            Statement(
                "ALTER TABLE {table} DROP CONSTRAINT {key}, ADD CONSTRAINT {key} {definition}",
                {"table": names["table"], "key": names["key"]},
                {"definition": definition},
            ),
        )
    else:
        first = (
            Statement("DROP INDEX {index}", {"index": names["index"]}),
            Statement("{definition}", {}, {"definition": definition}),
        )
    if key.replica_identity:
        identity = Statement(
            "ALTER TABLE {table} REPLICA IDENTITY USING INDEX {key}", {"table": names["table"], "key": names["key"]}
        )
        return (*first, identity)
    return first


_KEY_WORDS = {"p": "primary key", "u": "unique constraint", "x": "exclusion constraint", None: "unique index"}


def key_problems(
    desired: Desired, table: Table, column: Column, details: Details
) -> tuple[list[Finding], list[Statement], list[str]]:
    """Keys without the distribution column: findings, or with ``extend_keys`` what mends them; and warnings."""
    findings: list[Finding] = []
    statements: list[Statement] = []
    warnings: list[str] = []
    for key in details.keys.get(table.oid, ()):
        on_partition = (key.schema, key.table) != (table.schema, table.table)
        own = {item.name: item.number for item in details.columns.get(table.oid, ())}
        covered = column.name in key.names if on_partition else own.get(column.name) in key.columns
        if covered:
            continue
        if column.name in key.included:
            # Citus takes this one, although it then checks the key only within a shard.
            warnings.append(
                f"{table}: the {_KEY_WORDS[key.constraint]} {display(key.name)} only carries {display(column.name)}"
                " along (INCLUDE): it stays unique within a shard, not over all of them."
            )
            continue
        where = f" on its partition {Name(key.schema, key.table)}" if on_partition else ""
        problem = (
            f"the {_KEY_WORDS[key.constraint]} {display(key.name)} ({', '.join(map(display, key.names))}){where}"
            f" does not include the distribution column {display(column.name)}"
        )
        mend = mend_key(key, column.name)
        if not mend:
            findings.append(
                Finding(
                    str(table),
                    f"{problem} with an equality operator.",
                    "Drop it or add the column to it:",
                    (str(_drop_constraint(key)),),
                )
            )
        elif key.dependants:
            findings.append(
                Finding(
                    str(table),
                    f"{problem}, and foreign keys rest on it ({', '.join(key.dependants)}).",
                    "Change those foreign keys to include the column too (drop them, mend the key, add them again), or"
                    " distribute the table by a column of the key, or make it a reference table. The key would be:",
                    tuple(str(statement) for statement in mend),
                )
            )
        elif desired.extend_keys:
            statements.extend(mend)
        else:
            findings.append(
                Finding(
                    str(table),
                    f"{problem}. Citus can keep it unique only when it does.",
                    "Set extend_keys: true, or run:",
                    tuple(str(statement) for statement in mend),
                )
            )
    return findings, statements, warnings


def _drop_constraint(key: Key) -> Statement:
    return Statement(
        "ALTER TABLE {table} DROP CONSTRAINT {key}", {"table": (key.schema, key.table), "key": (key.name,)}
    )


# ---- colocation and foreign keys --------------------------------------------------------------------


class Final:
    """What every table will be when the plan has run: the ground on which foreign keys are judged."""

    def __init__(self, desired: Sequence[Desired], state: State) -> None:
        self._state = state
        self._wanted = {
            state.tables[entry.name].oid: entry
            for entry in desired
            if entry.kind == "table" and entry.name in state.tables
        }

    def entry(self, table: Table) -> Desired | None:
        return self._wanted.get(table.oid)

    def state(self, table: Table) -> str:
        entry = self.entry(table)
        if entry is None:
            return table.state
        return "plain" if entry.state == "undistributed" else entry.state

    def column(self, table: Table) -> str | None:
        entry = self.entry(table)
        if entry is not None and entry.state == "distributed":
            return entry.column
        return table.column

    def column_type(self, table: Table) -> Column | None:
        """The distribution column as a column; None when the table was not looked at closely."""
        wanted = self.column(table)
        return next((item for item in self._state.details.columns.get(table.oid, ()) if item.name == wanted), None)

    def has_sequence(self, table: Table, names: Iterable[str]) -> bool:
        """Whether one of the columns has a sequence as its default (False for a table not looked at closely)."""
        return any(item.sequence for item in self._state.details.columns.get(table.oid, ()) if item.name in names)

    def group(self, table: Table, seen: frozenset[int] = frozenset()) -> tuple[Any, ...]:
        """Equal for two tables exactly when they will be colocated."""
        entry = self.entry(table)
        if entry is None or entry.state != "distributed" or table.oid in seen or step(entry, self._state) is None:
            return ("id", table.colocation_id)
        target = target_of(entry, self._state)
        if target is not None:
            return self.group(target, seen | {table.oid})
        if entry.colocate_with == "none":
            return ("own", table.oid)
        if table.state == "distributed" and differences(entry, table, self._state) == []:
            return ("id", table.colocation_id)
        column = self.column_type(table)
        shards = entry.shard_count or table.shard_count or int(self._state.server.setting("citus.shard_count", "32"))
        key = (column.type_oid, column.collation, shards) if column else ("?", table.oid, 0)
        existing = self._state.details.groups.get(key)
        return ("id", existing) if existing is not None else ("new", *key)


def drop_foreign_key(key: ForeignKey) -> Statement:
    return Statement(
        "ALTER TABLE {table} DROP CONSTRAINT {key}",
        {"table": (key.source.schema, key.source.table), "key": (key.name,)},
    )


def add_foreign_key(key: ForeignKey) -> Statement:
    return Statement(
        "ALTER TABLE {table} ADD CONSTRAINT {key} {definition}",
        {"table": (key.source.schema, key.source.table), "key": (key.name,)},
        {"definition": key.definition},
    )


def foreign_key_problem(key: ForeignKey, final: Final) -> Finding | None:
    """Why the foreign key cannot exist once the plan has run, by the rules of Citus."""
    source, target = final.state(key.source), final.state(key.target)
    what = (
        f"its foreign key {display(key.name)} ({', '.join(map(display, key.source_columns))}) to {key.target}"
        f" ({', '.join(map(display, key.target_columns))})"
    )
    drop = (str(drop_foreign_key(key)),)
    if (
        "d" in (key.on_delete, key.on_update)
        and source != "plain"
        and final.has_sequence(key.source, key.source_columns)
    ):
        return Finding(
            str(key.source),
            f"{what} says SET DEFAULT for a column whose default comes from a sequence, which Citus does not support.",
            "Use another action, or drop it:",
            drop,
        )
    if source == "reference" and target in ("plain", "local") and not (key.on_delete in "ar" and key.on_update in "ar"):
        return Finding(
            str(key.source),
            f"{what} would lead from a reference table to a local one with an ON DELETE or ON UPDATE action, which"
            " Citus cannot carry out on every node.",
            f"Give {key.target} state: reference too, use NO ACTION or RESTRICT, or drop it:",
            drop,
        )
    if target == "reference":
        column = final.column(key.source) if source == "distributed" else None
        if column in key.source_columns and (key.on_delete in "nd" or key.on_update in "ndc"):
            return Finding(
                str(key.source),
                f"{what} would change the distribution column {display(column or '')} (ON DELETE or ON UPDATE action).",
                "Use NO ACTION, RESTRICT or ON DELETE CASCADE, or drop it:",
                drop,
            )
        return None
    if source != "distributed":
        if target != "distributed" or source not in ("plain", "local", "reference"):
            return None
        words = WORDS[source]
        return Finding(
            str(key.source),
            f"{what} would lead from a {words} to a distributed table, which Citus does not support.",
            f"Distribute {key.source} by {display(key.source_columns[0])} in the same task, or drop the foreign key:",
            drop,
        )
    if target in ("plain", "local"):
        return Finding(
            str(key.source),
            f"{what} leads to a {WORDS[target]}; the referenced rows must be on the same node.",
            f"Put {key.target} into the list with state: reference (small, and joined from everywhere), or with"
            f" state: distributed, column: {display(key.target_columns[0])}, or drop the foreign key:",
            drop,
        )
    if target != "distributed":
        return None
    own, other = final.column(key.source), final.column(key.target)
    pairs = dict(zip(key.source_columns, key.target_columns))
    if key.source.oid != key.target.oid and final.group(key.source) != final.group(key.target):
        mine, theirs = final.column_type(key.source), final.column_type(key.target)
        why = ""
        if mine and theirs and (mine.type_oid, mine.collation) != (theirs.type_oid, theirs.collation):
            why = f" (the distribution columns are of different types: {mine.type} and {theirs.type})"
        return Finding(
            str(key.source),
            f"{what} leads to a distributed table that it would not be colocated with{why}.",
            f"Set colocate_with: {key.target}, or give {key.target} state: reference, or drop the foreign key:",
            drop,
        )
    if own is None or pairs.get(own) != other:
        return Finding(
            str(key.source),
            f"{what} does not pair the distribution columns {display(own or '?')} and {display(other or '?')}.",
            f"Give {key.target} state: reference, or add the distribution column to the foreign key, or drop it:",
            drop,
        )
    if key.on_delete in "nd" or key.on_update in "ndc":
        return Finding(
            str(key.source),
            f"{what} would change the distribution column {display(own)} (ON DELETE or ON UPDATE action).",
            "Use NO ACTION, RESTRICT or ON DELETE CASCADE, or drop it:",
            drop,
        )
    return None


# ---- the preflight of one table ---------------------------------------------------------------------


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


def relation_names(table: Table) -> dict[str, tuple[str, ...]]:
    return {"table": (table.schema, table.table)}


def colocation_problems(
    desired: Desired, table: Table, column: Column | None, final: Final, state: State
) -> list[Finding]:
    if not isinstance(desired.colocate_with, Name):
        return []
    name = str(table)
    target = target_of(desired, state)
    if target is None:
        return [
            Finding(
                name,
                f"colocate_with: there is no table {desired.colocate_with}.",
                "Name an existing distributed table.",
            )
        ]
    if target.oid == table.oid:
        return [Finding(name, "colocate_with names the table itself.", "Name another table, or leave it out.")]
    if final.state(target) != "distributed":
        return [
            Finding(
                name,
                f"colocate_with: {target} is not distributed ({WORDS[final.state(target)]}).",
                f"Put {target} into the same list with state: distributed, or name a distributed table.",
            )
        ]
    found = []
    theirs = final.column_type(target)
    if column and theirs and (column.type_oid, column.collation) != (theirs.type_oid, theirs.collation):
        found.append(
            Finding(
                name,
                f"its distribution column {display(column.name)} is {column.type}, that of {target}"
                f" ({display(theirs.name)}) is {theirs.type}; colocated tables need the same type and collation.",
                "Distribute by a column of that type, leave colocate_with out, or run:",
                (
                    str(
                        Statement(
                            "ALTER TABLE {table} ALTER COLUMN {column} TYPE {type}",
                            {**relation_names(table), "column": (column.name,)},
                            {"type": theirs.type},
                        )
                    ),
                ),
            )
        )
    entry = final.entry(target)
    shards = (entry.shard_count if entry else None) or target.shard_count
    if desired.shard_count is not None and shards is not None and desired.shard_count != shards:
        found.append(
            Finding(
                name,
                f"shard_count {desired.shard_count} contradicts colocate_with: {target} has {shards} shards.",
                "Leave one of the two out.",
            )
        )
    return found


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
                (str(Statement("ALTER TABLE {table} REPLICA IDENTITY FULL", relation_names(table))),),
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


def space_problems(actions: Sequence[Action], entries: Sequence[Desired], state: State) -> list[Finding]:
    """Whether what comes back to the coordinator fits there: the rows, and as much again for their WAL."""
    back = [action for action in actions if action.to_coordinator]
    needed = 2 * sum(action.bytes for action in back)
    if not needed or all(entry.force for entry in entries):
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
