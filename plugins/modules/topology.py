# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin ``topology``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: topology
short_description: Describe the cluster that an inventory means, and refuse a contradictory one
version_added: 0.1.0
description:
  - Reads groups and variables of the whole inventory and returns what they describe.
  - Fails before any change when the inventory contradicts itself, and lists everything that is wrong
    at once, each with the variable, its value and what would be right.
  - Runs on the controller and connects to no host.
author: citus_ha contributors (@citus-ha)
extends_documentation_fragment:
  - citus_ha.cluster.attributes.info
"""

EXAMPLES = r"""
- name: Know the cluster
  citus_ha.cluster.topology:
  run_once: true
  register: described

- name: Where do the poolers run?
  ansible.builtin.debug:
    msg: "{{ described.topology.poolers | map('extract', described.topology.nodes) | map(attribute='address') }}"
"""

RETURN = r"""
topology:
  description:
    - C(nodes) maps a host to its C(kind), C(group), C(machine), C(address), C(ip), C(names), C(ports), C(citus_group),
      C(manager), C(initial_primary), C(published), C(proxy_address), C(proxy_ip) and C(client).
    - C(etcd), C(coordinators), C(workers), C(poolers) and C(standalone) list host names, C(worker_groups) lists
      them by Citus group, C(machines) by machine.
  returned: success
  type: dict
"""
