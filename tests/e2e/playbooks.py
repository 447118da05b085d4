# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Runs the collection's playbooks as a person does, and understands what they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = Path.home() / ".cache/citus_ha/packages"
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)
FATAL = re.compile(r"^fatal: .*\n(?:[ \t].*\n)*", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """A finished run of a playbook: exit code, everything it printed, changed tasks for each host."""

    code: int
    output: str

    @property
    def changed(self) -> dict[str, int]:
        """Hosts with changed tasks, and how many."""
        return {host: int(changed) for host, _ok, changed, *_other in RECAP.findall(self.output) if int(changed)}

    @property
    def tail(self) -> str:
        """What failed, and the end of the output, for the message of a failed assertion."""
        return "\n".join([*FATAL.findall(self.output), self.output[-3000:]])

    def succeeded(self) -> Run:
        """Itself, when the run went well; otherwise the test fails with the output."""
        assert self.code == 0, self.tail
        return self


def run_playbook(name: str, inventory: Path, *arguments: str, timeout: float = 900) -> Run:
    """Run ``playbooks/<name>.yml``; ``arguments`` as on the command line. Ended after ``timeout`` seconds."""
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg")}
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory)]
    finished = subprocess.run(
        [*command, str(REPOSITORY / f"playbooks/{name}.yml"), *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Run(finished.returncode, finished.stdout)


def citus_sources() -> list[str]:
    """Where Citus can come from on this machine: package files when there are any, and always the stand-in."""
    return [*(["files"] if list(PACKAGES.glob("*citus*.deb")) else []), "standin"]


def node_image(source: str) -> str:
    """Name of the node image with Citus from ``source``; built when the machine has none yet."""
    run = run_playbook("image", REPOSITORY / "inventories/docker", "-e", f"citus_package_source={source}", timeout=1800)
    # YAML quotes the text because of its colon.
    found = re.search(r"node image: ([^\s']+)", run.succeeded().output)
    assert found, run.tail
    return found[1]
