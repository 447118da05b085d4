# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules' options need: one table of minimum versions, and the check against a server.

The versions are those of the SQL interface (``pg_extension.extversion``), because that decides
which functions exist; the loaded library may be newer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput

Version = tuple[int, int]


@dataclass(frozen=True)
class Minimum:
    """The oldest versions that do; None when any does. ``source`` backs the claim."""

    citus: Version | None = None
    postgresql: int | None = None
    source: str = ""


_CHANGELOG = "https://github.com/citusdata/citus/blob/main/CHANGELOG.md"

#: (module, option) or (module, "option=value") -> oldest versions. (module, "") holds for every use of the module.
MINIMUM: dict[tuple[str, str], Minimum] = {
    ("citus_distribute", ""): Minimum(
        (11, 0), 14, f"{_CHANGELOG} 11.0: metadata on every node, citus_is_coordinator()"
    ),
    ("citus_distribute", "state=schema"): Minimum((12, 0), 14, f"{_CHANGELOG} 12.0: citus_schema_distribute()"),
    ("citus_distribute", "kind=schema"): Minimum((12, 0), 14, f"{_CHANGELOG} 12.0: citus_schema_undistribute()"),
    ("citus_distribute", "state=local"): Minimum(
        (10, 1), None, f"{_CHANGELOG} 10.1: citus_add_local_table_to_metadata()"
    ),
    ("citus_distribute", "concurrently"): Minimum(
        (11, 1), 14, f"{_CHANGELOG} 11.1: create_distributed_table_concurrently()"
    ),
    ("citus_node", ""): Minimum(
        (11, 0), 14, f"{_CHANGELOG} 11.0: metadata on every node, citus_disable_node(synchronous)"
    ),
    ("citus_node", "state=drained"): Minimum((11, 2), 14, f"{_CHANGELOG} 11.2: citus_rebalance_status()"),
    ("citus_node", "drain"): Minimum((11, 2), 14, f"{_CHANGELOG} 11.2: citus_rebalance_status()"),
    ("citus_info", ""): Minimum(
        (11, 2), 14, f"{_CHANGELOG} 11.2: run_command_on_all_nodes(), citus_rebalance_status()"
    ),
    ("citus_rebalance", ""): Minimum((11, 2), 14, f"{_CHANGELOG} 11.2: citus_rebalance_status()"),
    ("citus_rebalance", "parallelism"): Minimum(
        (11, 3), 14, f"{_CHANGELOG} 11.3: citus.max_background_task_executors_per_node"
    ),
    ("citus_rebalance", "parallel_transfer_colocated_shards"): Minimum(
        (13, 2), 15, f"{_CHANGELOG} 13.2: citus_rebalance_start(parallel_transfer_colocated_shards)"
    ),
    ("citus_rebalance", "parallel_transfer_reference_tables"): Minimum(
        (13, 2), 15, f"{_CHANGELOG} 13.2: citus_rebalance_start(parallel_transfer_reference_tables)"
    ),
}


def parse_version(text: str) -> Version:
    """``14.0-1`` and ``14.0.1`` become ``(14, 0)``; text without a number becomes ``(0, 0)``."""
    match = re.search(r"(\d+)\.(\d+)", text) or re.search(r"(\d+)()", text)
    return (int(match.group(1)), int(match.group(2) or 0)) if match else (0, 0)


def format_version(version: Version) -> str:
    """``(14, 0)`` as ``14.0``."""
    return f"{version[0]}.{version[1]}"


def too_old(module: str, options: Iterable[str], citus: Version, postgresql: int) -> list[str]:
    """One sentence for every option in use that the server is too old for, with both versions.

    ``options`` are keys of :data:`MINIMUM`; one that is not in the table needs no minimum.
    ``postgresql`` is the number the server reports, such as 170011.
    """
    found = []
    for option in dict.fromkeys(["", *options]):
        minimum = MINIMUM.get((module, option))
        if minimum is None:
            continue
        what = f"The option {option}" if option else f"The module {module}"
        if minimum.citus is not None and citus < minimum.citus:
            found.append(
                f"{what} needs Citus {format_version(minimum.citus)}; this server has {format_version(citus)}."
            )
        if minimum.postgresql is not None and postgresql // 10000 < minimum.postgresql:
            found.append(f"{what} needs PostgreSQL {minimum.postgresql}; this server has {postgresql // 10000}.")
    return found


def require(module: str, options: Iterable[str], citus: Version, postgresql: int) -> None:
    """Refuse what the server is too old for.

    :raises InvalidInput: every option that is too new, each with both versions.
    """
    found = too_old(module, options, citus, postgresql)
    if found:
        raise InvalidInput(" ".join(found), "Leave the option out, or update the server.")
