# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The newest rebalance job: how far it is, waiting for it, and what is said of it.

A job belongs to the server: it goes on when the session that started it is cut, and whoever comes
next finds it in ``citus_rebalance_status()``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_rebalance import Move
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import TimedOut

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
