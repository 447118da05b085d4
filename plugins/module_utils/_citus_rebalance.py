# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving shards between nodes with Citus' background jobs.

A job belongs to the server: it goes on when the session that started it is cut, and whoever comes
next finds it in ``citus_rebalance_status()``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session, pgsql
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    InvalidInput,
    Refused,
    ServerError,
    TimedOut,
)

ACTIVE_STATES = frozenset({"scheduled", "running", "cancelling", "failing"})
FAILED_STATES = frozenset({"failed", "cancelled"})
POLL_SECONDS = 1.0

Log = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """The newest rebalance job as ``citus_rebalance_status(raw => true)`` tells it."""

    job_id: int
    state: str
    started_at: datetime | None = None
    finished_at: datetime | None = None
    seen_at: datetime | None = None
    tasks: Mapping[str, int] = field(default_factory=dict)
    running: tuple[Mapping[str, Any], ...] = ()

    @property
    def is_active(self) -> bool:
        """Whether the server is still at it."""
        return self.state in ACTIVE_STATES

    @property
    def done(self) -> int:
        """Finished tasks; one task moves one group of colocated shards."""
        return self.tasks.get("done", 0)

    @property
    def total(self) -> int:
        """All tasks of the job."""
        return sum(self.tasks.values())

    @property
    def problems(self) -> list[str]:
        """What the server said of tasks that failed or are tried again."""
        return [
            f"task {task['task_id']} ({task['command']}): {' '.join(str(task['message']).split())}"
            for task in self.running
            if task.get("message")
        ]


def observe_job(session: Session) -> Job | None:
    """The newest rebalance job, or None when there never was one."""
    rows = session.query(
        "SELECT job_id, state::text, started_at, finished_at, clock_timestamp() AS seen_at, details"
        " FROM citus_rebalance_status(true)"
    )
    if not rows:
        return None
    row = rows[0]
    details = row["details"] or {}
    return Job(
        job_id=row["job_id"],
        state=row["state"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        seen_at=row["seen_at"],
        tasks=details.get("task_state_counts") or {},
        running=tuple(details.get("tasks") or ()),
    )


def describe_job(job: Job) -> str:
    """Progress in one line, for the log and for time-outs."""
    phases = [
        f"{task['hosts']['source']} -> {task['hosts']['target']} {task.get('phase') or ''}".rstrip()
        for task in job.running
        if task.get("hosts") and task["hosts"].get("source")
    ]
    text = f"rebalance job {job.job_id} is {job.state}, {job.done} of {job.total} moves done"
    return f"{text} ({'; '.join(phases)})" if phases else text


def wait_for_job(session: Session, deadline: float, log: Log) -> Job | None:
    """Wait until no rebalance runs; every change is logged. ``deadline`` is on the monotonic clock.

    :raises TimedOut: the job goes on in the server; the message says how far it is.
    """
    said = ""
    while True:
        job = observe_job(session)
        if job is None or not job.is_active:
            return job
        now = describe_job(job)
        if now != said:
            log(now)
            said = now
        if time.monotonic() >= deadline:
            raise TimedOut(
                f"After the time allowed, {now}. {' '.join(job.problems)}".strip(),
                "The job goes on in the server; run the task again to wait for the rest.",
                progress=full_progress(job, ()),
            )
        time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))


def progress(job: Job) -> dict[str, Any]:
    """How far a job is, as the modules return it."""
    total = job.total
    return {
        "job_id": job.job_id,
        "state": job.state,
        "moves_done": job.done,
        "moves_total": total,
        "percent": round(100 * job.done / total) if total else 100,
        "problems": job.problems,
    }


def start_drain(session: Session, mode: str) -> None:
    """Start the background job that empties all nodes that should not have shards."""
    session.execute("SELECT citus_rebalance_start(drain_only := true, shard_transfer_mode := %s)", (mode,))


