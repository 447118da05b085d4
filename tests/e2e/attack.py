# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Runs tests/chaos against a cluster of a test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from playbooks import REPOSITORY, citus_sources

bears_it = pytest.mark.skipif(
    citus_sources() == ["standin"], reason="on the stand-in transfers at the same time refuse each other"
)


def attack(inventory: Path, faults: Sequence[str], output: Path) -> None:
    """Each of the faults once: no promise is broken, and all of them happen."""
    finished = subprocess.run(
        [
            *(sys.executable, str(REPOSITORY / "tests/chaos/run.py"), "--inventory", str(inventory)),
            *("--minutes", "30", "--each", "1", "--faults", ",".join(faults), "--seed", "1", "--output", str(output)),
        ],
        capture_output=True,
        text=True,
        timeout=2400,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout[-6000:] + finished.stderr[-3000:]
    page = (output / "chaos.md").read_text(encoding="utf-8")
    assert [name for name in faults if f"| `{name}` | 1 |" not in page] == [], "each was tried once"
    assert "Left out" not in page and "<svg" in (output / "chaos.svg").read_text(encoding="utf-8")
