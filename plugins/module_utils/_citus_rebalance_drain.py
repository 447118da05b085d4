# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving all shards away from nodes that should not have any."""

from __future__ import annotations

import time
from collections.abc import Callable

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_rebalance import clean_up
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_rebalance_job import (
    FAILED_STATES,
    Log,
    full_progress,
    wait_for_job,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import Refused, ServerError


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
