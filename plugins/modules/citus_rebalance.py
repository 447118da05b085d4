#!/usr/bin/python
# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving shards until a Citus cluster is balanced."""

from __future__ import annotations

DOCUMENTATION = r"""
module: citus_rebalance
short_description: Plans, starts, watches and stops the rebalancing of a Citus cluster
version_added: 0.1.0
description:
  - Moves shards between nodes until they are spread as the strategy wants, with Citus' background rebalancer
    (U(https://docs.citusdata.com/en/stable/develop/api_udf.html#citus-rebalance-start)).
  - The moves are a job of the server. It goes on when the task, the connection or the controller ends; run again, the
    module finds the job and waits for it instead of starting another. What has been moved stays moved.
  - Check mode returns every move that would be made, with its size, and changes nothing.
  - While it waits, the task prints a line of progress every O(progress_interval) seconds. That is done by an action
    plugin on the controller, which calls the module again and again; a module alone cannot print while it runs.
  - Runs against the primary of the coordinator, in the database that has the extension (O(login_db)).
  - Needs the owner of all distributed tables; O(threshold) and O(parallelism) need a superuser.
options:
  state:
    description:
      - V(started) starts the job when there is something to move, and returns at once.
      - V(waited) starts nothing and waits until no job runs.
      - V(finished) is V(started) and then V(waited).
      - V(stopped) cancels the job, waits until it has ended, and cleans up. V(started) or V(finished) resumes later.
    type: str
    choices: [started, waited, finished, stopped]
    default: finished
  strategy:
    description:
      - V(by_disk_size), V(by_shard_count), or one that was added with C(citus_add_rebalance_strategy()).
      - Left out, the server's default is used, which is V(by_disk_size) since Citus 11.0.
    type: str
  threshold:
    description:
      - How far a node may be from the average before shards are moved, from V(0.0) to V(1.0). V(0.1) means 10 %.
      - Left out, it is the strategy's.
    type: float
  drain_only:
    description: Only move shards away from nodes that should not have any (C(should_have_shards=false)).
    type: bool
    default: false
  shard_transfer_mode:
    description:
      - V(auto) and V(force_logical) go on with reads and writes during a move and use logical replication; V(auto)
        refuses tables without a replica identity, V(force_logical) does not, and their updates fail meanwhile.
      - V(block_writes) blocks writes to the shard that is being moved.
    type: str
    choices: [auto, force_logical, block_writes]
    default: auto
  parallelism:
    description:
      - In how many moves a node may take part at the same time. Raises
        C(citus.max_background_task_executors_per_node) to this and C(citus.max_background_task_executors) to this times
        the number of nodes for the run (C(ALTER SYSTEM)), and puts them back when the job has ended.
      - What they were is noted in the database as C(citus_ha.rebalance_settings), so that after an interruption the
        next call of this module that finds no job running puts them back.
      - Every move needs a background worker on the coordinator (C(max_worker_processes)).
      - Needs Citus 11.3.
    type: int
  parallel_transfer_colocated_shards:
    description: Move shards of the same colocation group at the same time. Needs Citus 13.2.
    type: bool
    default: false
  parallel_transfer_reference_tables:
    description: Copy reference tables to several new nodes at the same time. Needs Citus 13.2.
    type: bool
    default: false
  wait_timeout:
    description:
      - Seconds to wait with O(state=waited), O(state=finished) and O(state=stopped). At its end the task fails and
        says how far it is; the job goes on in the server.
    type: int
    default: 86400
  progress_interval:
    description: Seconds between two lines of progress.
    type: int
    default: 10
  wait_for_other_run:
    description:
      - Seconds to wait for another run of this collection's modules that changes the same database's nodes or tables.
        At its end the task fails and says who holds the lock.
    type: int
    default: 60
extends_documentation_fragment:
  - citus_ha.cluster.connection
  - citus_ha.cluster.attributes
attributes:
  async:
    description: The progress lines need the controller. To leave a job alone, use O(state=started).
    support: none
  action:
    description: An action plugin prints the progress.
    support: full
seealso:
  - module: citus_ha.cluster.citus_node
  - module: citus_ha.cluster.citus_info
author: citus_ha contributors (@citus-ha)
"""

