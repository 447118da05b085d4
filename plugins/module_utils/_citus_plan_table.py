# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens to one table: its statements and their cost, and what is in their way. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_details import ForeignKey, Key
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_tables import Table
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_distribute import (
    MAX_SHARD_COUNT,
    WRITES_BLOCKED,
    Action,
    Desired,
    Finding,
    State,
    Statement,
    describe,
    describe_desired,
    differences,
    format_bytes,
    step,
    target_of,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_preflight import (
    column_problems,
    concurrency_problems,
    relation_problems,
    skew,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_preflight_colocation import (
    Final,
    add_foreign_key,
    colocation_problems,
    drop_foreign_key,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_preflight_keys import key_problems
from ansible_collections.citus_ha.cluster.plugins.module_utils._names import Name, display

# The name of a shard is the table's, an underscore and a number. Where that is longer than 63 bytes,
# Citus shortens it and wants one connection per node inside a transaction.
_LONG_NAME = 63 - 1 - 20


def _colocate_value(desired: Desired, state: State) -> str | None:
    if isinstance(desired.colocate_with, Name):
        return str(target_of(desired, state) or desired.colocate_with)
    return desired.colocate_with


def _create_statement(desired: Desired, table: Table, state: State) -> Statement:
    name = str(table)
    if desired.state == "reference":
        return Statement("SELECT create_reference_table(%s)", values=(name,))
    if desired.state == "local":
        if state.details.connected_plain.get(table.oid):
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


@dataclass
class _Draft:
    """An action while it is put together, with what is in its way and what is worth a warning."""

    entry: Desired
    table: Table
    state: State
    final: Final
    verb: str
    #: Foreign keys from or to the table.
    keys: list[ForeignKey]
    size: int
    lock: str = WRITES_BLOCKED
    statements: list[Statement] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    also: tuple[str, ...] = ()

    def refuse(self, problem: str, remedy: str = "", statements: Sequence[Statement] = ()) -> None:
        """Add a finding about the table."""
        self.findings.append(Finding(str(self.table), problem, remedy, tuple(map(str, statements))))

    @property
    def rows(self) -> int | None:
        """Rows of the table, where they are known."""
        return self.state.details.rows.get(self.table.oid)

    @property
    def shards(self) -> int:
        """How many shards the table will have, if it becomes distributed."""
        default = self.state.server.setting("citus.shard_count", "32")
        return self.entry.shard_count or self.table.shard_count or int(default)

    def drops(self) -> list[Statement]:
        """What would take the foreign keys with other tables away."""
        return [drop_foreign_key(key) for key in self.keys if key.source.oid != key.target.oid]


def table_action(
    entry: Desired, table: Table, state: State, final: Final, desired: Sequence[Desired]
) -> tuple[Action, list[Finding], list[str]]:
    """The action for one table, with what is in its way and what is worth a warning."""
    details = state.details
    extra = details.extras[table.oid]
    keys = [key for key in details.foreign_keys if table.oid in (key.source.oid, key.target.oid)]
    draft = _Draft(entry, table, state, final, step(entry, state) or "", keys, extra.bytes)
    draft.findings += relation_problems(entry, table, extra, state.server)
    if table.state == "tenant":
        draft.refuse(
            f"it belongs to the distributed schema {display(table.schema)}, whose tables stay together.",
            "Undistribute the schema (kind: schema, state: undistributed), or move the table into another schema.",
        )
    if draft.verb in ("alter", "undistribute", "convert"):
        _draft_rewrite(draft)
    if entry.state == "distributed":
        _draft_distribution(draft)
    if draft.verb == "alter":
        _draft_alter(draft)
    elif draft.verb in ("undistribute", "convert"):
        _draft_undistribution(draft, desired)
    elif entry.state == "local":
        _draft_local(draft, desired)
    else:
        draft.statements.append(_create_statement(entry, table, state))
    nodes = max(state.server.shard_nodes, 1)
    action = Action(
        object=str(table),
        verb=draft.verb,
        before=describe(table),
        after=describe_desired(entry, table, state),
        statements=tuple(draft.statements),
        lock=draft.lock,
        rows=draft.rows,
        bytes=draft.size,
        to_coordinator=draft.verb in ("undistribute", "convert") and table.state != "local",
        transactional=not (entry.concurrently and draft.verb == "create"),
        locks=_locks(entry, details.keys.get(table.oid, ()), draft.shards, nodes, extra.partitions),
        sequential=any(final.state(key.target) == "reference" for key in keys)
        or extra.partitions > 0
        or len(table.table.encode("utf-8")) > _LONG_NAME,
        notes=tuple(draft.notes),
        also=draft.also,
    )
    return action, draft.findings, draft.warnings


def _draft_rewrite(draft: _Draft) -> None:
    """What holds for everything that writes a table anew: leave, and what Citus cannot copy."""
    entry, table = draft.entry, draft.table
    if draft.verb != "undistribute" and not entry.allow_redistribute:
        size = format_bytes(draft.size)
        cost = f"{draft.rows} rows, {size}" if draft.rows is not None else size
        what = "the kind of table" if draft.verb == "convert" else ", ".join(differences(entry, table, draft.state))
        draft.refuse(
            f"it is already {describe(table)}; changing {what} would rewrite it ({cost}; {WRITES_BLOCKED}).",
            "Set allow_redistribute: true to do it.",
        )
    identity = [item.name for item in draft.state.details.columns.get(table.oid, ()) if item.identity]
    if identity:
        draft.refuse(
            f"it has an identity column ({', '.join(map(display, identity))}), and Citus does not rewrite such tables.",
            "Copy the rows into a new table, or give the column a sequence as its default instead.",
        )


def _draft_distribution(draft: _Draft) -> None:
    """The distribution column, the keys that have to include it, and how it spreads the rows."""
    entry, table, state = draft.entry, draft.table, draft.state
    details = state.details
    extra = details.extras[table.oid]
    column, found = column_problems(entry, table, details)
    draft.findings += found
    if entry.shard_count is not None and not 1 <= entry.shard_count <= MAX_SHARD_COUNT:
        draft.refuse(f"shard_count {entry.shard_count} is not between 1 and {MAX_SHARD_COUNT}.")
    draft.findings += colocation_problems(entry, table, column, draft.final, state)
    if column and state.server.setting("citus.allow_unsafe_constraints", "off") != "on":
        found, mends, warned = key_problems(entry, table, column, details)
        draft.findings += found
        draft.warnings += warned
        if mends:
            draft.statements += mends
            draft.lock = "blocks reads and writes while keys are rebuilt (ACCESS EXCLUSIVE), then " + draft.lock
            draft.notes.append(
                f"extend_keys: the keys become unique only together with {display(column.name)}; the application must"
                " not rely on the shorter key any more"
            )
    warning = skew(column, str(table), draft.shards, draft.rows, details.sampled.get(table.oid)) if column else None
    draft.warnings += [warning] if warning else []
    if draft.verb != "create":
        return
    if entry.concurrently:
        draft.findings += concurrency_problems(entry, table, extra, draft.keys, draft.final, state.server)
        draft.lock = "writes go on; they are blocked for a moment at the end"
    elif extra.has_rows and table.state == "plain":
        clean = Statement("SELECT truncate_local_data_after_distributing_table(%s)", values=(str(table),))
        draft.notes.append(f"the rows stay on the coordinator's disk, out of sight, until: {clean}")


def _draft_alter(draft: _Draft) -> None:
    """Another column, shard count or colocation of a table that is distributed."""
    entry, table, final = draft.entry, draft.table, draft.final
    whole_group = entry.cascade and "column" not in differences(entry, table, draft.state)
    others = [key for key in draft.keys if key.source.oid != key.target.oid]
    lost = [key for key in others if final.state(key.target) == "distributed" and not whole_group]
    if lost and not entry.force:
        draft.refuse(
            "changing it alone makes Citus drop the foreign keys with the tables it is colocated with:"
            f" {', '.join(f'{key.source}: {display(key.name)}' for key in lost)}.",
            "Set cascade: true to change the whole colocation group (not for another column), or force: true and add"
            " them again afterwards:",
            [add_foreign_key(key) for key in lost],
        )
    if whole_group:
        draft.also = draft.state.details.extras[table.oid].colocated
    draft.statements.append(_alter_statement(entry, table, draft.state))


def _draft_undistribution(draft: _Draft, desired: Sequence[Desired]) -> None:
    """Back to a plain table, alone or with all that foreign keys connect; a conversion goes on from there."""
    entry, table, state = draft.entry, draft.table, draft.state
    connected = state.details.connected.get(table.oid, ())
    named = [state.tables[item.name] for item in desired if item.kind == "table" and item.name in state.tables]
    listed = {str(item) for item in named if draft.final.state(item) == "plain"}
    together = bool(connected) and draft.verb == "undistribute" and (entry.cascade or set(connected) <= listed)
    if connected and draft.verb == "convert":
        draft.refuse(
            f"foreign keys connect it with {', '.join(connected)}; Citus does not make it another kind with them.",
            "Drop the foreign keys, run the task, and add them again:",
            draft.drops(),
        )
    elif connected and not together:
        draft.refuse(
            f"foreign keys connect it with {', '.join(connected)}; Citus undistributes it only together with them.",
            "Set cascade: true to undistribute all of them, put them into the list with the same state, or drop the"
            " foreign keys:",
            draft.drops(),
        )
    if together:
        draft.also = connected
        draft.size += sum(state.details.sizes.get(name, 0) for name in connected)
    draft.statements.insert(0, _undistribute_statement(table, together))
    if draft.verb == "convert":
        draft.statements.append(_create_statement(entry, table, state))
    if table.state != "local":
        draft.notes.append("the rows are first copied to the coordinator")


def _draft_local(draft: _Draft, desired: Sequence[Desired]) -> None:
    """A local table managed by Citus; plain tables that foreign keys connect with it become such tables too."""
    state = draft.state
    draft.also = state.details.connected_plain.get(draft.table.oid, ())
    named = {str(state.tables[item.name]) for item in desired if item.kind == "table" and item.name in state.tables}
    others = [name for name in draft.also if name not in named]
    if others and not draft.entry.cascade:
        draft.refuse(
            f"foreign keys connect it with {', '.join(others)}; Citus adds it only together with them.",
            "Set cascade: true, put them into the list, or drop the foreign keys:",
            draft.drops(),
        )
    draft.statements.append(_create_statement(draft.entry, draft.table, state))


def _locks(entry: Desired, keys: Sequence[Key], shards: int, nodes: int, partitions: int) -> int:
    """Rough number of locks that one node holds for the table until the transaction ends.

    Measured on Citus 14.0: 104 for a table with a primary key and 16 shards on the node; this says 120.
    """
    tables = 1 + partitions
    relations = 2 + len(keys)
    if entry.state != "distributed":
        return 8 * relations * tables
    return tables * relations * (2 * -(-shards // nodes) + 8)
