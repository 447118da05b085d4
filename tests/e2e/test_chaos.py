# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Ten minutes of faults on a cluster of its own: ``make chaos-quick`` does the same on a cluster that is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cluster import cluster

from playbooks import REPOSITORY


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_minutes_of_faults_break_no_promise(tmp_path: Path) -> None:
    with cluster(tmp_path / "chaos", ha_profile="fast") as made:
        made.play("site", timeout=1800).succeeded()
        finished = subprocess.run(
            [
                *(sys.executable, str(REPOSITORY / "tests/chaos/run.py"), "--inventory", str(made.inventory)),
                *("--minutes", "9", "--faults", "quick", "--seed", "1", "--output", str(tmp_path / "report")),
            ],
            capture_output=True,
            text=True,
            timeout=2400,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout[-6000:] + finished.stderr[-3000:]
        assert made.query("SELECT count(*) FROM pg_namespace WHERE nspname = 'chaos'") == [(0,)]
