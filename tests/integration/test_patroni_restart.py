# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""patroni_restart's half beside the server against a real Patroni group. The poolers' half needs a whole cluster."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.citus_ha.cluster.plugins.modules import patroni_restart as module
from hostile import NUMBERS, OPTION, answered, hundred
from hypothesis import given
from hypothesis import strategies as st
from patroni_servers import PatroniGroup, patroni_group

MEMBERS = ["one", "two"]
READERS = ["app_ro"]


@pytest.fixture(scope="module")
def group() -> Iterator[PatroniGroup]:
    with patroni_group(MEMBERS) as running:
        yield running


def call(group: PatroniGroup, entrance: str, check: bool = False, **options: Any) -> dict[str, Any]:
    """The result of the module, run in this process, with ``entrance`` for the server that clients reach."""
    server = group.servers[entrance]
    arguments = {
        "url": group.url("one"),
        "part": "server",
        "socket_dir": server.address,
        "poolers": ["pgbouncer-1"],
        "_ansible_check_mode": check,
        **options,
    }
    output = io.StringIO()
    with patch_module_args(arguments), redirect_stdout(output), pytest.raises(SystemExit):
        module.main()
    result: dict[str, Any] = json.loads(output.getvalue())
    return result


def starts(group: PatroniGroup) -> dict[str, Any]:
    return {name: server.query("SELECT pg_postmaster_start_time()")[0][0] for name, server in group.servers.items()}


def standby(group: PatroniGroup) -> str:
    return next(name for name in MEMBERS if name != group.leader())


def test_a_standby_restarts_alone_and_a_dry_run_does_nothing(group: PatroniGroup) -> None:
    leader, name, before = group.leader(), standby(group), starts(group)
    predicted = call(group, name, check=True, member=name, databases=READERS)
    assert (predicted["changed"], predicted["member"]) == (True, name) and starts(group) == before
    applied = call(group, name, member=name, databases=READERS)
    assert not applied.get("failed"), applied
    after = starts(group)
    assert (after[leader], after[name] > before[name], group.leader()) == (before[leader], True, leader)


def test_a_leader_restarts_where_it_is(group: PatroniGroup) -> None:
    leader, before = group.leader(), starts(group)
    applied = call(group, leader, member=leader)
    assert not applied.get("failed"), applied
    after = starts(group)
    assert (after[leader] > before[leader], group.leader()) == (True, leader)
    group.wait()


def test_whoever_is_in_a_transaction_is_not_disturbed(group: PatroniGroup) -> None:
    name, before = standby(group), starts(group)
    reader = group.servers[name].connect()
    reader.autocommit = False
    try:
        reader.cursor().execute("SELECT 1")
        refused = call(group, name, member=name, databases=READERS, drain_timeout=1)
        assert refused["failed"] and "Nothing was changed and clients go on as before" in refused["msg"]
        reader.cursor().execute("SELECT 1")
    finally:
        reader.close()
    assert starts(group) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [({"member": "three"}, "no member three"), ({"member": "two"}, "is a standby, not the leader")],
)
def test_what_cannot_work_is_refused(group: PatroniGroup, options: dict[str, Any], words: str) -> None:
    before = starts(group)
    refused = call(group, standby(group), **options)
    assert refused["failed"] and words in refused["msg"]
    assert starts(group) == before


@hundred
@given(
    more=st.fixed_dictionaries(
        {},
        optional={
            "part": OPTION,
            "member": OPTION,
            "databases": st.lists(OPTION, max_size=3),
            "socket_dir": OPTION,
            "socket_port": NUMBERS,
            "poolers": st.lists(OPTION, max_size=3),
            "standbys": st.lists(OPTION, max_size=3),
            "drain_timeout": NUMBERS,
            "restart_timeout": NUMBERS,
            "wait_timeout": NUMBERS,
            "target_host": OPTION,
            "target_port": NUMBERS,
        },
    ),
)
def test_hostile_input(group: PatroniGroup, more: dict[str, Any]) -> None:
    before = starts(group)
    assert not answered(call(group, standby(group), **{"member": "nobody", **more}))
    assert starts(group) == before
