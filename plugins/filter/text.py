# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that lay out what the playbooks print."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def text_table(rows: list[dict[str, Any]], columns: list[str]) -> list[str]:
    """Rows as lines of aligned text under a heading, one column for each key in ``columns``."""
    cells = [list(columns)] + [["" if row.get(c) is None else str(row.get(c)) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def health_row(
    host: str, nodes: dict[str, dict[str, Any]], members: list[dict[str, Any]], hostvars: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """One line of the health table: what the node is, its role, timeline and lag now, and whether something is wrong.

    ``members`` are the servers as Patroni, or those without it themselves, describe them.
    """
    node = nodes[host]
    member: dict[str, Any] = next((entry for entry in members if entry["name"] == host), {})
    return {
        "node": host,
        "kind": node["kind"],
        "group": node["group"],
        **{key: member.get(key) for key in ("role", "timeline", "lag")},
        "health": "PROBLEM" if hostvars[host].get("__status_found", ["not judged"]) else "ok",
    }


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """Names as used in templates."""
        return {"text_table": text_table, "health_row": health_row}
