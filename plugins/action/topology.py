# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugin of the module ``topology``: it runs on the controller, where the inventory is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.addresses import resolve
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.topology import build
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.topology_nodes import Inventory

ROLES = Path(__file__).resolve().parents[2] / "roles"


def role_specs() -> dict[str, dict[str, Any]]:
    """Options of every role of the collection, from their argument specs: ``{role: {variable: option}}``."""
    specs = {}
    for path in sorted(ROLES.glob("*/meta/argument_specs.yml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        entry_points = document["argument_specs"].values()
        specs[path.parents[1].name] = {
            name: option for entry in entry_points for name, option in entry.get("options", {}).items()
        }
    return specs


def profiles() -> dict[str, dict[str, Any]]:
    """The variables that each ``ha_profile`` sets: ``{profile: {variable: value}}``."""
    document = yaml.safe_load((ROLES / "ha/vars/main.yml").read_text(encoding="utf-8"))
    return dict(document["ha_profiles"])


class ActionModule(ActionBase):
    """Describe the cluster and refuse an inventory that contradicts itself."""

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the topology; fail with all findings at once."""
        result = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        topology, findings = build(
            Inventory(task_vars["groups"], task_vars["hostvars"], role_specs(), profiles(), resolve)
        )
        if findings:
            lines = "\n".join(f"  - {finding}" for finding in findings)
            raise AnsibleActionFail(f"The inventory cannot become a cluster. Nothing was changed.\n{lines}")
        result.update(changed=False, topology=topology)
        return result
