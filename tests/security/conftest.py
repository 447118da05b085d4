# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The list of everything that was attempted and what it got, printed at the end of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

ATTEMPTS = pytest.StashKey[list[tuple[str, str]]]()


def pytest_configure(config: pytest.Config) -> None:
    """An empty list for this run."""
    config.stash[ATTEMPTS] = []


@pytest.fixture
def got(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Note what an attempt got."""
    return lambda attempt, answer: request.config.stash[ATTEMPTS].append((attempt, answer))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the list."""
    attempts = config.stash[ATTEMPTS]
    if attempts:
        terminalreporter.section(f"{len(attempts)} attempts on the cluster, and what each got")
        for attempt, answer in attempts:
            terminalreporter.write_line(f"{attempt}: {answer}")
