# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Counts the module executions of a playbook run by host, and the time of each task: for ``make bench-deploy``."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: bench_count
type: aggregate
short_description: Counts module executions by host
description: Writes what it counted as JSON to the file that the environment variable BENCH_COUNT_FILE names.
requirements:
  - enable in configuration
"""

# These run on the controller, in Ansible itself: no process starts on a node.
LOCAL_ACTIONS = {
    "add_host",
    "assert",
    "debug",
    "fail",
    "group_by",
    "import_role",
    "import_tasks",
    "include_role",
    "include_tasks",
    "include_vars",
    "meta",
    "pause",
    "set_fact",
    "set_stats",
    "validate_argument_spec",
}


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "bench_count"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.modules: Counter[str] = Counter()
        self.local: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        self.task = ""
        self.since = time.monotonic()

    def _close_task(self) -> None:
        if self.task:
            self.seconds[self.task] = self.seconds.get(self.task, 0.0) + time.monotonic() - self.since

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._close_task()
        self.task, self.since = task.get_name(), time.monotonic()

    def _count(self, result: Any) -> None:
        action = result.task.action.rpartition(".")[2]
        # A loop runs its module once for each item; skipped ones ran nothing.
        items = result.result.get("results", [result.result])
        ran = sum(1 for item in items if isinstance(item, dict) and not item.get("skipped"))
        (self.local if action in LOCAL_ACTIONS else self.modules)[result.host.name] += ran
        self.changed[result.host.name] += bool(result.result.get("changed"))

    def v2_runner_on_ok(self, result: Any) -> None:
        self._count(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._count(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._close_task()
        report = {
            "modules": self.modules,
            "local": self.local,
            "changed": sum(self.changed.values()),
            "slowest": sorted(self.seconds.items(), key=lambda item: -item[1])[:10],
        }
        Path(os.environ["BENCH_COUNT_FILE"]).write_text(json.dumps(report))
