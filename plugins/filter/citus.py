# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters about Citus's nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def citus_node(node: dict[str, Any], declared: list[dict[str, Any]]) -> dict[str, Any]:
    """A node of the topology as the module citus_node takes it, with what ``declared`` says of its name.

    Under Patroni no role is asked for: Patroni decides who is the primary.
    """
    role = {} if node["manager"] == "patroni" else {"role": "primary" if node["initial_primary"] else "secondary"}
    properties: dict[str, Any] = next((entry for entry in declared if entry["name"] == node["name"]), {})
    return {
        **role,
        **properties,
        "name": node["address"],
        "port": node["ports"]["postgres_port"],
        "group": node["citus_group"],
    }


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """Names as used in templates."""
        return {"citus_node": citus_node}