def drain(session: Session, remaining: Callable[[], int], mode: str, timeout: float, log: Log) -> None:
    """Move shards off all nodes that should not have any, until ``remaining`` says zero.

    A job that already runs, such as that of an interrupted call, is waited for first.

    :raises TimedOut: the job goes on in the server.
    :raises ServerError: a move failed for good.
    :raises Refused: Citus plans no move although shards are left.
    """
    deadline = time.monotonic() + timeout
    started = False
    while True:
        job = wait_for_job(session, deadline, log)
        left = remaining()
        if not left:
            break
        if started:
            if job is not None and job.state in FAILED_STATES:
                raise ServerError(
                    f"Rebalance job {job.job_id} on {session.where} {job.state} with {left} shards left:"
                    f" {'; '.join(job.problems) or 'the server gives no reason'}.",
                    "Mend the cause and run the task again: what has been moved stays moved.",
                    progress=full_progress(job, ()),
                )
            raise Refused(
                f"Citus on {session.where} plans no move although {left} shards are left on the node.",
                "Look at SELECT * FROM get_rebalance_table_shards_plan(drain_only := true).",
            )
        log(f"moving {left} shards away")
        start_drain(session, mode)
        started = True
    clean_up(session)


def clean_up(session: Session) -> None:
    """Drop what moves have left behind, now rather than when the server gets to it.

    Citus drops the source of a move later (``citus.defer_shard_delete_interval``), and keeps what an
    interrupted move has made until then.
    """
    session.execute("CALL citus_cleanup_orphaned_resources()")


# ---- plan --------------------------------------------------------------------------------------


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


# ---- start and stop ----------------------------------------------------------------------------

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


# ---- parallelism -------------------------------------------------------------------------------

TOTAL = "citus.max_background_task_executors"
PER_NODE = "citus.max_background_task_executors_per_node"
LIMITS = {TOTAL: 1000, PER_NODE: 128}
RECORD = "citus_ha.rebalance_settings"
"""A setting of the database that remembers what a run has raised, so that a later call can put it back."""


def observe_executors(session: Session) -> dict[str, int]:
    """Current values of the two settings."""
    rows = session.query("SELECT name, setting::int FROM pg_settings WHERE name IN (%s, %s)", (TOTAL, PER_NODE))
    return {row["name"]: row["setting"] for row in rows}


def plan_executors(current: Mapping[str, int], parallelism: int | None, nodes: int) -> dict[str, int]:
    """Settings to raise so that each of ``nodes`` takes part in ``parallelism`` moves; never lowers one.

    >>> plan_executors({TOTAL: 1, PER_NODE: 1}, 4, 3)
    {'citus.max_background_task_executors': 12, 'citus.max_background_task_executors_per_node': 4}
    >>> plan_executors({TOTAL: 20, PER_NODE: 4}, 2, 3)
    {}
    """
    if parallelism is None:
        return {}
    wanted = {TOTAL: min(parallelism * max(nodes, 1), LIMITS[TOTAL]), PER_NODE: min(parallelism, LIMITS[PER_NODE])}
    return {name: value for name, value in wanted.items() if name in current and value > current[name]}


def observe_record(session: Session) -> dict[str, str | None] | None:
    """What a run has noted: the values in postgresql.auto.conf before it, None for a setting not there."""
    text = session.value(
        "SELECT substr(entry, length(%(record)s) + 2) FROM pg_db_role_setting, unnest(setconfig) AS entry"
        " WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) AND setrole = 0"
        " AND starts_with(entry, %(record)s || '=')",
        {"record": RECORD},
    )
    return None if not text else {str(name): value for name, value in json.loads(text).items()}


def raise_executors(session: Session, values: Mapping[str, int]) -> None:
    """Raise the settings for a run, after noting what they were."""
    if not values:
        return
    if observe_record(session) is None:
        rows = session.query(
            "SELECT name, setting FROM pg_file_settings WHERE name = ANY (%s)"
            " AND sourcefile = current_setting('data_directory') || '/postgresql.auto.conf'",
            (list(values),),
        )
        before = {**dict.fromkeys(values), **{row["name"]: row["setting"] for row in rows}}
        session.execute(
            pgsql.SQL("ALTER DATABASE {} SET {} = {}").format(
                pgsql.Identifier(session.value("SELECT current_database()")),
                _setting(RECORD),
                pgsql.Literal(json.dumps(before)),
            )
        )
    for name, value in values.items():
        session.execute(pgsql.SQL("ALTER SYSTEM SET {} = {}").format(_setting(name), pgsql.Literal(value)))
    session.execute("SELECT pg_reload_conf()")