EXAMPLES = r"""
- name: Spread the shards over all nodes and watch it
  citus_ha.cluster.citus_rebalance:
    login_db: app

- name: See what would be moved, with --check or like this
  citus_ha.cluster.citus_rebalance:
    login_db: app
    strategy: by_shard_count
  check_mode: true
  register: plan

- name: Start it with four moves a node at the same time, and do not wait
  citus_ha.cluster.citus_rebalance:
    login_db: app
    state: started
    parallelism: 4

- name: Wait for the one that runs, an hour at the most; the settings are put back
  citus_ha.cluster.citus_rebalance:
    login_db: app
    state: waited
    wait_timeout: 3600
    progress_interval: 60

- name: It disturbs, so stop it
  citus_ha.cluster.citus_rebalance:
    login_db: app
    state: stopped
"""

RETURN = r"""
moves:
  description:
    - Every shard that this task has set in motion (in check mode, would set), in the order in which Citus takes them.
    - Colocated shards move together.
  returned: success
  type: list
  elements: dict
  contains:
    table: {description: Table., type: str, sample: public.events}
    shard_id: {description: Shard., type: int, sample: 102008}
    bytes: {description: Its size., type: int, sample: 73728}
    source: {description: From., type: str, sample: "worker1-1:5432"}
    target: {description: To., type: str, sample: "worker3-1:5432"}
bytes:
  description: Size of all RV(moves) in bytes.
  returned: success
  type: int
  sample: 737280
seconds:
  description: How long the job took or has taken so far; null when there never was a job or it has not begun.
  returned: success
  type: int
  sample: 12
running:
  description: Whether a job runs when the task ends.
  returned: success
  type: bool
  sample: false
timed_out:
  description: Whether the task failed because O(wait_timeout) was over.
  returned: failure
  type: bool
  sample: true
progress:
  description: The newest job.
  returned: success, and when O(wait_timeout) is over
  type: dict
  contains:
    job_id: {description: Its number; null when there never was one., type: int, sample: 3}
    state:
      description: V(none), V(scheduled), V(running), V(finished), V(cancelling), V(cancelled), V(failing) or V(failed).
      type: str
      sample: running
    moves_done: {description: Finished tasks; colocated shards are one task., type: int, sample: 4}
    moves_total: {description: All tasks., type: int, sample: 10}
    percent: {description: Finished tasks in percent., type: int, sample: 40}
    bytes_left: {description: Size of what is still to be moved., type: int, sample: 442368}
    seconds: {description: Time since the job has begun., type: int, sample: 8}
    seconds_left: {description: Estimate from the tasks done so far; null before the first., type: int, sample: 12}
    problems: {description: What the server said of failed tasks., type: list, elements: str, sample: []}
    current:
      description: Moves at work.
      type: list
      elements: dict
      contains:
        source: {description: From., type: str, sample: "worker1-1:5432"}
        target: {description: To., type: str, sample: "worker3-1:5432"}
        phase: {description: Citus' word for the step., type: str, sample: Copying Data}
        bytes: {description: Size of the shards., type: int, sample: 73728}
        bytes_copied: {description: Size of their new copies so far., type: int, sample: 40960}
settings:
  description: Settings that were raised for the run.
  returned: success
  type: dict
  sample: {"citus.max_background_task_executors": 12}
settings_restored:
  description: Whether settings that this or an earlier run has raised were put back.
  returned: success
  type: bool
  sample: false
queries:
  description: Statements that changed something, without their values.
  returned: success
  type: list
  elements: str
"""

