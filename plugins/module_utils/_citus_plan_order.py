# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order in which tables are distributed, and the foreign keys that are in its way. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_details import ForeignKey
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_distribute import (
    Action,
    Desired,
    Finding,
    State,
    target_of,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_preflight_colocation import (
    add_foreign_key,
    drop_foreign_key,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._names import display


@dataclass(frozen=True)
class Order:
    """Entries so that what others need comes first, and the foreign keys that have to be lifted meanwhile."""

    entries: list[Desired]
    lifted: list[ForeignKey]
    findings: list[Finding]


def order_of(entries: Sequence[Desired], state: State) -> Order:
    """Reference tables first, then referenced tables and colocation targets before those that need them.

    Two cases have no such order. Foreign keys in a circle; and tables that Citus manages as local
    tables because of a reference table, or will as soon as that one is made: a local table may not
    have a foreign key with a distributed one, so whichever is distributed first is refused. There the
    foreign key is dropped first and added again last, in the same transaction.
    """
    by_oid = {state.tables[entry.name].oid: entry for entry in entries if entry.kind == "table"}
    names = {oid: str(state.tables[entry.name]) for oid, entry in by_oid.items()}
    becoming_reference = {names[oid] for oid, entry in by_oid.items() if entry.state == "reference"}
    needs: dict[int, set[int]] = {oid: set() for oid in by_oid}
    keys: dict[tuple[int, int], list[ForeignKey]] = {}
    lifted: list[ForeignKey] = []
    for key in state.details.foreign_keys:
        source, target = key.source.oid, key.target.oid
        if source not in needs or target not in needs or source == target:
            continue
        both = by_oid[source].state == by_oid[target].state == "distributed"
        linked = {*state.details.connected.get(source, ()), *state.details.connected.get(target, ())}
        if both and ("local" in (key.source.state, key.target.state) or becoming_reference & linked):
            lifted.append(key)
            continue
        needs[source].add(target)
        keys.setdefault((source, target), []).append(key)
    for oid, entry in by_oid.items():
        target_table = target_of(entry, state)
        if target_table is not None and target_table.oid in needs and target_table.oid != oid:
            needs[oid].add(target_table.oid)
    ordered: list[Desired] = [entry for entry in entries if entry.kind != "table"]
    waiting = sorted(by_oid, key=lambda oid: by_oid[oid].state != "reference")
    done: set[int] = set()
    while waiting:
        ready = [oid for oid in waiting if needs[oid] <= done]
        if not ready:
            circle = _circle(needs, [oid for oid in waiting if oid not in done])
            cut = next((pair for pair in circle if pair in keys and not _colocated_by(pair, by_oid, state)), None)
            if cut is None:
                listed = ", ".join(names[source] for source, _target in circle)
                problem = f"colocate_with leads in a circle: {listed}."
                return Order([], [], [Finding(names[circle[0][0]], problem, "Leave one of them out.")])
            lifted += keys.pop(cut)
            needs[cut[0]].discard(cut[1])
            continue
        ordered += [by_oid[oid] for oid in ready]
        done.update(ready)
        waiting = [oid for oid in waiting if oid not in done]
    return Order(ordered, lifted, [])


def _circle(needs: Mapping[int, set[int]], waiting: Sequence[int]) -> list[tuple[int, int]]:
    """The edges of one circle among tables that all wait for each other."""
    path = [waiting[0]]
    while True:
        following = min(oid for oid in needs[path[-1]] if oid in waiting)
        if following in path:
            path = [*path[path.index(following) :], following]
            return list(zip(path, path[1:]))
        path.append(following)


def _colocated_by(pair: tuple[int, int], by_oid: Mapping[int, Desired], state: State) -> bool:
    target = target_of(by_oid[pair[0]], state)
    return target is not None and target.oid == pair[1]


def with_lifted(actions: Sequence[Action], keys: Sequence[ForeignKey]) -> list[Action]:
    """The plan with foreign keys dropped before their tables change and added again after, in one transaction."""
    if not keys:
        return list(actions)
    keys = list({(key.source.oid, key.name): key for key in keys}.values())
    involved = {str(table) for key in keys for table in (key.source, key.target)}
    last = max(index for index, action in enumerate(actions) if action.object in involved)
    listed = ", ".join(f"{key.source}: {display(key.name)}" for key in keys)
    objects = ", ".join(dict.fromkeys(str(key.source) for key in keys))
    lock = "blocks reads and writes of both tables for a moment (ACCESS EXCLUSIVE), until the transaction ends"
    drop = Action(
        object=objects,
        verb="unlink",
        before=f"foreign keys {listed}",
        after="dropped until the tables are distributed, in the same transaction",
        statements=tuple(drop_foreign_key(key) for key in keys),
        lock=lock,
        joined=True,
    )
    add = Action(
        object=objects,
        verb="link",
        before="without these foreign keys",
        after=f"foreign keys {listed} again",
        statements=tuple(add_foreign_key(key) for key in keys),
        lock=lock,
        sequential=True,
    )
    # What has a transaction of its own would part the keys' in two, and its failure would lose them.
    inside = [replace(action, joined=True) for action in actions[: last + 1] if action.transactional]
    alone = [action for action in actions[: last + 1] if not action.transactional]
    return [drop, *inside, add, *alone, *actions[last + 1 :]]
