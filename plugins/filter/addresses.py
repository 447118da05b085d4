# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters about addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from ansible_collections.citus_ha.cluster.plugins.plugin_utils.addresses import endpoint
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.topology_nodes import container_ip


def cidr(address: str) -> str:
    """An address as a network of one, for pg_hba.conf; names and networks stay as they are."""
    try:
        return str(ipaddress.ip_network(address)) if "/" not in address else address
    except ValueError:
        return address


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """Names as used in templates."""
        return {"container_ip": container_ip, "cidr": cidr, "endpoint": endpoint}
