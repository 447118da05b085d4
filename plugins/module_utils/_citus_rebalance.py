# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving shards between nodes with Citus' background jobs.

A job belongs to the server: it goes on when the session that started it is cut, and whoever comes
next finds it in ``citus_rebalance_status()``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import Refused, ServerError, TimedOut

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
        "SELECT job_id, state::text, started_at, finished_at, details FROM citus_rebalance_status(true)"
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
        line = describe_job(job)
        if line != said:
            log(line)
            said = line
        if time.monotonic() >= deadline:
            raise TimedOut(
                f"After the time allowed, {line}. {' '.join(job.problems)}".strip(),
                "The job goes on in the server; run the task again to wait for the rest.",
                progress=progress(job),
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
                    progress=progress(job),
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