def restore_executors(session: Session) -> bool:
    """Put back what :func:`raise_executors` has noted; False when there is no note."""
    before = observe_record(session)
    if before is None:
        return False
    for name, value in before.items():
        if name not in LIMITS:
            continue
        if value is None:
            session.execute(pgsql.SQL("ALTER SYSTEM RESET {}").format(_setting(name)))
        else:
            session.execute(pgsql.SQL("ALTER SYSTEM SET {} = {}").format(_setting(name), pgsql.Literal(value)))
    session.execute("SELECT pg_reload_conf()")
    session.execute(
        pgsql.SQL("ALTER DATABASE {} RESET {}").format(
            pgsql.Identifier(session.value("SELECT current_database()")), _setting(RECORD)
        )
    )
    return True


def _setting(name: str) -> Any:
    """A setting's name as SQL: two identifiers and a dot."""
    return pgsql.SQL(".").join(pgsql.Identifier(part) for part in name.split("."))


# ---- progress ----------------------------------------------------------------------------------


def full_progress(job: Job | None, remaining: Sequence[Move]) -> dict[str, Any]:
    """:func:`progress` with time, bytes that are left, and the moves at work; for a person who waits."""
    if job is None:
        job = Job(0, "none")
    seconds, done, total = elapsed(job), job.done, job.total
    seconds_left: int | None = 0
    if job.is_active:
        seconds_left = round(seconds * (total - done) / done) if done and seconds is not None else None
    current = [
        {
            "source": task["hosts"]["source"],
            "target": task["hosts"]["target"],
            "phase": task.get("phase"),
            "bytes": (task.get("size") or {}).get("source"),
            "bytes_copied": (task.get("size") or {}).get("target"),
        }
        for task in job.running
        if (task.get("hosts") or {}).get("source")
    ]
    return {
        **progress(job),
        "job_id": job.job_id or None,
        "bytes_left": sum(move.bytes for move in remaining) if job.is_active else 0,
        "seconds": seconds,
        "seconds_left": seconds_left,
        "current": current,
    }


def elapsed(job: Job) -> int | None:
    """Whole seconds that a job took, or has taken when it was looked at; None before it has begun."""
    end = job.finished_at or job.seen_at
    if job.started_at is None or end is None:
        return None
    return max(0, round((end - job.started_at).total_seconds()))


def failure(reached: Mapping[str, Any], where: str) -> str:
    """Why a job has not finished, from what :func:`full_progress` tells; empty when it has not failed."""
    if reached["state"] not in FAILED_STATES:
        return ""
    reason = "; ".join(reached["problems"]) or "the server gives no reason, somebody may have stopped it"
    return (
        f"Rebalance job {reached['job_id']} on {where} {reached['state']} after {reached['moves_done']} of"
        f" {reached['moves_total']} moves: {reason}. Mend the cause and run the task again: what has been moved stays"
        " moved."
    )


def line(reached: Mapping[str, Any]) -> str:
    """Progress in one line for a person who waits."""
    parts = [
        f"rebalance job {reached['job_id']}: {reached['percent']} %"
        f" ({reached['moves_done']} of {reached['moves_total']} moves)"
    ]
    if reached.get("bytes_left"):
        parts.append(f"{human(reached['bytes_left'])} left")
    if reached.get("seconds") is not None:
        parts.append(f"{reached['seconds']} s so far")
    if reached.get("seconds_left"):
        parts.append(f"about {reached['seconds_left']} s to go")
    parts += [
        f"{move['source']} -> {move['target']} {move['phase'] or ''}".rstrip() for move in reached.get("current", [])
    ]
    parts += reached.get("problems", [])
    return ", ".join(parts)


def human(size: int) -> str:
    """A number of bytes with a unit.

    >>> human(100), human(737280), human(3 * 1024**3)
    ('100 B', '720.0 KiB', '3.0 GiB')
    """
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} PiB"
