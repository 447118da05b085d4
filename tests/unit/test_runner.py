# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""How every module ends, and what it never shows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.citus_ha.cluster.plugins.module_utils import _runner
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import connection_argument_spec
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import Refused


def ran(capsys: pytest.CaptureFixture[str], work: Any, **options: Any) -> dict[str, Any]:
    with patch_module_args(options), pytest.raises(SystemExit):
        _runner.run(AnsibleModule(argument_spec=connection_argument_spec()), work)
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_a_password_among_the_connection_parameters_is_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    given = {"password": "very secret", "sslpassword": "also secret", "sslcompression": 0}
    result = ran(capsys, lambda module: {"changed": False, "said": "very secret"}, connect_params=given)
    assert "secret" not in json.dumps(result)
    assert result["invocation"]["module_args"]["connect_params"]["sslcompression"] == 0


def test_what_a_person_has_to_act_on_becomes_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    def work(module: AnsibleModule) -> dict[str, Any]:
        raise Refused("It is full.", "Make room.", needs="stop")

    result = ran(capsys, work)
    assert (result["failed"], result["msg"], result["needs"]) == (True, "It is full. Make room.", "stop")


def test_a_number_that_no_clock_takes(capsys: pytest.CaptureFixture[str]) -> None:
    result = ran(capsys, lambda module: {"changed": False}, connect_timeout=10**30)
    assert "connect_timeout is a number of more than 64 bits" in result["msg"]
