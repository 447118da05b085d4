# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The role os sets kernel parameters, twice the same, and takes them back: with those of a network namespace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROBES = "/proc/sys/net/ipv4/tcp_keepalive_probes"
FILE = "/etc/sysctl.d/90-citus_ha.conf"
# Files that the role writes, and the network, are the test's own.
NAMESPACE = ["unshare", "--mount", "--net", "sh", "-ec"]
OWN = "for folder in sysctl.d modules-load.d; do mkdir -p /etc/$folder; mount -t tmpfs tmpfs /etc/$folder; done"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0
    or subprocess.run([*NAMESPACE, OWN], check=False, capture_output=True).returncode != 0
    or not Path("/usr/lib/systemd/systemd-sysctl").exists(),
    reason="needs root, namespaces and systemd's programs",
)


def played(*steps: tuple[str, dict[str, Any]]) -> list[str]:
    """What each step printed: the role with variables, in the same namespaces one after the other."""
    playbook = f"{Path(sys.executable).with_name('ansible-playbook')} -i localhost, {ROOT}/tests/unit/runtimes/os.yml"
    script = [OWN]
    for options, variables in steps:
        script.append(f"echo '=== step'; {playbook} {options} -e '{json.dumps(variables)}' || true; cat {PROBES}")
        script.append(f"ls {FILE} 2>/dev/null || echo no file")
    ran = subprocess.run(
        [*NAMESPACE, "\n".join(script)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
    )
    return [" ".join(step.split()) for step in ran.stdout.split("=== step\n")[1:]]


def test_kernel_parameters_are_set_once_and_taken_back() -> None:
    wanted = {"os_sysctl": {"net.ipv4.tcp_keepalive_probes": 4, "net.ipv4.tcp_rmem": "4096 131072 6291456"}}
    nothing, dry, first, second, refused, away = played(
        ("", {}),
        ("--check --diff", wanted),
        ("", wanted),
        ("", wanted),
        ("", {"os_sysctl": {"net.ipv4.tcp_keepalive_probes": 400000}}),
        ("", {}),
    )
    assert "changed=0 " in nothing and nothing.endswith("no file")
    assert "+net.ipv4.tcp_keepalive_probes = 4" in dry and "would set net.ipv4.tcp_keepalive_probes = 4" in dry
    assert "changed=2 " in dry and dry.endswith("no file")
    assert "changed=2 " in first and first.endswith(f" 4 {FILE}")
    assert "changed=0 " in second and second.endswith(f" 4 {FILE}")
    assert "failed=1 " in refused and "the kernel has net.ipv4.tcp_keepalive_probes = 4" in refused
    assert "changed=1 " in away and away.endswith("no file")
