# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The faults that matter most, each once, on a cluster of its own; ``make chaos-quick`` takes one that is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import faults
import pytest
from cluster import cluster

from playbooks import REPOSITORY, citus_sources


@pytest.mark.slow
@pytest.mark.skipif(
    citus_sources() == ["standin"], reason="on the stand-in transfers at the same time refuse each other"
)
@pytest.mark.timeout(3600)
def test_the_faults_that_matter_most_break_no_promise(tmp_path: Path) -> None:
    with cluster(tmp_path / "chaos", ha_profile="fast") as made:
        made.play("site", timeout=1800).succeeded()
        finished = subprocess.run(
            [
                *(sys.executable, str(REPOSITORY / "tests/chaos/run.py"), "--inventory", str(made.inventory)),
                *("--minutes", "30", "--each", "1", "--faults", "quick", "--seed", "1"),
                *("--output", str(tmp_path / "report")),
            ],
            capture_output=True,
            text=True,
            timeout=2400,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout[-6000:] + finished.stderr[-3000:]
        page = (tmp_path / "report/chaos.md").read_text(encoding="utf-8")
        assert [name for name in faults.QUICK if f"| `{name}` | 1 |" not in page] == [], "each was tried once"
        assert "Left out" not in page and "<svg" in (tmp_path / "report/chaos.svg").read_text(encoding="utf-8")
        assert made.query("SELECT count(*) FROM pg_namespace WHERE nspname = 'chaos'") == [(0,)]
