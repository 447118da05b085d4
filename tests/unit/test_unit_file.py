# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What systemd says of how much a unit leaves open: 0 nothing, 10 everything."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROLE = Path(__file__).resolve().parents[2] / "roles/service"
TEMPLATE = ROLE / "templates/unit.service.j2"
GIVEN = {
    "inventory_hostname": "worker1-1",
    "cluster_name": "citus",
    "service_command": ["patroni", "/etc/citus_ha/postgres/patroni.yml"],
    "service_user": {"name": "postgres", "id": 5432},
    "service_data_path": "/var/lib/citus_ha/postgres",
    "service_tmpfs": ["/run/postgresql"],
    "service_memory": "1g",
    "service_health": ["pg_isready"],
    "__service_path": "/usr/lib/postgresql/17/bin",
}


def rendered(folder: Path, **more: object) -> Path:
    """The unit of a server."""
    unit = folder / "citus_ha.service"
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text(encoding="utf-8"))
    variables = {**defaults, **GIVEN, **more, "ansible_python_interpreter": sys.executable}
    subprocess.run(
        [
            *(str(Path(sys.executable).with_name("ansible")), "localhost", "--module-name", "ansible.builtin.template"),
            *("--args", f"src={TEMPLATE} dest={unit} mode=0644", "--extra-vars", json.dumps(variables)),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return unit


def exposure(unit: Path) -> float:
    """What systemd-analyze security says in the end."""
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found, said
    return float(found[1])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this machine")
def test_a_unit_leaves_little_open(tmp_path: Path) -> None:
    unit = rendered(tmp_path)
    text = unit.read_text(encoding="utf-8")
    assert "\nTasksMax=1024\n" in text and "\nMemoryMax=1073741824\n" in text
    assert exposure(unit) <= 2.0
    assert exposure(rendered(tmp_path, service_confined=False)) > 7.0
