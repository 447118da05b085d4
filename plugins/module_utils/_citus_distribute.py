# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How tables are distributed: what is wanted, what is there, and the plan that leads from one to the other.

:func:`plan` is pure. Its findings follow what Citus checks while it distributes a table, so that a
person reads all of them at once and before the first change, instead of one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog import (
    Column,
    Details,
    Extra,
    ForeignKey,
    Key,
    Schema,
    Server,
    Table,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import pgsql
from ansible_collections.citus_ha.cluster.plugins.module_utils._names import Name, display

#: Largest ``shard_count`` that Citus takes (MAX_SHARD_COUNT in its source).
MAX_SHARD_COUNT = 64000

#: What a state is called when a person reads it.
WORDS = {
    "plain": "plain table on the coordinator",
    "local": "local table managed by Citus",
    "reference": "reference table",
    "distributed": "distributed",
    "single_shard": "single-shard distributed table",
    "tenant": "table of a distributed schema",
    "other": "append- or range-distributed table",
}


@dataclass(frozen=True)
class Desired:
    """One entry of the task."""

    #: A table's name, or with ``kind`` schema a schema's (then in :attr:`Name.table`).
    name: Name
    state: str
    kind: str = "table"
    column: str | None = None
    #: None and "default" claim nothing; "none" starts a group of its own when the table becomes distributed.
    colocate_with: Name | str | None = None
    shard_count: int | None = None
    concurrently: bool = False
    allow_redistribute: bool = False
    extend_keys: bool = False
    cascade: bool = False
    force: bool = False

    def options(self) -> list[str]:
        """The keys of the version table that this entry uses."""
        used = [f"state={self.state}", f"kind={self.kind}"]
        return used + (["concurrently"] if self.concurrently else [])


@dataclass(frozen=True)
class State:
    """What is there."""

    server: Server
    tables: Mapping[Name, Table] = field(default_factory=dict)
    schemas: Mapping[str, Schema] = field(default_factory=dict)
    details: Details = field(default_factory=Details)


@dataclass(frozen=True)
class Statement:
    """SQL with names and values kept apart from its text."""

    template: str
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Text that the server itself wrote, such as a constraint's definition.
    verbatim: Mapping[str, str] = field(default_factory=dict)
    values: tuple[Any, ...] = ()

    def composed(self) -> Any:
        """For psycopg2."""
        parts = {key: pgsql.Identifier(*name) for key, name in self.names.items()}
        return pgsql.SQL(self.template).format(**parts, **{key: pgsql.SQL(text) for key, text in self.verbatim.items()})

    def __str__(self) -> str:
        """For people: what would work in psql."""
        parts = {key: ".".join(display(part) for part in name) for key, name in self.names.items()}
        text = self.template.format(**parts, **self.verbatim)
        for value in self.values:
            text = text.replace("%s", _literal(value), 1)
        return text + ";"


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"


@dataclass(frozen=True)
class Finding:
    """Something that stands in the way, and what would mend it."""

    object: str
    problem: str
    remedy: str = ""
    statements: tuple[str, ...] = ()

    def __str__(self) -> str:
        ways = " ".join(part for part in (self.remedy, *self.statements) if part)
        return f"{self.object}: {self.problem}" + (f" {ways}" if ways else "")

    def as_dict(self) -> dict[str, Any]:
        """For the module's result."""
        return {
            "name": self.object,
            "problem": self.problem,
            "remedy": self.remedy,
            "statements": list(self.statements),
        }


@dataclass(frozen=True)
class Action:
    """One change, with its cost."""

    object: str
    #: create, extend, alter, convert, undistribute
    verb: str
    before: str
    after: str
    statements: tuple[Statement, ...]
    lock: str
    rows: int | None = None
    bytes: int = 0
    #: False for what Citus refuses inside a transaction.
    transactional: bool = True
    #: Rough number of locks held per node until the transaction ends.
    locks: int = 0
    #: Citus must use one connection per node for the whole transaction.
    sequential: bool = False
    notes: tuple[str, ...] = ()
    #: Tables beside this one that change with it.
    also: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For the module's result."""
        return {
            "name": self.object,
            "action": self.verb,
            "before": self.before,
            "after": self.after,
            "statements": [str(statement) for statement in self.statements],
            "lock": self.lock,
            "rows": self.rows,
            "bytes": self.bytes,
            "notes": list(self.notes),
            "also_changes": list(self.also),
        }


@dataclass(frozen=True)
class Plan:
    """Actions in the order in which they run; with findings there is nothing to run."""

    actions: tuple[Action, ...] = ()
    findings: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()


# ---- which entries change ---------------------------------------------------------------------------


def _target(desired: Desired, state: State) -> Table | None:
    """The existing table that the entry wants to be colocated with."""
    return state.tables.get(desired.colocate_with) if isinstance(desired.colocate_with, Name) else None


def differences(desired: Desired, table: Table, state: State) -> list[str]:
    """What differs between a table that is distributed and the entry: column, shard_count, colocate_with."""
    found = []
    if desired.column is not None and table.column != desired.column:
        found.append("column")
    if desired.shard_count is not None and table.shard_count != desired.shard_count:
        found.append("shard_count")
    target = _target(desired, state)
    if target is not None and target.oid != table.oid and target.colocation_id != table.colocation_id:
        found.append("colocate_with")
    return found


def step(desired: Desired, state: State) -> str | None:
    """The change that the entry needs: create, alter, convert, undistribute, or None.

    An entry whose object does not exist needs none; :func:`plan` reports it.
    """
    if desired.kind == "schema":
        schema = state.schemas.get(desired.name.table)
        if schema is None or schema.distributed == (desired.state == "schema"):
            return None
        return "create" if desired.state == "schema" else "undistribute"
    table = state.tables.get(desired.name)
    if table is None:
        return None
    if desired.state == "undistributed":
        return None if table.state == "plain" or (table.state == "local" and table.autoconverted) else "undistribute"
    if table.state in ("plain", "local"):
        if desired.state == "local" and table.state == "local" and not table.autoconverted:
            return None
        return "create"
    if table.state != desired.state:
        return "convert"
    if desired.state == "distributed":
        return "alter" if differences(desired, table, state) else None
    return None


def changing(desired: Iterable[Desired], state: State) -> list[Table]:
    """The tables that have to be looked at closely."""
    return [state.tables[entry.name] for entry in desired if entry.kind == "table" and step(entry, state)]


# ---- texts ------------------------------------------------------------------------------------------


def describe(table: Table) -> str:
    """A table's present state in words."""
    if table.state == "distributed":
        return f"distributed by {display(table.column or '?')}, {table.shard_count} shards"
    if table.state == "local" and table.autoconverted:
        return f"{WORDS['local']} (added by Citus itself)"
    return WORDS[table.state]


def describe_desired(desired: Desired, table: Table | None, state: State) -> str:
    """An entry's state in words."""
    if desired.state == "distributed":
        shards = desired.shard_count
        if shards is None and table is not None and table.state == "distributed":
            shards = table.shard_count
        target = _target(desired, state)
        if target is not None and target.shard_count:
            shards = target.shard_count
        count = shards or int(state.server.setting("citus.shard_count", "32"))
        text = f"distributed by {display(desired.column or '?')}, {count} shards"
        if isinstance(desired.colocate_with, Name):
            text += f", colocated with {target or desired.colocate_with}"
        elif desired.colocate_with == "none":
            text += ", in a colocation group of its own"
        return text
    return {
        "reference": WORDS["reference"],
        "local": WORDS["local"],
        "undistributed": WORDS["plain"],
        "schema": "distributed schema",
    }[desired.state]


def format_bytes(size: int) -> str:
    """``1536`` as ``1.5 kB`` (1024 bytes, as PostgreSQL counts)."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TB"


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


def _key_problems(
    desired: Desired, table: Table, column: Column, details: Details
) -> tuple[list[Finding], list[Statement]]:
    """Findings about keys without the distribution column, or with ``extend_keys`` the statements that mend them."""
    findings: list[Finding] = []
    statements: list[Statement] = []
    for key in details.keys.get(table.oid, ()):
        on_partition = (key.schema, key.table) != (table.schema, table.table)
        own = {item.name: item.number for item in details.columns.get(table.oid, ())}
        covered = column.name in key.names if on_partition else own.get(column.name) in key.columns
        if covered:
            continue
        where = f" on its partition {Name(key.schema, key.table)}" if on_partition else ""
        problem = (
            f"the {_KEY_WORDS[key.constraint]} {display(key.name)} ({', '.join(display(name) for name in key.names)}){where}"
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
    return findings, statements


def _drop_constraint(key: Key) -> Statement:
    return Statement(
        "ALTER TABLE {table} DROP CONSTRAINT {key}", {"table": (key.schema, key.table), "key": (key.name,)}
    )


# ---- colocation and foreign keys --------------------------------------------------------------------


class _Final:
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

    def group(self, table: Table, seen: frozenset[int] = frozenset()) -> tuple[Any, ...]:
        """Equal for two tables exactly when they will be colocated."""
        entry = self.entry(table)
        if entry is None or entry.state != "distributed" or table.oid in seen or step(entry, self._state) is None:
            return ("id", table.colocation_id)
        target = _target(entry, self._state)
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


def _drop_foreign_key(key: ForeignKey) -> Statement:
    return Statement(
        "ALTER TABLE {table} DROP CONSTRAINT {key}",
        {"table": (key.source.schema, key.source.table), "key": (key.name,)},
    )


def _add_foreign_key(key: ForeignKey) -> Statement:
    return Statement(
        "ALTER TABLE {table} ADD CONSTRAINT {key} {definition}",
        {"table": (key.source.schema, key.source.table), "key": (key.name,)},
        {"definition": key.definition},
    )


def _foreign_key_problem(key: ForeignKey, final: _Final) -> Finding | None:
    """Why the foreign key cannot exist once the plan has run, by the rules of Citus."""
    source, target = final.state(key.source), final.state(key.target)
    what = (
        f"its foreign key {display(key.name)} ({', '.join(map(display, key.source_columns))}) to {key.target}"
        f" ({', '.join(map(display, key.target_columns))})"
    )
    drop = (str(_drop_foreign_key(key)),)
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
    pairs = dict(zip(key.source_columns, key.target_columns, strict=True))
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


def _relation_problems(desired: Desired, table: Table, extra: Extra, server: Server) -> list[Finding]:
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


def _column_problems(desired: Desired, table: Table, details: Details) -> tuple[Column | None, list[Finding]]:
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
    if column.null_fraction and table.state in ("plain", "local"):
        found.append(
            Finding(
                name,
                f"the distribution column {shown} holds NULLs, and a row without a value has no shard.",
                "Give those rows a value or delete them; then ALTER TABLE ... ALTER COLUMN ... SET NOT NULL keeps it so.",
            )
        )
    return column, found


def skew(column: Column, table: str, shards: int, rows: int | None) -> str | None:
    """A warning about a column that spreads its rows badly; None when it is fine or unknown."""
    if column.n_distinct is None:
        return None
    distinct = column.n_distinct if column.n_distinct >= 0 else -column.n_distinct * (rows or 0)
    if rows is not None and rows < shards:
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


# ---- the plan ---------------------------------------------------------------------------------------

# The name of a shard is the table's, an underscore and a number. Where that is longer than 63 bytes,
# Citus shortens it and wants one connection per node inside a transaction.
_LONG_NAME = 63 - 1 - 20

_WRITES_BLOCKED = "blocks writes to the table while its rows are copied (EXCLUSIVE); reading goes on until the end"


def _relation(table: Table) -> dict[str, tuple[str, ...]]:
    return {"table": (table.schema, table.table)}


def _colocate_value(desired: Desired, state: State) -> str | None:
    if isinstance(desired.colocate_with, Name):
        return str(_target(desired, state) or desired.colocate_with)
    return desired.colocate_with


def _create_statement(desired: Desired, table: Table, state: State) -> Statement:
    name = str(table)
    if desired.state == "reference":
        return Statement("SELECT create_reference_table(%s)", values=(name,))
    if desired.state == "local":
        if desired.cascade or state.details.connected.get(table.oid):
            return Statement(
                "SELECT citus_add_local_table_to_metadata(%s, cascade_via_foreign_keys => true)", values=(name,)
            )
        return Statement("SELECT citus_add_local_table_to_metadata(%s)", values=(name,))
    template = "SELECT create_distributed_table(%s, %s"
    if desired.concurrently:
        template = "SELECT create_distributed_table_concurrently(%s, %s"
    values: tuple[Any, ...] = (name, desired.column)
    colocate = _colocate_value(desired, state)
    if colocate is not None:
        template += ", colocate_with => %s"
        values += (colocate,)
    if desired.shard_count is not None and not isinstance(desired.colocate_with, Name):
        template += ", shard_count => %s"
        values += (desired.shard_count,)
    return Statement(template + ")", values=values)


def _alter_statement(desired: Desired, table: Table, state: State) -> Statement:
    template = "SELECT alter_distributed_table(%s"
    values: tuple[Any, ...] = (str(table),)
    different = differences(desired, table, state)
    if "column" in different:
        template += ", distribution_column => %s"
        values += (desired.column,)
    if "shard_count" in different and not isinstance(desired.colocate_with, Name):
        template += ", shard_count => %s"
        values += (desired.shard_count,)
    if "colocate_with" in different:
        template += ", colocate_with => %s"
        values += (_colocate_value(desired, state),)
    if "column" not in different:
        template += f", cascade_to_colocated => {'true' if desired.cascade else 'false'}"
    return Statement(template + ")", values=values)


def _undistribute_statement(table: Table, cascade: bool) -> Statement:
    if cascade:
        return Statement("SELECT undistribute_table(%s, cascade_via_foreign_keys => true)", values=(str(table),))
    return Statement("SELECT undistribute_table(%s)", values=(str(table),))


def _colocation_problems(
    desired: Desired, table: Table, column: Column | None, final: _Final, state: State
) -> list[Finding]:
    if not isinstance(desired.colocate_with, Name):
        return []
    name = str(table)
    target = _target(desired, state)
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
                            {**_relation(table), "column": (column.name,)},
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


def _ordered(entries: Sequence[Desired], state: State) -> tuple[list[Desired], list[Finding]]:
    """Entries so that what others need comes first: reference tables, referenced tables, colocation targets."""
    by_oid = {state.tables[entry.name].oid: entry for entry in entries if entry.kind == "table"}
    needs: dict[int, set[int]] = {oid: set() for oid in by_oid}
    names = {oid: str(state.tables[entry.name]) for oid, entry in by_oid.items()}
    keys: dict[tuple[int, int], ForeignKey] = {}
    for key in state.details.foreign_keys:
        source, target = key.source.oid, key.target.oid
        if source in needs and target in needs and source != target:
            needs[source].add(target)
            keys[source, target] = key
    for oid, entry in by_oid.items():
        target_table = _target(entry, state)
        if target_table is not None and target_table.oid in needs and target_table.oid != oid:
            needs[oid].add(target_table.oid)
    ordered: list[Desired] = [entry for entry in entries if entry.kind != "table"]
    waiting = sorted(by_oid, key=lambda oid: by_oid[oid].state != "reference")
    done: set[int] = set()
    findings: list[Finding] = []
    while waiting:
        ready = [oid for oid in waiting if needs[oid] <= done]
        if not ready:
            circle = [oid for oid in waiting if any(oid in needs[other] for other in waiting)]
            cut = next((keys[a, b] for a in circle for b in sorted(needs[a]) if b in circle and (a, b) in keys), None)
            listed = ", ".join(names[oid] for oid in circle)
            findings.append(
                Finding(
                    names[circle[0]],
                    f"these tables need each other, so none of them can be distributed first: {listed}.",
                    "Drop one foreign key, run the task, then add it again:" if cut else "Check colocate_with.",
                    (str(_drop_foreign_key(cut)), str(_add_foreign_key(cut))) if cut else (),
                )
            )
            return ordered + [by_oid[oid] for oid in waiting], findings
        ordered += [by_oid[oid] for oid in ready]
        done.update(ready)
        waiting = [oid for oid in waiting if oid not in done]
    return ordered, findings


def _missing(entry: Desired, state: State) -> Finding | None:
    if entry.kind == "schema":
        if entry.name.table in state.schemas:
            return None
        return Finding(display(entry.name.table), "there is no such schema.", "Create it first, or correct the name.")
    if entry.name in state.tables:
        return None
    other = state.tables.get(Name(entry.name.schema, entry.name.table))
    return Finding(
        str(entry.name),
        "there is no such table" + ("" if entry.name.schema else " in the search path") + ".",
        'Create it first, or correct the name: upper case and other characters need double quotes ("Name"), and a'
        " table outside the search path its schema."
        if other is None
        else "",
    )


def _schema_action(entry: Desired, schema: Schema) -> tuple[Action | None, list[Finding]]:
    name = display(schema.name)
    findings = []
    if not schema.owned:
        findings.append(
            Finding(
                name,
                f"the schema belongs to {display(schema.owner)}.",
                "Log in as its owner or a superuser (login_user).",
            )
        )
    if entry.state == "schema" and schema.name in ("public", "information_schema", "pg_catalog"):
        findings.append(
            Finding(name, "Citus does not distribute this schema.", "Move the tables into a schema of their own.")
        )
    if entry.state == "schema" and schema.blocking:
        findings.append(
            Finding(
                name,
                f"these of its tables are already distributed: {', '.join(map(display, schema.blocking[:20]))}.",
                "Undistribute them first (state: undistributed).",
            )
        )
    function = "citus_schema_distribute" if entry.state == "schema" else "citus_schema_undistribute"
    words = ("schema on the coordinator", f"distributed schema ({schema.tables} tables on one node)")
    before, after = words if entry.state == "schema" else words[::-1]
    action = Action(
        object=f"schema {name}",
        verb="create" if entry.state == "schema" else "undistribute",
        before=before,
        after=after,
        statements=(Statement(f"SELECT {function}(%s)", values=(name,)),),
        lock=_WRITES_BLOCKED,
        locks=20 * max(schema.tables, 1),
        sequential=True,
    )
    return action, findings


def plan(desired: Sequence[Desired], state: State) -> Plan:
    """Compare what is wanted with what is there."""
    findings = [found for found in (_missing(entry, state) for entry in desired) if found]
    warnings: list[str] = []
    final = _Final(desired, state)
    entries = [entry for entry in desired if step(entry, state)]
    ordered, circles = _ordered(entries, state)
    findings += circles
    if any(entry.state in ("distributed", "schema") for entry in entries) and state.server.shard_nodes == 0:
        findings.append(
            Finding(
                state.server.where,
                "no active node may hold shards.",
                "Add a worker (citus_node, or citus_add_node()), or set should_have_shards on the coordinator.",
            )
        )
    actions: list[Action] = []
    handled: set[str] = set()
    without_identity: list[str] = []
    for entry in ordered:
        if entry.kind == "schema":
            action, found = _schema_action(entry, state.schemas[entry.name.table])
            findings += found
            if action:
                actions.append(action)
            continue
        table = state.tables[entry.name]
        if str(table) in handled:
            continue
        action, found, warned = _table_action(entry, table, state, final, desired)
        findings += found
        warnings += warned
        actions.append(action)
        if action.also and entry.cascade:
            handled.update(action.also)
        extra = state.details.extras.get(table.oid)
        if entry.state == "distributed" and extra and not extra.replica_identity:
            without_identity.append(str(table))
    seen: set[tuple[str, str]] = set()
    for key in state.details.foreign_keys:
        problem = _foreign_key_problem(key, final)
        if problem and (problem.object, key.name) not in seen:
            seen.add((problem.object, key.name))
            findings.append(problem)
    if without_identity:
        warnings.append(
            f"Without primary key and REPLICA IDENTITY: {', '.join(without_identity[:20])}"
            f"{' and others' if len(without_identity) > 20 else ''}. Their shards cannot be moved while they are written to"
            " unless the move says shard_transfer_mode force_logical or block_writes."
        )
    return Plan(tuple(actions), tuple(findings), tuple(warnings))


def _table_action(
    entry: Desired, table: Table, state: State, final: _Final, desired: Sequence[Desired]
) -> tuple[Action, list[Finding], list[str]]:
    """The action for one table, with what is in its way and what is worth a warning."""
    verb = step(entry, state) or ""
    details = state.details
    extra = details.extras[table.oid]
    findings = _relation_problems(entry, table, extra, state.server)
    warnings: list[str] = []
    statements: list[Statement] = []
    notes: list[str] = []
    also: tuple[str, ...] = ()
    rows = details.rows.get(table.oid)
    column: Column | None = None
    lock = _WRITES_BLOCKED
    fks = [key for key in details.foreign_keys if table.oid in (key.source.oid, key.target.oid)]

    if table.state == "tenant":
        findings.append(
            Finding(
                str(table),
                f"it belongs to the distributed schema {display(table.schema)}, whose tables stay together.",
                "Undistribute the schema (kind: schema, state: undistributed), or move the table into another schema.",
            )
        )
    if entry.state == "distributed":
        column, found = _column_problems(entry, table, details)
        findings += found
        if entry.shard_count is not None and not 1 <= entry.shard_count <= MAX_SHARD_COUNT:
            findings.append(
                Finding(str(table), f"shard_count {entry.shard_count} is not between 1 and {MAX_SHARD_COUNT}.")
            )
        findings += _colocation_problems(entry, table, column, final, state)
        if column and state.server.setting("citus.allow_unsafe_constraints", "off") != "on":
            found, mends = _key_problems(entry, table, column, details)
            findings += found
            if mends:
                statements += mends
                lock = "blocks reads and writes while keys are rebuilt (ACCESS EXCLUSIVE), then " + lock
                notes.append(
                    f"extend_keys: the keys become unique only together with {display(column.name)}; the application must"
                    " not rely on the shorter key any more"
                )
        if column:
            shards = entry.shard_count or table.shard_count or int(state.server.setting("citus.shard_count", "32"))
            warning = skew(column, str(table), shards, rows)
            warnings += [warning] if warning else []

    if entry.state == "distributed" and entry.concurrently and verb == "create":
        findings += _concurrency_problems(entry, table, extra, fks, final, state.server)
        lock = "writes go on; they are blocked for a moment at the end"

    if verb in ("alter", "convert") and not entry.allow_redistribute:
        size = f"{rows} rows, {format_bytes(extra.bytes)}" if rows is not None else format_bytes(extra.bytes)
        what = ", ".join(differences(entry, table, state)) if verb == "alter" else "the kind of table"
        findings.append(
            Finding(
                str(table),
                f"it is already {describe(table)}; changing {what} would rewrite it ({size}; {_WRITES_BLOCKED}).",
                "Set allow_redistribute: true to do it.",
            )
        )
    if verb == "alter":
        different = differences(entry, table, state)
        lost = [
            key
            for key in fks
            if key.source.oid != key.target.oid
            and final.state(key.target) == "distributed"
            and not (entry.cascade and "column" not in different)
        ]
        if lost and not entry.force:
            findings.append(
                Finding(
                    str(table),
                    "changing it alone makes Citus drop the foreign keys with the tables it is colocated with:"
                    f" {', '.join(f'{key.source}: {display(key.name)}' for key in lost)}.",
                    "Set cascade: true to change the whole colocation group (not for another column), or force: true and"
                    " add them again afterwards:",
                    tuple(str(_add_foreign_key(key)) for key in lost),
                )
            )
        if entry.cascade and "column" not in different:
            also = extra.colocated
        statements.append(_alter_statement(entry, table, state))
    elif verb in ("undistribute", "convert"):
        connected = details.connected.get(table.oid, ())
        listed = {
            str(state.tables[item.name])
            for item in desired
            if item.kind == "table" and item.name in state.tables and final.state(state.tables[item.name]) == "plain"
        }
        cascade = entry.cascade or (verb == "undistribute" and bool(connected) and set(connected) <= listed)
        if connected and not cascade:
            findings.append(
                Finding(
                    str(table),
                    f"foreign keys connect it with {', '.join(connected)}; Citus undistributes it only together with them.",
                    "Set cascade: true to undistribute all of them, put them into the list with the same state, or drop"
                    " the foreign keys:",
                    tuple(str(_drop_foreign_key(key)) for key in fks if key.source.oid != key.target.oid),
                )
            )
        elif cascade:
            also = connected
        statements.insert(0, _undistribute_statement(table, cascade and bool(connected)))
        if verb == "convert":
            statements.append(_create_statement(entry, table, state))
        notes += [] if table.state == "local" else ["the rows are first copied to the coordinator"]
    else:
        statements.append(_create_statement(entry, table, state))

    target_shards = entry.shard_count or table.shard_count or int(state.server.setting("citus.shard_count", "32"))
    nodes = max(state.server.shard_nodes, 1)
    action = Action(
        object=str(table),
        verb=verb,
        before=describe(table),
        after=describe_desired(entry, table, state),
        statements=tuple(statements),
        lock=lock,
        rows=rows,
        bytes=extra.bytes,
        transactional=not (entry.concurrently and verb == "create"),
        locks=_locks(entry, details.keys.get(table.oid, ()), target_shards, nodes, extra.partitions),
        sequential=any(final.state(key.target) == "reference" for key in fks)
        or extra.partitions > 0
        or len(table.table.encode("utf-8")) > _LONG_NAME,
        notes=tuple(notes),
        also=also,
    )
    return action, findings, warnings


def _locks(entry: Desired, keys: Sequence[Key], shards: int, nodes: int, partitions: int) -> int:
    """Rough number of locks that one node holds for the table until the transaction ends."""
    tables = 1 + partitions
    relations = 2 + len(keys)
    if entry.state != "distributed":
        return 8 * relations * tables
    return tables * relations * (3 * -(-shards // nodes) + 8)


def _concurrency_problems(
    entry: Desired, table: Table, extra: Extra, keys: Sequence[ForeignKey], final: _Final, server: Server
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
                (str(Statement("ALTER TABLE {table} REPLICA IDENTITY FULL", _relation(table))),),
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
    if server.setting("citus.shard_replication_factor", "1") != "1":
        found.append(Finding(name, "concurrently needs citus.shard_replication_factor 1.", "Leave concurrently out."))
    in_the_way = [key for key in keys if final.state(key.target) != "reference" and key.source.oid == table.oid]
    in_the_way += [key for key in keys if key.target.oid == table.oid and key.source.oid != table.oid]
    if in_the_way:
        found.append(
            Finding(
                name,
                "concurrently works only without foreign keys from or to other than reference tables:"
                f" {', '.join(f'{key.source}: {display(key.name)}' for key in in_the_way)}.",
                "Leave concurrently out for this table, or drop the foreign keys and add them again afterwards:",
                tuple(str(_drop_foreign_key(key)) for key in in_the_way),
            )
        )
    return found
