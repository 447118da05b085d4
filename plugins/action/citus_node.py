# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugin of the module ``citus_node``: prints progress while shards are moved off a node."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.waiting import WaitingAction


class ActionModule(WaitingAction):
    """Call the module once, or again and again while it drains a node."""

    DEFAULTS: ClassVar[Mapping[str, int]] = {"wait_timeout": 300, "progress_interval": 10}

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result, for the whole wait."""
        super().run(tmp, task_vars)
        arguments = self._task.args
        state = arguments.get("state", "present")
        drains = state == "drained" or (state == "absent" and boolean(arguments.get("drain", False), strict=False))
        seconds = self.seconds()
        if self._task.check_mode or not drains or seconds is None:
            return self.call(task_vars)
        return self.in_pieces(task_vars, time.monotonic() + seconds[0], seconds[1], merge, {})


def merge(first: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """One result of the call that has begun the work and the one that saw it end."""
    if not first:
        return last
    result = {**last, "changed": True, "actions": first["actions"]}
    result["queries"] = [*first["queries"], *last.get("queries", [])]
    before = first["diff"]["before"]
    result["diff"] = {"before": before, "after": last.get("diff", first["diff"])["after"]}
    return result
