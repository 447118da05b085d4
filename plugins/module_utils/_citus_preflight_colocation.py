# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tables will be colocated, and which foreign keys can lead from one to the other.

Every function is pure. What they say is compared with Citus's own verdict in tests/integration.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_details import Column, ForeignKey
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_tables import Table
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_distribute import (
    WORDS,
    Desired,
    Finding,
    State,
    Statement,
    differences,
    step,
    target_of,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._names import Name, display


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
                            {"table": (table.schema, table.table), "column": (column.name,)},
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
