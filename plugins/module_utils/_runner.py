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


def run(module: AnsibleModule, work: Callable[[AnsibleModule], dict[str, Any]], needs_psycopg2: bool = True) -> None:
    """Call ``work`` and exit with what it returns; a :class:`CitusHaError` becomes ``fail_json``.

    ``work`` returns the module's result with at least ``changed``. An exception of another kind is a
    bug and is left to Ansible, which prints its traceback.
    """
    if needs_psycopg2 and _connection.psycopg2 is None:
        module.fail_json(msg=missing_required_lib("psycopg2"), exception=_connection.PSYCOPG2_IMPORT_ERROR)
    try:
        result = work(module)
    except CitusHaError as error:
        module.fail_json(msg=str(error), **error.details)
    module.exit_json(**result)
