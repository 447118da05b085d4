# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugin of the module ``citus_rebalance``: prints progress while the task waits."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_rebalance_job import failure
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.waiting import WaitingAction


class ActionModule(WaitingAction):
    """Call the module once, or again and again while a job runs."""

    DEFAULTS: ClassVar[Mapping[str, int]] = {"wait_timeout": 86400, "progress_interval": 10}

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result, for the whole wait."""
        super().run(tmp, task_vars)
        state = self._task.args.get("state", "finished")
        seconds = self.seconds()
        if self._task.check_mode or state not in ("waited", "finished") or seconds is None:
            return self.call(task_vars)
        deadline = time.monotonic() + seconds[0]
        first: dict[str, Any] = {}
        if state == "finished":
            first = self.call(task_vars, state="started")
            if first.get("failed") or not first.get("running"):
                return first
            self.say(task_vars, first["progress"])
        return self.in_pieces(task_vars, deadline, seconds[1], merge, first, state="waited")


def merge(first: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """One result of the call that has started the job and the one that saw it end."""
    result = {**last}
    if "moves" in first:
        for name in ("moves", "bytes", "settings", "diff"):
            if name in first:
                result[name] = first[name]
        result["changed"] = bool(first.get("changed") or last.get("changed"))
        result["queries"] = [*first.get("queries", []), *last.get("queries", [])]
    # The job may have ended between two calls, where nobody waited for it.
    reached = last.get("progress", {})
    same = "job_id" in reached and reached["job_id"] == first.get("progress", {}).get("job_id")
    if same and not last.get("failed") and failure(reached, "the coordinator"):
        result.update(failed=True, msg=failure(reached, "the coordinator"))
    return result
