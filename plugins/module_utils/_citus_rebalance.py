# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rebalancing with Citus' background jobs: what would move, and starting and stopping the job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput


@dataclass(frozen=True)
class Move:
    """One shard that changes its node. Colocated shards move together and are one task of a job."""

    table: str
    shard_id: int
    bytes: int
    source: str
    target: str


@dataclass(frozen=True)
class Request:
    """How to rebalance. None leaves a choice to the server."""

    strategy: str | None = None
    threshold: float | None = None
    drain_only: bool = False
    shard_transfer_mode: str = "auto"
    parallel_transfer_colocated_shards: bool = False
    parallel_transfer_reference_tables: bool = False


_MOVES = """
WITH move AS MATERIALIZED (
  SELECT row_number() OVER () AS number, m.* FROM get_rebalance_table_shards_plan(
    threshold := %(threshold)s::real, drain_only := %(drain_only)s, rebalance_strategy := %(strategy)s::name) m),
size AS MATERIALIZED (
  SELECT shard_id::bigint AS shardid, max(size) AS bytes FROM citus_shard_sizes()
   WHERE EXISTS (SELECT FROM move) GROUP BY 1)
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS table, m.shardid AS shard_id,
       coalesce(z.bytes, 0)::bigint AS bytes, m.sourcename || ':' || m.sourceport AS source,
       m.targetname || ':' || m.targetport AS target
  FROM move m JOIN pg_class c ON c.oid = m.table_name JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN size z USING (shardid) ORDER BY m.number
"""


def observe_strategies(session: Session) -> dict[str, bool]:
    """Names of the server's strategies; True for its default."""
    rows = session.query("SELECT name::text, default_strategy FROM pg_dist_rebalance_strategy ORDER BY name")
    return {row["name"]: row["default_strategy"] for row in rows}


def check_strategy(request: Request, strategies: Mapping[str, bool]) -> None:
    """Refuse a strategy that the server does not have.

    :raises InvalidInput: naming those it has.
    """
    if request.strategy is not None and request.strategy not in strategies:
        raise InvalidInput(
            f"There is no rebalance strategy {request.strategy!r}. The server has: {', '.join(strategies)}.",
            "Choose one of them, or add it with citus_add_rebalance_strategy().",
        )


def plan_moves(session: Session, request: Request) -> tuple[Move, ...]:
    """What Citus would move for ``request`` now; nothing is changed."""
    values = {"threshold": request.threshold, "drain_only": request.drain_only, "strategy": request.strategy}
    return tuple(Move(**row) for row in session.query(_MOVES, values))


def observe_loads(session: Session) -> dict[str, tuple[int, int]]:
    """Shards of distributed tables and their bytes, by address of every active primary."""
    rows = session.query(
        "WITH size AS MATERIALIZED (SELECT shard_id::bigint AS shardid, max(size) AS bytes"
        " FROM citus_shard_sizes() GROUP BY 1),"
        " load AS (SELECT p.groupid, count(*) AS shards, coalesce(sum(z.bytes), 0)::bigint AS bytes"
        " FROM pg_dist_placement p JOIN pg_dist_shard s USING (shardid) JOIN pg_dist_partition t USING (logicalrelid)"
        " LEFT JOIN size z USING (shardid)"
        " WHERE p.shardstate = 1 AND t.repmodel <> 't' AND NOT (t.partmethod = 'n' AND t.colocationid = 0)"
        " GROUP BY 1)"
        " SELECT n.nodename || ':' || n.nodeport AS node, coalesce(shards, 0) AS shards, coalesce(bytes, 0) AS bytes"
        " FROM pg_dist_node n LEFT JOIN load USING (groupid)"
        " WHERE n.noderole = 'primary' AND n.isactive ORDER BY n.groupid"
    )
    return {row["node"]: (row["shards"], row["bytes"]) for row in rows}


def predict_loads(loads: Mapping[str, tuple[int, int]], moves: Iterable[Move]) -> dict[str, tuple[int, int]]:
    """What ``moves`` make of :func:`observe_loads`."""
    after = dict(loads)
    for move in moves:
        for node, sign in ((move.source, -1), (move.target, 1)):
            shards, size = after.get(node, (0, 0))
            after[node] = (shards + sign, size + sign * move.bytes)
    return after


def loads_as_text(loads: Mapping[str, tuple[int, int]]) -> str:
    """One line a node, for the diff."""
    return "".join(f"{node}: {shards} shards, {size} bytes\n" for node, (shards, size) in loads.items())


RUN_STRATEGY = "citus_ha_run"
"""A strategy with the asked threshold, which no other session ever sees: it is gone before the commit."""


def start(session: Session, request: Request, newer: bool) -> int | None:
    """Start the background job for ``request``; None when Citus finds nothing to move.

    ``citus_rebalance_start()`` takes no threshold, only a strategy that has one. ``newer`` says
    whether the server knows the options for parallel transfers (Citus 13.2).
    """
    arguments: dict[str, Any] = {
        "strategy": request.strategy,
        "drain_only": request.drain_only,
        "mode": request.shard_transfer_mode,
    }
    call = "SELECT citus_rebalance_start(%(strategy)s::name, %(drain_only)s, %(mode)s"
    if newer:
        call += ", %(reference)s, %(colocated)s"
        arguments["reference"] = request.parallel_transfer_reference_tables
        arguments["colocated"] = request.parallel_transfer_colocated_shards
    call += ") AS job_id"
    if request.threshold is None:
        session.executed.append(call)
        return _number(session.value(call, arguments))
    with session.transaction():
        session.execute(
            "INSERT INTO pg_dist_rebalance_strategy (name, shard_cost_function, node_capacity_function,"
            " shard_allowed_on_node_function, default_threshold, minimum_threshold, improvement_threshold)"
            " SELECT %(new)s, shard_cost_function, node_capacity_function, shard_allowed_on_node_function,"
            " %(threshold)s, minimum_threshold, improvement_threshold FROM pg_dist_rebalance_strategy"
            " WHERE CASE WHEN %(strategy)s::name IS NULL THEN default_strategy ELSE name = %(strategy)s END",
            {"new": RUN_STRATEGY, "threshold": request.threshold, "strategy": request.strategy},
        )
        session.executed.append(call)
        job_id = _number(session.value(call, {**arguments, "strategy": RUN_STRATEGY}))
        session.execute("DELETE FROM pg_dist_rebalance_strategy WHERE name = %s", (RUN_STRATEGY,))
    return job_id


def _number(value: Any) -> int | None:
    return int(value) if value else None


def stop(session: Session) -> None:
    """Ask the running job to end; moves that are done stay done."""
    session.execute("SELECT citus_rebalance_stop()")


def left_behind(session: Session) -> int:
    """Objects that moves have left behind and that are still to be dropped."""
    return int(session.value("SELECT count(*) FROM pg_dist_cleanup"))


def clean_up(session: Session) -> None:
    """Drop what moves have left behind, now rather than when the server gets to it.

    Citus drops the source of a move later (``citus.defer_shard_delete_interval``), and keeps what an
    interrupted move has made until then.
    """
    session.execute("CALL citus_cleanup_orphaned_resources()")