import time
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils import _citus_rebalance as rebalance
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_rebalance import Move, Request
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_rebalance_executors import (
    LIMITS,
    PER_NODE,
    observe_executors,
    plan_executors,
    raise_executors,
    restore_executors,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_rebalance_job import (
    Job,
    describe_job,
    elapsed,
    failure,
    full_progress,
    observe_job,
    wait_for_job,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_server import (
    Server,
    observe_server,
    require_coordinator,
    require_superuser,
    require_versions,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import (
    Session,
    connect,
    connection_argument_spec,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput, ServerError, TimedOut
from ansible_collections.citus_ha.cluster.plugins.module_utils._lock import exclusive
from ansible_collections.citus_ha.cluster.plugins.module_utils._runner import run

PARALLEL_TRANSFERS_SINCE = (13, 2)
VERSIONED = ("parallelism", "parallel_transfer_colocated_shards", "parallel_transfer_reference_tables")


class Run:
    """One call of the module."""

    def __init__(self, module: AnsibleModule, session: Session, server: Server) -> None:
        self.module = module
        self.params = module.params
        self.session = session
        self.server = server
        self.request = Request(
            strategy=self.params["strategy"],
            threshold=self.params["threshold"],
            drain_only=self.params["drain_only"],
            shard_transfer_mode=self.params["shard_transfer_mode"],
            parallel_transfer_colocated_shards=self.params["parallel_transfer_colocated_shards"],
            parallel_transfer_reference_tables=self.params["parallel_transfer_reference_tables"],
        )
        self.moves: tuple[Move, ...] = ()
        self.settings: dict[str, int] = {}
        self.restored = False
        self.changed = False
        self.diff: dict[str, str] = {}

    def start(self) -> Job | None:
        """Start a job unless one runs or there is nothing to move; the newest job afterwards."""
        rebalance.check_strategy(self.request, rebalance.observe_strategies(self.session))
        job = observe_job(self.session)
        if job is not None and job.is_active:
            return job
        self.moves = rebalance.plan_moves(self.session, self.request)
        if not self.moves:
            self.tidy()
            return job
        self.changed = True
        before = rebalance.observe_loads(self.session)
        self.diff = {
            "before": rebalance.loads_as_text(before),
            "after": rebalance.loads_as_text(rebalance.predict_loads(before, self.moves)),
        }
        executors = observe_executors(self.session)
        self.settings = plan_executors(executors, self.params["parallelism"], len(before))
        if self.settings or self.request.threshold is not None:
            require_superuser(self.server, "raise the server's settings or choose a threshold of its own")
        if self.module.check_mode:
            return job
        raise_executors(self.session, self.settings)
        newer = self.server.interface >= PARALLEL_TRANSFERS_SINCE
        started = rebalance.start(self.session, self.request, newer)
        self.module.log(f"started rebalance job {started}: {len(self.moves)} shards")
        return observe_job(self.session)

    def wait(self) -> Job | None:
        """Wait until no job runs, and tidy up.

        :raises TimedOut: with the progress.
        :raises ServerError: the job has failed.
        """
        deadline = time.monotonic() + self.params["wait_timeout"]
        try:
            job = wait_for_job(self.session, deadline, self.module.log)
        except TimedOut as error:
            now = observe_job(self.session)
            left = rebalance.plan_moves(self.session, self.request)
            error.details.update(timed_out=True, progress=full_progress(now, left))
            raise
        self.tidy()
        return job

    def tidy(self) -> None:
        """Put settings back and drop what moves have left behind."""
        if self.module.check_mode or not self.server.is_superuser:
            return
        if restore_executors(self.session):
            self.restored = self.changed = True
        if rebalance.left_behind(self.session):
            rebalance.clean_up(self.session)

    def result(self, job: Job | None) -> dict[str, Any]:
        """What the module returns."""
        running = bool(job and job.is_active)
        left = rebalance.plan_moves(self.session, self.request) if running else ()
        result = {
            "changed": self.changed,
            "moves": [asdict(move) for move in self.moves],
            "bytes": sum(move.bytes for move in self.moves),
            "seconds": elapsed(job) if job else None,
            "running": running,
            "progress": full_progress(job, left),
            "settings": self.settings,
            "settings_restored": self.restored,
            "queries": self.session.executed,
        }
        return {**result, "diff": self.diff} if self.diff else result


def conclude(this: Run, job: Job | None, ours: bool) -> dict[str, Any]:
    """The result, unless the job that this task has started or waited for has failed.

    :raises ServerError: with what the server says of the moves that failed.
    """
    result = this.result(job)
    message = failure(result["progress"], this.server.where) if ours else ""
    if message:
        raise ServerError(message, progress=result["progress"], moves=result["moves"])
    return result


def begin(this: Run) -> tuple[Job | None, bool]:
    """Start a job if need be; the newest one, and whether it concerns this task."""
    job = this.start()
    active = bool(job and job.is_active)
    if this.moves and not active:
        this.tidy()
    return job, active or bool(this.moves)


def await_job(this: Run) -> dict[str, Any]:
    """``state: waited``."""
    job = observe_job(this.session)
    ours = bool(job and job.is_active)
    if ours and not this.module.check_mode:
        job = this.wait()
    else:
        this.tidy()
    return conclude(this, job, ours)


def stop(this: Run) -> dict[str, Any]:
    """``state: stopped``."""
    job = observe_job(this.session)
    if job is None or not job.is_active:
        this.tidy()
        return this.result(job)
    this.changed = True
    this.diff = {"before": f"{describe_job(job)}\n", "after": "no rebalance job is running\n"}
    if this.module.check_mode:
        return this.result(job)
    rebalance.stop(this.session)
    return this.result(this.wait())


def work(module: AnsibleModule) -> dict[str, Any]:
    """Connect, and do what the state asks for."""
    params = module.params
    if params["threshold"] is not None and not 0 <= params["threshold"] <= 1:
        raise InvalidInput(f"threshold is {params['threshold']}.", "Give a number from 0.0 to 1.0; 0.1 means 10 %.")
    if params["parallelism"] is not None and not 1 <= params["parallelism"] <= LIMITS[PER_NODE]:
        raise InvalidInput(f"parallelism is {params['parallelism']}.", "Give a number from 1 to 128.")
    if params["progress_interval"] < 1:
        raise InvalidInput(
            f"progress_interval is {params['progress_interval']}.", "Give a number of seconds from 1 up."
        )
    session = connect(params)
    try:
        server = observe_server(session)
        require_coordinator(server)
        require_versions(server, "citus_rebalance", [name for name in VERSIONED if params[name]])
        this = Run(module, session, server)
        if params["state"] == "stopped":
            return stop(this)
        if params["state"] == "waited":
            return await_job(this)
        if module.check_mode:
            return this.result(this.start())
        with exclusive(session, params["wait_for_other_run"]):
            job, ours = begin(this)
        # The lock is not held while the server works: others may look, wait or stop the job meanwhile.
        if params["state"] == "finished" and job is not None and job.is_active:
            job = this.wait()
        return conclude(this, job, ours)
    finally:
        session.close()


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            "state": {"type": "str", "choices": ["started", "waited", "finished", "stopped"], "default": "finished"},
            "strategy": {"type": "str"},
            "threshold": {"type": "float"},
            "drain_only": {"type": "bool", "default": False},
            "shard_transfer_mode": {
                "type": "str",
                "choices": ["auto", "force_logical", "block_writes"],
                "default": "auto",
            },
            "parallelism": {"type": "int"},
            "parallel_transfer_colocated_shards": {"type": "bool", "default": False},
            "parallel_transfer_reference_tables": {"type": "bool", "default": False},
            "wait_timeout": {"type": "int", "default": 86400},
            "progress_interval": {"type": "int", "default": 10},
            "wait_for_other_run": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    run(module, work)


if __name__ == "__main__":
    main()
