# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugin of the module ``machine``: compares clocks, and refuses with everything that stands in the way."""

from __future__ import annotations

import re
import time
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.machine import Wanted, clock_offset, findings, warnings

# What sudo says to who may not: no password given, not in sudoers, no tty, a wrong password.
NO_RIGHTS = re.compile(r"\bsudo\b|sudoers|privilege escalation", re.IGNORECASE)


class ActionModule(ActionBase):
    """Look at the machine, then judge here, where the controller's clock is."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result; fails with all findings at once."""
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        host = task_vars["inventory_hostname"]
        try:
            seen = self._execute_module(module_name="citus_ha.cluster.machine", task_vars=task_vars)
        except AnsibleConnectionFailure:
            raise  # nobody answers there, which Ansible says itself
        except AnsibleError as error:
            # A password that sudo wants and nobody gave ends the connection, not the module.
            seen = {"failed": True, "msg": str(error)}
        if seen.get("failed"):
            text = " ".join(str(seen.get(key, "")) for key in ("msg", "module_stderr", "module_stdout")).strip()
            if not NO_RIGHTS.search(text):
                return seen
            user = self._connection.get_option("remote_user") if self._connection.has_option("remote_user") else None
            raise AnsibleActionFail(
                f"{host}: the user {user or 'of the connection'} cannot become root there: {text} "
                "Give it sudo without a password, or run with --ask-become-pass. Nothing was changed."
            )
        wanted = Wanted(
            cluster_id=self._task.args["cluster_id"],
            kind=self._task.args["kind"],
            postgres_version=int(self._task.args["postgres_version"])
            if self._task.args.get("postgres_version")
            else None,
            postgres_repository=self._task.args.get("postgres_repository", "distribution"),
            minimum_free=int(self._task.args.get("minimum_free", 2147483648)),
            time_check=self._task.args.get("time_check", "off"),
        )
        problems = findings(seen, wanted, self._clock_offset())
        if problems:
            lines = "\n".join(f"  - {problem}" for problem in problems)
            raise AnsibleActionFail(f"No node can run on the machine {host}. Nothing was changed.\n{lines}")
        seen["warnings"] = [*seen.get("warnings", []), *(f"{host}: {text}" for text in warnings(seen, wanted))]
        return seen

    def _clock_offset(self) -> float:
        """By how many seconds the machine's clock is certainly wrong, after a few questions over a warm connection."""
        offsets = []
        for _question in range(3):
            before = time.time()
            answer = self._low_level_execute_command("date +%s.%N", sudoable=False)["stdout"].split()
            offsets.append(clock_offset(float(answer[-1]), before, time.time()))
        return max(offsets, key=abs)
