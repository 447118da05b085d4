# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what there is to what is wanted: the actions for all entries of ``citus_distribute``.

:func:`plan` is pure. It reports what stands in the way (``_citus_preflight``) all at once, so that a
person need not learn it one error after the other. The order of the actions is made by
``_citus_plan_order``, the action for one table by ``_citus_plan_table``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_tables import Schema
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_distribute import (
    WRITES_BLOCKED,
    Action,
    Desired,
    Finding,
    Plan,
    State,
    Statement,
    step,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_plan_order import order_of, with_lifted
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_plan_table import table_action
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_preflight import missing_problem, space_problems
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_preflight_colocation import (
    Final,
    foreign_key_problem,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._names import display


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
        lock=WRITES_BLOCKED,
        locks=20 * max(schema.tables, 1),
        sequential=True,
    )
    return action, findings


def _against_the_list(table: str, name: str, other: Desired) -> Finding:
    return Finding(
        table,
        f"cascade: true would undistribute {name}, too, which is to be {other.state}.",
        "Leave one of the two out, or want the same of both.",
    )


def plan(desired: Sequence[Desired], state: State) -> Plan:
    """Compare what is wanted with what is there."""
    findings = [found for found in (missing_problem(entry, state) for entry in desired) if found]
    warnings: list[str] = []
    final = Final(desired, state)
    entries = [entry for entry in desired if step(entry, state)]
    order = order_of(entries, state)
    findings += order.findings
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
    whole_groups: set[int | None] = set()
    without_identity: list[str] = []
    returning: list[Action] = []
    listed = {str(state.tables[entry.name]): entry for entry in desired if entry.name in state.tables}
    for entry in order.entries:
        if entry.kind == "schema":
            action, found = _schema_action(entry, state.schemas[entry.name.table])
            findings += found
            if action:
                actions.append(action)
            continue
        table = state.tables[entry.name]
        if str(table) in handled or (step(entry, state) == "alter" and table.colocation_id in whole_groups):
            continue
        action, found, warned = table_action(entry, table, state, final, desired)
        findings += found
        warnings += warned
        actions.append(action)
        if action.to_coordinator and not entry.force:
            returning.append(action)
        if action.verb == "alter" and action.also:
            whole_groups.add(table.colocation_id)
        elif action.verb == "undistribute" or entry.state == "local":
            others = {name: listed[name] for name in action.also if name in listed}
            others = {name: other for name, other in others.items() if other.state != entry.state}
            handled.update(set(action.also) - set(others))
            if action.verb == "undistribute":
                findings += [_against_the_list(str(table), name, other) for name, other in others.items()]
        extra = state.details.extras.get(table.oid)
        if entry.state == "distributed" and extra and not extra.replica_identity:
            without_identity.append(str(table))
    findings += space_problems(returning, state)
    actions = with_lifted(actions, order.lifted)
    seen: set[tuple[str, str]] = set()
    taken_along = {name for action in actions if action.verb == "undistribute" for name in action.also}
    for key in state.details.foreign_keys:
        if {str(key.source), str(key.target)} & taken_along:
            continue
        problem = foreign_key_problem(key, final)
        if problem and (problem.object, key.name) not in seen:
            seen.add((problem.object, key.name))
            findings.append(problem)
    if without_identity:
        warnings.append(
            f"Without primary key and REPLICA IDENTITY: {', '.join(without_identity[:20])}"
            f"{' and others' if len(without_identity) > 20 else ''}. Their shards cannot be moved while they are"
            " written to unless the move says shard_transfer_mode force_logical or block_writes."
        )
    return Plan(tuple(actions), tuple(findings), tuple(warnings))
