# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node needs of its machine's operating system, and what is wrong with what the inventory says of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# What a process may be limited in, by the names that Docker and, in capitals after Limit, systemd.exec(5) give them.
LIMITS = (
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice"),
    *("nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"),
)


def demands(get: Callable[[str], Any], manager: str | None) -> dict[str, Any]:
    """What the machine must have: ``get`` gives a variable of the node, ``manager`` its ``postgres_manager``."""
    watchdog = manager == "patroni" and get("postgres_watchdog") == "required" and not get("os_watchdog_module")
    return {
        "sysctl": sorted(get("os_sysctl") or {}),
        "watchdog": str(get("postgres_watchdog_device")) if watchdog else "",
        # YAML takes a bare off for false
        "time_check": get("os_time_check") or "off",
    }


def limit_remedy(name: str, value: Any) -> str | None:
    """What would be right instead of this limit; none when it is fine."""
    if name not in LIMITS:
        return f"there is no such limit: use one of {', '.join(LIMITS)}."
    if not isinstance(value, int) or isinstance(value, bool) or value < -1:
        return "a limit is a whole number, -1 for none."
    return None


def container_watchdog_remedy(watchdog: Any) -> str | None:
    """What would be right instead of this watchdog of a server in a container; none when it is fine."""
    if watchdog != "required":
        return None
    return (
        "a container has no watchdog, and without one no member of its group would ever lead: leave it off, or use "
        "service_manager: systemd."
    )
