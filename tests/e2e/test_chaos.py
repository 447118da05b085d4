# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The faults that matter most, each once, on a cluster of its own; ``make chaos-quick`` takes one that is there."""

from __future__ import annotations

from pathlib import Path

import faults
import pytest
from attack import attack, bears_it
from cluster import cluster


@pytest.mark.slow
@bears_it
@pytest.mark.timeout(3600)
def test_the_faults_that_matter_most_break_no_promise(tmp_path: Path) -> None:
    with cluster(tmp_path / "chaos", ha_profile="fast") as made:
        made.play("site", timeout=1800).succeeded()
        attack(made.inventory, faults.QUICK, tmp_path / "report")
        assert made.query("SELECT count(*) FROM pg_namespace WHERE nspname = 'chaos'") == [(0,)]
