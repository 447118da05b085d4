# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for a predicate, on the monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import TimedOut

T = TypeVar("T")


def wait_for(
    look: Callable[[], T],
    missing: Callable[[T], list[str]],
    timeout: float,
    what: str,
    remedy: str = "",
    interval: float = 0.25,
    longest_interval: float = 2.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Call ``look`` until ``missing`` of what it saw is empty, and return what it saw.

    ``missing`` is a pure predicate that names what is not there yet. ``timeout`` and ``interval``
    are seconds; the interval doubles up to ``longest_interval``.

    :raises TimedOut: the message names ``what`` was waited for and what was still missing.
    """
    deadline = clock() + timeout
    while True:
        seen = look()
        lacking = missing(seen)
        if not lacking:
            return seen
        if clock() >= deadline:
            raise TimedOut(
                f"{what}: after {timeout:g} seconds this was still missing: {'; '.join(lacking)}.",
                remedy,
                missing=lacking,
            )
        sleep(min(interval, max(0.0, deadline - clock())))
        interval = min(interval * 2, longest_interval)


def wait_until(moment: float | None) -> None:
    """Begin together with others, at a time of the clock. One that is wrong costs ten seconds at most."""
    if moment is not None:
        time.sleep(min(max(0.0, moment - time.time()), 10))
