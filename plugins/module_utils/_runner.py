# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How every module of the collection ends: one place for exit_json and fail_json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.citus_ha.cluster.plugins.module_utils import _connection
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import CitusHaError

#: Options that take libpq's connection parameters, and those of them that are secret.
CONNECTION_OPTIONS = ("connect_params", "primary_conninfo", "basebackup_conninfo")
SECRET_PARAMETERS = ("password", "sslpassword")


def hide_passwords(module: AnsibleModule) -> None:
    """Let Ansible blot out passwords among connection parameters: it hides whole options only."""
    for option in CONNECTION_OPTIONS:
        given = module.params.get(option) or {}
        module.no_log_values.update(str(given[name]) for name in SECRET_PARAMETERS if given.get(name))


def run(module: AnsibleModule, work: Callable[[AnsibleModule], dict[str, Any]], needs_psycopg2: bool = True) -> None:
    """Call ``work`` and exit with what it returns; a :class:`CitusHaError` becomes ``fail_json``.

    ``work`` returns the module's result with at least ``changed``. An exception of another kind is a
    bug and is left to Ansible, which prints its traceback.
    """
    hide_passwords(module)
    for option, value in module.params.items():
        # Clocks, sockets and servers count with numbers of 64 bits.
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            module.fail_json(msg=f"{option} is a number of more than 64 bits. Give one that means something.")
    if needs_psycopg2 and _connection.psycopg2 is None:
        module.fail_json(msg=missing_required_lib("psycopg2"), exception=_connection.PSYCOPG2_IMPORT_ERROR)
    try:
        result = work(module)
    except CitusHaError as error:
        module.fail_json(msg=str(error), **error.details)
    module.exit_json(**result)
