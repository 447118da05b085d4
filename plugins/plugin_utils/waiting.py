# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Base of the action plugins that print progress while a module waits for the server.

A module cannot print before it ends, so the wait is cut into calls that end after ``progress_interval``
seconds. The work itself is a job of the server and does not notice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_rebalance_job import line

display = Display()


class WaitingAction(ActionBase):
    """Calls the module of the same name, once or in pieces."""

    TRANSFERS_FILES = False
    #: Of the module's own argument spec.
    DEFAULTS: ClassVar[Mapping[str, int]] = {"wait_timeout": 0, "progress_interval": 10}

    def call(self, task_vars: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
        """Run the module with some arguments changed."""
        arguments = {**self._task.args, **changes}
        result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        return result

    def seconds(self) -> tuple[int, int] | None:
        """``wait_timeout`` and ``progress_interval``; None when the module has to say what is wrong with them."""
        try:
            timeout, interval = (int(self._task.args.get(name, default)) for name, default in self.DEFAULTS.items())
        except (TypeError, ValueError):
            return None
        return (timeout, interval) if interval >= 1 else None

    def in_pieces(
        self,
        task_vars: dict[str, Any] | None,
        deadline: float,
        interval: int,
        merge: Callable[..., dict[str, Any]],
        first: dict[str, Any],
        **changes: Any,
    ) -> dict[str, Any]:
        """Call the module until it has not run out of time; ``merge`` makes one result of the first and the last."""
        while True:
            left = max(0, round(deadline - time.monotonic()))
            last = self.call(task_vars, **changes, wait_timeout=min(interval, left))
            if not last.get("timed_out") or left <= interval:
                return merge(first, last)
            self.say(task_vars, last["progress"])
            first = first or last

    def say(self, task_vars: dict[str, Any] | None, reached: dict[str, Any]) -> None:
        """Print one line."""
        host = (task_vars or {}).get("inventory_hostname", "")
        display.display(f"[{host}] {line(reached)}")
