# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Clients leave a server when HAProxy leads elsewhere, each at the end of its transaction."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.citus_ha.cluster.plugins.module_utils import _pgbouncer
from ansible_collections.citus_ha.cluster.plugins.modules import pgbouncer_leave as module


class Console(_pgbouncer.Console):
    """A PgBouncer whose readers need ``looks`` looks until their transactions have ended."""

    def __init__(self, looks: int = 2) -> None:
        super().__init__("/run/pgbouncer", 6432)
        self.looks = looks
        self.said: list[str] = []

    def paused_databases(self) -> list[str]:
        return []

    def log_in_again(self, patience: float = 1.0) -> None:
        self.said.append("log in again")

    def _run(self, command: str) -> list[dict[str, Any]]:
        self.said += [command] * (command != "SHOW DATABASES")
        if command == "SHOW DATABASES":
            return [{"name": "app", "paused": 0}, {"name": "app_ro", "paused": 0}]
        if command != "SHOW SERVERS":
            return []
        self.looks -= 1
        session = {"user": "app", "request_time": "2026-11-28 12:00:00 UTC"}
        outdated = int(self.looks > 0 and 'RECONNECT "app_ro"' in self.said)
        return [
            {**session, "database": "app_ro", "close_needed": outdated},
            {**session, "database": "app", "close_needed": 1},
        ]


def call(monkeypatch: pytest.MonkeyPatch, console: Console, leads: list[frozenset[str]], **more: Any) -> dict[str, Any]:
    """What the module says when HAProxy leads to one after the other of ``leads``, and to the last for good."""
    monkeypatch.setattr(module, "Console", lambda *_address: console)
    monkeypatch.setattr(module, "leads_steadily", lambda *_target, **_how: leads.pop(0) if len(leads) > 1 else leads[0])
    arguments = {
        "server": "coordinator-2",
        "databases": ["app_ro"],
        "target_host": "localhost",
        "target_port": 5001,
        "socket_dir": "/run/pgbouncer",
        "wait_timeout": 1,
        "drain_timeout": 1,
        **more,
    }
    output = io.StringIO()
    with patch_module_args(arguments), redirect_stdout(output), pytest.raises(SystemExit):
        module.main()
    result: dict[str, Any] = json.loads(output.getvalue())
    return result


BOTH = frozenset({"coordinator-2", "coordinator-3"})
OTHER = frozenset({"coordinator-3"})


def test_sessions_are_replaced_once_haproxy_leads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    console, leads = Console(), [BOTH, frozenset[str](), OTHER]
    left = call(monkeypatch, console, leads)
    assert left["changed"] and left["seconds"] > 0
    assert console.said == ["log in again", 'RECONNECT "app_ro"', "log in again", "SHOW SERVERS", "SHOW SERVERS"]


@pytest.mark.parametrize(
    ("leads", "words"), [(BOTH, "it leads to coordinator-2"), (frozenset[str](), "it leads nowhere")]
)
def test_no_session_ends_while_haproxy_leads_there(
    monkeypatch: pytest.MonkeyPatch, leads: frozenset[str], words: str
) -> None:
    console = Console()
    refused = call(monkeypatch, console, [leads])
    assert refused["failed"] and words in refused["msg"] and "No session was ended" in refused["msg"]
    assert console.said == []


def test_a_transaction_that_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = call(monkeypatch, Console(looks=1000), [OTHER])
    assert refused["failed"] and "drain_timeout" in refused["msg"]
    assert "a session of app with app_ro, in use since 2026-11-28 12:00:00 UTC" in refused["msg"]


def test_a_dry_run_says_nothing_to_pgbouncer(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console()
    assert call(monkeypatch, console, [BOTH], _ansible_check_mode=True)["changed"]
    assert console.said == []


def test_nobody_can_leave_without_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "databases is empty" in call(monkeypatch, Console(), [OTHER], databases=[])["msg"]


def test_a_database_that_pgbouncer_does_not_have_yet_has_no_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console()
    assert call(monkeypatch, console, [OTHER], databases=["new_ro"])["changed"] is False
    assert console.said == []
    assert not call(monkeypatch, console, [OTHER], databases=["new_ro", "app_ro"]).get("failed")
    assert [command for command in console.said if "RECONNECT" in command] == ['RECONNECT "app_ro"']
