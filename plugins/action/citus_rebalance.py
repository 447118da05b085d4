# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugin of the module ``citus_rebalance``: prints progress while the task waits.

A module cannot print before it ends, so the wait is cut into calls of ``state: waited`` that end after
``progress_interval`` seconds. The job itself is the server's and does not notice.
"""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.citus_ha.cluster.plugins.module_utils import _citus_rebalance as rebalance

display = Display()

DEFAULTS = {"wait_timeout": 86400, "progress_interval": 10}


class ActionModule(ActionBase):
    """Call the module once, or again and again while a job runs."""

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result, for the whole wait."""
        super().run(tmp, task_vars)
        state = self._task.args.get("state", "finished")
        if self._task.check_mode or state not in ("waited", "finished"):
            return self._call(task_vars)
        try:
            timeout, interval = (int(self._task.args.get(name, DEFAULTS[name])) for name in DEFAULTS)
        except (TypeError, ValueError):
            return self._call(task_vars)  # the module says what is wrong with them
        if interval < 1:
            return self._call(task_vars)
        deadline = time.monotonic() + timeout
        first: dict[str, Any] = {}
        if state == "finished":
            first = self._call(task_vars, state="started")
            if first.get("failed") or not first.get("running"):
                return first
            self._say(task_vars, first["progress"])
        while True:
            left = max(0, round(deadline - time.monotonic()))
            last = self._call(task_vars, state="waited", wait_timeout=min(interval, left))
            if not last.get("timed_out") or left <= interval:
                return merge(first, last)
            self._say(task_vars, last["progress"])

    def _call(self, task_vars: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(module_args={**self._task.args, **changes}, task_vars=task_vars)
        return result

    def _say(self, task_vars: dict[str, Any] | None, reached: dict[str, Any]) -> None:
        host = (task_vars or {}).get("inventory_hostname", "")
        display.display(f"[{host}] {rebalance.line(reached)}")


def merge(first: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """One result of the call that has started the job and the one that saw it end."""
    if not first:
        return last
    result = {**last}
    for name in ("moves", "bytes", "settings", "diff"):
        if name in first:
            result[name] = first[name]
    result["changed"] = bool(first.get("changed") or last.get("changed"))
    result["queries"] = [*first.get("queries", []), *last.get("queries", [])]
    # The job may have ended between two calls, where nobody waited for it.
    reached = last.get("progress", {})
    same = reached.get("job_id") == first.get("progress", {}).get("job_id")
    if same and not last.get("failed") and rebalance.failure(reached, "the coordinator"):
        result.update(failed=True, msg=rebalance.failure(reached, "the coordinator"))
    return result
