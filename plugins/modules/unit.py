#!/usr/bin/python
# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start, stop, reload or restart a systemd unit, and wait until what it runs is healthy."""

from __future__ import annotations

DOCUMENTATION = r"""
module: unit
short_description: Start, stop or restart a systemd unit and wait until what it runs is healthy
version_added: 0.1.0
description:
  - As M(ansible.builtin.systemd_service), and for a restart it waits until the unit's own health check says that the
    process is healthy, in the same execution, so that C(throttle) makes a rolling restart of it.
  - A unit carries its health check as a container does, in a section that systemd leaves alone, C([X-Health]) with one
    C(Command). It is run as the unit's user with the unit's environment. A unit without one is healthy when it runs.
  - Unit files that changed on the disk are read again by itself. In check mode a unit may not exist yet.
author: citus_ha contributors (@citus-ha)
extends_documentation_fragment:
  - citus_ha.cluster.attributes
options:
  name:
    description: Name of the unit, with its C(.service).
    type: str
    required: true
  state:
    description:
      - C(started) and C(stopped) do nothing when it is so already. C(reloaded) and C(restarted) always do it.
      - C(absent) stops the unit and disables it.
    type: str
    choices: [started, stopped, reloaded, restarted, absent]
    default: started
  enabled:
    description: Whether the unit starts with the machine. Left as it is when not given.
    type: bool
  timeout:
    description: Seconds to wait until it is healthy.
    type: int
    default: 180
"""

EXAMPLES = r"""
- name: Restart the server, one machine after the other
  citus_ha.cluster.unit:
    name: citus_ha.service
    state: restarted
  become: true
  throttle: 1
"""

RETURN = r"""
actions:
  description: What was done to the unit, in order (in check mode, what would be done).
  type: list
  elements: str
  returned: success
  sample: [enable, start]
"""

import configparser
import os
import shlex
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import CitusHaError, TimedOut
from ansible_collections.citus_ha.cluster.plugins.module_utils._runner import run


@dataclass(frozen=True)
class State:
    """What systemd says of the unit."""

    exists: bool
    active: bool
    enabled: bool
    stale: bool


def observe(name: str) -> State:
    """Ask systemd."""
    wanted = "LoadState,ActiveState,UnitFileState,NeedDaemonReload"
    text = systemctl("show", f"--property={wanted}", name)
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    exists = values.get("LoadState") not in ("not-found", None)
    return State(
        exists=exists,
        active=values.get("ActiveState") in ("active", "reloading"),
        enabled=values.get("UnitFileState") == "enabled",
        stale=not exists or values.get("NeedDaemonReload") == "yes",
    )


def plan(state: State, desired: str, enabled: bool | None) -> list[str]:
    """The systemctl verbs that lead from what is to what shall be."""
    if desired == "absent":
        return (["stop"] if state.active else []) + (["disable"] if state.enabled else [])
    verbs = []
    if enabled is not None and enabled != state.enabled:
        verbs.append("enable" if enabled else "disable")
    if desired == "started" and not state.active:
        verbs.append("start")
    elif desired == "stopped" and state.active:
        verbs.append("stop")
    elif desired == "reloaded":
        verbs.append("reload" if state.active else "start")
    elif desired == "restarted":
        verbs.append("restart")
    return verbs


def systemctl(*arguments: str) -> str:
    """Standard output of systemctl; its complaint becomes the module's."""
    finished = subprocess.run(
        ["systemctl", *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if finished.returncode != 0:
        raise CitusHaError(
            f"systemctl {' '.join(arguments)} failed: {finished.stderr.strip()}",
            f"See what the process said: journalctl -u {arguments[-1]}",
        )
    return finished.stdout


def health_command(unit_file: str) -> list[str]:
    """The health check that a unit file carries; empty without one."""
    # systemd's files may have a key twice, and values with any character.
    parser = configparser.RawConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.read_string(unit_file)
    return shlex.split(parser.get("X-Health", "Command", fallback=""))


def wait_until_healthy(name: str, timeout: float) -> None:
    """Run the unit's health check again and again until it succeeds."""
    text = systemctl("show", "--property=FragmentPath,User,Environment", name)
    unit = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    with open(unit["FragmentPath"], encoding="utf-8") as file:
        command = health_command(file.read())
    if not command:
        return
    variables = dict(entry.split("=", 1) for entry in shlex.split(unit.get("Environment", "")) if "=" in entry)
    argv = ["runuser", "--user", unit.get("User") or "root", "--", *command]
    deadline = time.monotonic() + timeout
    while True:
        try:
            asked = subprocess.run(
                argv, capture_output=True, text=True, check=False, timeout=15, env={**os.environ, **variables}
            )
            if asked.returncode == 0:
                return
            answer = asked.stderr.strip() or f"exit code {asked.returncode}"
        except subprocess.TimeoutExpired:
            answer = "no answer within 15 seconds"
        if time.monotonic() > deadline:
            raise TimedOut(
                f"{name} is not healthy {timeout} seconds after its restart: {' '.join(command)}: {answer}.",
                f"See what the process said: journalctl -u {name}",
            )
        time.sleep(0.3)


def work(module: AnsibleModule) -> dict[str, Any]:
    """Observe, plan, and unless in check mode apply."""
    params = module.params
    name, desired = params["name"], params["state"]
    state = observe(name)
    if state.stale and not module.check_mode:
        systemctl("daemon-reload")
        state = observe(name)
    verbs = plan(state, desired, params["enabled"])
    if not state.exists and not module.check_mode and desired not in ("absent", "stopped"):
        raise CitusHaError(f"There is no unit {name}.", "Run site.yml, which writes it.")
    if not module.check_mode:
        for verb in verbs:
            systemctl(verb, name)
        if "restart" in verbs:
            wait_until_healthy(name, params["timeout"])
    return {
        "changed": bool(verbs),
        "actions": verbs,
        "diff": {"prepared": "".join(f"systemctl {verb} {name}\n" for verb in verbs)},
    }


def main() -> None:
    """Entry point."""
    run(
        AnsibleModule(
            argument_spec={
                "name": {"type": "str", "required": True},
                "state": {
                    "type": "str",
                    "choices": ["started", "stopped", "reloaded", "restarted", "absent"],
                    "default": "started",
                },
                "enabled": {"type": "bool"},
                "timeout": {"type": "int", "default": 180},
            },
            supports_check_mode=True,
        ),
        work,
        needs_psycopg2=False,
    )


if __name__ == "__main__":
    main()
