# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters about what Docker is told and what it tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.plugin_utils.addresses import endpoint

CLUSTER_ID_LABEL = "io.citus_ha.cluster_id"


def published_port(port: dict[str, Any], address: str) -> str:
    """``{port: 5432, published: 15432}`` as Docker's ``address:15432:5432``."""
    return f"{endpoint(address, port['published'])}:{port['port']}"


def volume_owner(volumes: list[dict[str, Any]], name: str) -> str:
    """The cluster_id that a volume was made with: empty without such a volume, ``unknown`` without the label."""
    for volume in volumes:
        if volume["Name"] == name:
            return str((volume.get("Labels") or {}).get(CLUSTER_ID_LABEL, "unknown"))
    return ""


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """Names as used in templates."""
        return {"published_port": published_port, "volume_owner": volume_owner}
