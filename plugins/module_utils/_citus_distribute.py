# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of ``citus_distribute``: what is wanted, what is there, what an action and a finding are.

What stands in the way is found by ``_citus_preflight``, what is to be done by ``_citus_plan``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_details import Details
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_server import Server
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_tables import Schema, Table
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import pgsql
from ansible_collections.citus_ha.cluster.plugins.module_utils._names import Name, display

#: Largest ``shard_count`` that Citus takes (MAX_SHARD_COUNT in its source).
MAX_SHARD_COUNT = 64000

#: The lock of nearly everything that Citus does with a table.
WRITES_BLOCKED = "blocks writes to the table while its rows are copied (EXCLUSIVE); reading goes on until the end"

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
    #: create, alter, convert, undistribute; unlink and link for foreign keys that are lifted meanwhile
    verb: str
    before: str
    after: str
    statements: tuple[Statement, ...]
    lock: str
    rows: int | None = None
    bytes: int = 0
    #: The next action has to be in the same transaction.
    joined: bool = False
    #: False for what Citus refuses inside a transaction.
    transactional: bool = True
    #: Rough number of locks held per node until the transaction ends.
    locks: int = 0
    #: Citus must use one connection per node for the whole transaction.
    sequential: bool = False
    notes: tuple[str, ...] = ()
    #: The rows are copied to the coordinator.
    to_coordinator: bool = False
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


def target_of(desired: Desired, state: State) -> Table | None:
    """The existing table that the entry wants to be colocated with."""
    return state.tables.get(desired.colocate_with) if isinstance(desired.colocate_with, Name) else None


def differences(desired: Desired, table: Table, state: State) -> list[str]:
    """What differs between a table that is distributed and the entry: column, shard_count, colocate_with."""
    found = []
    if desired.column is not None and table.column != desired.column:
        found.append("column")
    if desired.shard_count is not None and table.shard_count != desired.shard_count:
        found.append("shard_count")
    target = target_of(desired, state)
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
        target = target_of(desired, state)
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
