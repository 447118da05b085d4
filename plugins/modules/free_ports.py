#!/usr/bin/python
# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refuse ports that another program listens on."""

from __future__ import annotations

DOCUMENTATION = r"""
module: free_ports
short_description: Refuse ports that another program listens on
version_added: 0.1.0
description:
  - Tries to listen on each of the ports for a moment, and fails with all that are taken. Changes nothing.
author: citus_ha contributors (@citus-ha)
extends_documentation_fragment:
  - citus_ha.cluster.attributes.info
options:
  ports:
    description: The ports that are wanted on this machine.
    type: list
    elements: dict
    required: true
    suboptions:
      address:
        description: Address to listen on.
        type: str
        required: true
      port:
        description: TCP port.
        type: int
        required: true
      variable:
        description: The variable of the inventory that says so, for the message.
        type: str
        required: true
"""

EXAMPLES = r"""
- name: Refuse a taken port before anything is changed
  citus_ha.cluster.free_ports:
    ports:
      - {address: 127.0.0.1, port: 6432, variable: pgbouncer_published_port}
"""

RETURN = r"""
taken:
  description: The ports that another program listens on.
  returned: failure
  type: list
  elements: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import Refused
from ansible_collections.citus_ha.cluster.plugins.module_utils._ports import PORT_OPTIONS, is_taken
from ansible_collections.citus_ha.cluster.plugins.module_utils._runner import run


def work(module: AnsibleModule) -> dict[str, Any]:
    """Probe every port."""
    taken = [entry for entry in module.params["ports"] if is_taken(entry["address"], entry["port"])]
    if taken:
        list_of_taken = "; ".join(f"{entry['variable']} is {entry['port']} ({entry['address']})" for entry in taken)
        raise Refused(
            f"Another program listens on ports that the inventory wants: {list_of_taken}.",
            "Set these variables to free ports, or stop that program. Nothing was changed.",
            taken=taken,
        )
    return {"changed": False}


def main() -> None:
    """Entry point."""
    run(
        AnsibleModule(
            argument_spec={
                "ports": {
                    "type": "list",
                    "elements": "dict",
                    "required": True,
                    "options": PORT_OPTIONS,
                },
            },
            supports_check_mode=True,
        ),
        work,
        needs_psycopg2=False,
    )


if __name__ == "__main__":
    main()
