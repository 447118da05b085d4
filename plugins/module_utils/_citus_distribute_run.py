# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ``citus_distribute`` at work: read the options, observe, plan, apply, report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils import _lock
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_details import read_details
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_measure import measure
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_server import (
    Server,
    read_citus,
    read_server,
    require_citus,
    require_coordinator,
    require_primary,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_tables import read_schemas, read_tables
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_distribute import (
    Action,
    Desired,
    Plan,
    State,
    changing,
    format_bytes,
    step,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_plan import plan
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_preflight import measures
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session, connect
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    CitusHaError,
    ConnectionFailed,
    InvalidInput,
    Refused,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._names import (
    Name,
    check_identifier,
    display,
    parse_identifier,
    parse_name,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._versions import require

MODULE = "citus_distribute"
STATES = ["distributed", "reference", "schema", "local", "undistributed"]
KINDS = ["table", "schema"]
_FLAGS = ("concurrently", "allow_redistribute", "extend_keys", "cascade", "force")
_OF_DISTRIBUTED = ("column", "colocate_with", "shard_count", "concurrently", "extend_keys")
_INHERITED = ("kind", "state", "column", "colocate_with", "shard_count", *_FLAGS)


def argument_spec() -> dict[str, dict[str, Any]]:
    """The module's own options, as its documentation has them."""
    entry: dict[str, dict[str, Any]] = {
        "kind": {"type": "str", "choices": KINDS},
        "state": {"type": "str", "choices": STATES},
        "column": {"type": "str"},
        "colocate_with": {"type": "str"},
        "shard_count": {"type": "int"},
        **{flag: {"type": "bool"} for flag in _FLAGS},
    }
    defaults: dict[str, Any] = {"kind": "table", "state": "distributed", **dict.fromkeys(_FLAGS, False)}
    return {
        "name": {"type": "str"},
        "tables": {"type": "list", "elements": "dict", "options": {"name": {"type": "str", "required": True}, **entry}},
        **{
            option: {**spec, "default": defaults[option]} if option in defaults else spec
            for option, spec in entry.items()
        },
        "wait_for_other_run": {"type": "int", "default": 60},
    }


# ---- the options ------------------------------------------------------------------------------------


def desired_from(params: Mapping[str, Any]) -> list[Desired]:
    """The entries of the task, each completed with the task's own options.

    :raises InvalidInput: every entry that is wrong, at once.
    """
    raw = [{"name": params["name"]}] if params["name"] is not None else params["tables"]
    entries: list[Desired] = []
    problems: list[str] = []
    for index, item in enumerate(raw):
        where = "name" if params["name"] is not None else f"tables[{index}].name"
        own = params if params["name"] is not None else item
        merged = {option: params[option] if item.get(option) is None else item[option] for option in _INHERITED}
        try:
            entries.append(_entry(where, item["name"], merged))
            _refuse_what_has_no_effect(where, item["name"], merged["state"], own)
        except InvalidInput as error:
            problems.append(str(error))
    seen: dict[tuple[str, Name], int] = {}
    for index, entry in enumerate(entries):
        first = seen.setdefault((entry.kind, entry.name), index)
        if first != index:
            problems.append(f"{entry.name} is in the list twice.")
    if problems:
        raise InvalidInput(" ".join(dict.fromkeys(problems)))
    return entries


def _refuse_what_has_no_effect(where: str, name: str, state: str, own: Mapping[str, Any]) -> None:
    """Options of distributed tables that an entry itself gives for another state.

    :raises InvalidInput: names them; the same options as defaults of the task are fine.
    """
    wrong = [option for option in _OF_DISTRIBUTED if own.get(option)]
    if wrong and state != "distributed":
        raise InvalidInput(
            f"{where}: {name!r}: {', '.join(wrong)} mean nothing for state {state}.",
            "Leave them out, or use state distributed.",
        )


def _entry(where: str, name: str, options: Mapping[str, Any]) -> Desired:
    state, kind = options["state"], options["kind"]
    if state == "schema":
        kind = "schema"
    parsed = Name(None, parse_identifier(name, where)) if kind == "schema" else parse_name(name, where)
    if kind == "schema" and state not in ("schema", "undistributed"):
        raise InvalidInput(f"{where}: {name!r}: a schema has no state {state}.", "Use state schema or undistributed.")
    if state != "distributed":
        # What concerns distributed tables only may come from the task's defaults for other entries.
        return Desired(
            parsed, state, kind, **{flag: options[flag] for flag in ("allow_redistribute", "cascade", "force")}
        )
    if options["column"] is None:
        raise InvalidInput(
            f"{where}: {name!r}: state distributed needs a column.",
            "Add column: the column whose hash decides the shard, such as the tenant's or the user's id.",
        )
    colocate: Name | str | None = options["colocate_with"]
    if colocate not in (None, "none", "default"):
        colocate = parse_name(str(colocate), where.replace("name", "colocate_with"))
    return Desired(
        parsed,
        state,
        kind,
        column=check_identifier(options["column"], where.replace("name", "column")),
        colocate_with=colocate,
        shard_count=options["shard_count"],
        **{flag: options[flag] for flag in _FLAGS},
    )


# ---- observe ----------------------------------------------------------------------------------------


def observe(session: Session, desired: Sequence[Desired]) -> State:
    """What is there: three or four queries, and up to nine more when something is to change.

    :raises Refused: a database, a server or a node that this is not done on.
    :raises InvalidInput: an option that the server is too old for; one table under two names.
    """
    server = read_server(session)
    require_primary(server)
    require_citus(server)
    require(MODULE, [used for entry in desired for used in entry.options()], server.citus or (0, 0), server.postgresql)
    server = read_citus(session, server)
    require_coordinator(server)
    tables = [entry for entry in desired if entry.kind == "table"]
    names = [entry.name for entry in tables]
    names += [entry.colocate_with for entry in tables if isinstance(entry.colocate_with, Name)]
    state = State(
        server=server,
        tables=read_tables(session, server, list(dict.fromkeys(names))),
        schemas=read_schemas(session, [entry.name.table for entry in desired if entry.kind == "schema"]),
    )
    _refuse_aliases(tables, state)
    changed = changing(desired, state)
    if not changed:
        return state
    steps = {step(entry, state) for entry in tables}
    targets = [state.tables[name] for name in names if name in state.tables]
    details = read_details(
        session,
        server,
        list({table.oid: table for table in [*changed, *targets]}.values()),
        want_free=bool(steps & {"undistribute", "convert"}),
        want_connected=bool(steps & {"undistribute", "convert"})
        or bool({entry.state for entry in tables} & {"local", "reference"}),
    )
    state = replace(state, details=details)
    return replace(state, details=measure(session, server, details, measures(desired, state)))


def _refuse_aliases(entries: Iterable[Desired], state: State) -> None:
    seen: dict[int, Desired] = {}
    for entry in entries:
        table = state.tables.get(entry.name)
        if table is None:
            continue
        first = seen.setdefault(table.oid, entry)
        if first is not entry:
            raise InvalidInput(
                f"{first.name} and {entry.name} are the same table, {table}.", "Name it once, with its schema."
            )


# ---- apply ------------------------------------------------------------------------------------------


def batches(actions: Sequence[Action], server: Server) -> list[list[Action]]:
    """The actions in order, grouped by the transaction they share.

    One transaction when Citus allows it and the server's lock table holds it: a node has room for
    ``max_locks_per_transaction * (max_connections + max_prepared_transactions)`` locks, and this takes
    no more than half of it.
    """
    slots = int(server.setting("max_connections", "100")) + int(server.setting("max_prepared_transactions", "0"))
    room = int(server.setting("max_locks_per_transaction", "64")) * slots // 2
    grouped: list[list[Action]] = []
    used = 0
    for action in actions:
        last = grouped[-1][-1] if grouped else None
        apart = last is None or not (action.transactional and last.transactional)
        if last is None or apart or (used + action.locks > room and not last.joined):
            grouped.append([])
            used = 0
        grouped[-1].append(action)
        used += action.locks
    return grouped


def apply(session: Session, grouped: Sequence[Sequence[Action]]) -> list[str]:
    """Run the plan; return the statements that took effect.

    :raises CitusHaError: with the tables that are finished and those that are not.
    """
    finished: list[str] = []
    queries: list[str] = []
    every = [action.object for batch in grouped for action in batch]
    for batch in grouped:
        together = batch[0].transactional
        current: tuple[Action, str] = (batch[0], "BEGIN")
        sent: list[str] = []
        try:
            with session.transaction() if together else nullcontext():
                if together and _one_connection(batch):
                    session.query("SELECT set_config('citus.multi_shard_modify_mode', 'sequential', true)")
                for action in batch:
                    for statement in action.statements:
                        current = (action, str(statement))
                        session.execute(statement.composed(), statement.values or None)
                        sent.append(str(statement))
        except CitusHaError as error:
            rest = [name for name in every if name not in finished]
            raise _failed(error, session.where, current, together, finished, rest, queries) from error
        finished += [action.object for action in batch]
        queries += sent
    return queries


def _one_connection(batch: Sequence[Action]) -> bool:
    """Whether Citus should use one connection per node: where it must, and where there are no rows to copy.

    Making empty shards takes less time than opening connections to make them in parallel.
    """
    return any(action.sequential for action in batch) or all(action.rows == 0 for action in batch)


def _failed(
    error: CitusHaError,
    where: str,
    current: tuple[Action, str],
    together: bool,
    finished: list[str],
    rest: list[str],
    queries: list[str],
) -> CitusHaError:
    """The same error, with what it means for the tables of the task."""
    action, statement = current
    lost = isinstance(error, ConnectionFailed)
    parts = [f"{action.object}: {error.message}"]
    if "server_message" in error.details:
        parts = [f"{action.object}: {where} rejected: {statement} The server said: {error.details['server_message']}"]
    if not together:
        parts.append("Citus does this outside a transaction: the table may be left as a local table managed by Citus.")
    elif lost:
        parts.append("What the broken transaction did is undone, unless the connection broke during its COMMIT.")
    else:
        parts.append("Its transaction was rolled back.")
    if finished:
        parts.append(f"Finished before: {_some(finished)}.")
    parts.append(f"Not done: {_some(rest)}.")
    return type(error)(
        " ".join(parts),
        error.remedy or "Mend the cause and run the task again: it does what is left.",
        **{**error.details, "query": statement, "finished": finished, "not_done": rest, "queries": queries},
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} others" if len(names) > 20 else "")


# ---- report -----------------------------------------------------------------------------------------


def refuse(found: Plan, where: str) -> None:
    """Fail with all findings, if there are any.

    :raises Refused: the message lists them; ``findings`` has them as data.
    """
    if not found.findings:
        return
    listed = "\n".join(f"{number}. {finding}" for number, finding in enumerate(found.findings, 1))
    count = len(found.findings)
    raise Refused(
        f"{where}: {count} {'thing stands' if count == 1 else 'things stand'} in the way; nothing was changed."
        f"\n{listed}",
        findings=[finding.as_dict() for finding in found.findings],
        plan=[action.as_dict() for action in found.actions],
        queries=[],
    )


def diff(actions: Sequence[Action]) -> dict[str, str]:
    """A plan that a person can approve."""
    before = []
    after = []
    for action in actions:
        size = format_bytes(action.bytes)
        cost = f"{action.rows} rows, {size}" if action.rows is not None else size
        before.append(f"{action.object}: {action.before}")
        after.append(f"{action.object}: {action.after}")
        after += [f"    {statement}" for statement in action.statements]
        after.append(f"    copies {cost}; {action.lock}")
        after += [f"    {note}" for note in action.notes]
        after += [f"    also changes {', '.join(action.also)}"] if action.also else []
    return {
        "before_header": "tables as they are",
        "after_header": "tables as planned",
        "before": "".join(f"{line}\n" for line in before),
        "after": "".join(f"{line}\n" for line in after),
    }


def objects(desired: Sequence[Desired], state: State, predicted: bool) -> list[dict[str, Any]]:
    """The named tables and schemas as they are, or as they would be."""
    found = []
    for entry in desired:
        change = step(entry, state) if predicted else None
        if entry.kind == "schema":
            distributed = state.schemas[entry.name.table].distributed
            is_schema = entry.state == "schema" if change else distributed
            row: dict[str, Any] = {
                "name": display(entry.name.table),
                "state": "schema" if is_schema else "undistributed",
                "column": None,
                "shard_count": None,
                "colocation_id": None,
            }
        else:
            table = state.tables[entry.name]
            row = {
                "name": str(table),
                "state": {"plain": "undistributed"}.get(table.state, table.state),
                "column": table.column,
                "shard_count": table.shard_count,
                "colocation_id": table.colocation_id,
            }
            if change:
                row.update(_predicted(entry, state))
        found.append({**row, "kind": entry.kind})
    return found


def _predicted(entry: Desired, state: State) -> dict[str, Any]:
    table = state.tables[entry.name]
    shards = None
    colocation = None
    if entry.state == "distributed":
        shards = entry.shard_count or table.shard_count or int(state.server.setting("citus.shard_count", "32"))
        if isinstance(entry.colocate_with, Name) and entry.colocate_with in state.tables:
            target = state.tables[entry.colocate_with]
            shards, colocation = target.shard_count or shards, target.colocation_id
    return {
        "state": entry.state,
        "column": entry.column if entry.state == "distributed" else None,
        "shard_count": shards,
        "colocation_id": colocation,
    }


def work(module: AnsibleModule) -> dict[str, Any]:
    """The whole module; the runner turns what it raises into a failure."""
    desired = desired_from(module.params)
    session = connect(module.params)
    try:
        if module.check_mode:
            return _work(module, session, desired)
        if not desired:
            return {"changed": False, "tables": [], "plan": [], "transactions": 0, "queries": []}
        with _lock.exclusive(session, module.params["wait_for_other_run"]):
            return _work(module, session, desired)
    finally:
        session.close()


def _work(module: AnsibleModule, session: Session, desired: Sequence[Desired]) -> dict[str, Any]:
    state = observe(session, desired)
    found = plan(desired, state)
    refuse(found, session.where)
    for warning in found.warnings:
        module.warn(warning)
    grouped = batches(found.actions, state.server)
    queries: list[str] = []
    predicted = module.check_mode
    if found.actions and not module.check_mode:
        queries = apply(session, grouped)
        state = observe(session, desired)
    result: dict[str, Any] = {
        "changed": bool(found.actions),
        "tables": objects(desired, state, predicted),
        "plan": [action.as_dict() for action in found.actions],
        "transactions": len(grouped),
        "queries": queries,
    }
    if module._diff and found.actions:
        result["diff"] = diff(found.actions)
    return result


__all__ = ["argument_spec", "batches", "desired_from", "diff", "observe", "work"]
