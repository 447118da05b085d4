# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""patroni_group against a real Patroni group: check, apply, again, again with check."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.citus_ha.cluster.plugins.modules import patroni_group as module
from hostile import NUMBERS, OPTION, answered, hundred
from hypothesis import given
from hypothesis import strategies as st
from patroni_servers import PatroniGroup, patroni_group

MEMBERS = ["one", "two"]


@pytest.fixture(scope="module")
def group() -> Iterator[PatroniGroup]:
    with patroni_group(MEMBERS, dynamic={"synchronous_mode": True}) as running:
        yield running


def call(group: PatroniGroup, check: bool = False, **options: Any) -> dict[str, Any]:
    """The result of the module, run in this process."""
    arguments = {"url": group.url("one"), "_ansible_check_mode": check, "_ansible_diff": True, **options}
    output = io.StringIO()
    with patch_module_args(arguments), redirect_stdout(output), pytest.raises(SystemExit):
        module.main()
    result: dict[str, Any] = json.loads(output.getvalue())
    return result


def four_times(group: PatroniGroup, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check, apply, apply again, check again; the first two results."""
    predicted = call(group, check=True, **options)
    applied = call(group, **options)
    assert not predicted.get("failed"), predicted
    assert not applied.get("failed"), applied
    assert predicted["changed"] is True
    assert applied["changed"] is True
    for check in (False, True):
        again = call(group, check=check, **options)
        assert again["changed"] is False, again
        assert "diff" not in again
    return predicted, applied


def setting(group: PatroniGroup, member: str, name: str) -> str:
    return str(group.servers[member].query("SELECT current_setting(%s)", [name])[0][0])


def test_waits_and_tells_who_leads(group: PatroniGroup) -> None:
    result = call(group, members=MEMBERS, wait_sync=True)
    assert result["changed"] is False
    leader = group.leader()
    assert result["leader"]["name"] == leader
    assert result["leader"]["host"] == group.servers[leader].address
    assert result["leader"]["port"] == 5432
    assert {member["name"]: member["state"] for member in result["members"] if member["role"] == "sync_standby"} == {
        name: "streaming" for name in MEMBERS if name != leader
    }
    assert result["scope"] == "test"


def test_a_member_that_never_joins_is_named(group: PatroniGroup) -> None:
    result = call(group, members=[*MEMBERS, "three"], wait_timeout=1)
    assert result["failed"] is True
    assert "member three has not joined" in result["msg"]


def test_a_parameter_that_needs_no_restart(group: PatroniGroup) -> None:
    predicted, applied = four_times(group, config={"postgresql": {"parameters": {"work_mem": "7MB"}}})
    assert predicted["diff"] == applied["diff"]
    assert applied["diff"]["after"] == {"postgresql": {"parameters": {"work_mem": "7MB"}}}
    assert applied["diff"]["before"] == {"postgresql": {"parameters": {}}}
    assert predicted["config"] == applied["config"] == group.get("two", "/config")
    assert applied["pending_restart"] == []
    for member in MEMBERS:
        assert setting(group, member, "work_mem") == "7MB"


@pytest.mark.parametrize("value", ["7168kB", "7MB"])
def test_another_spelling_is_no_change(group: PatroniGroup, value: str) -> None:
    assert call(group, config={"postgresql": {"parameters": {"work_mem": value}}})["changed"] is False


def test_null_removes(group: PatroniGroup) -> None:
    _predicted, applied = four_times(group, config={"postgresql": {"parameters": {"work_mem": None}}})
    assert applied["patch"] == {"postgresql": {"parameters": {"work_mem": None}}}
    assert "work_mem" not in group.get("one", "/config")["postgresql"]["parameters"]
    assert setting(group, "two", "work_mem") == "4MB"


def test_a_restart_is_only_announced_without_restart_pending(group: PatroniGroup) -> None:
    applied = call(group, config={"postgresql": {"parameters": {"max_connections": 60}}})
    assert applied["changed"] is True
    assert sorted(applied["pending_restart"]) == MEMBERS
    assert applied["restarted"] == []
    predicted = call(group, check=True, restart_pending=True)
    assert predicted["changed"] is True
    assert predicted["restarted"] == [*(name for name in MEMBERS if name != group.leader()), group.leader()]


@pytest.mark.parametrize("limit", [70, 40], ids=["raised", "lowered"])
def test_change_and_restart_in_one_run(group: PatroniGroup, limit: int) -> None:
    leader = group.leader()
    timeline = group.get("one", "/cluster")["members"][0]["timeline"]
    _predicted, applied = four_times(
        group,
        config={"postgresql": {"parameters": {"max_connections": limit}}},
        restart_pending=True,
        members=MEMBERS,
        wait_sync=True,
    )
    assert applied["pending_restart"] == []
    standby_first = [*(name for name in MEMBERS if name != leader), leader]
    assert applied["restarted"] == (standby_first if limit == 70 else standby_first[::-1])
    assert applied["leader"]["name"] == leader, "a restart must not be a failover"
    assert applied["leader"] and applied["members"][0]["timeline"] == timeline
    for member in MEMBERS:
        assert setting(group, member, "max_connections") == str(limit)


def test_leader_restart_is_no_failover_with_primary_start_timeout_0(group: PatroniGroup) -> None:
    leader = group.leader()
    call(group, config={"primary_start_timeout": 0})
    applied = call(
        group, config={"postgresql": {"parameters": {"max_locks_per_transaction": 80}}}, restart_pending=True
    )
    assert sorted(applied["restarted"]) == MEMBERS
    assert group.leader() == leader


def test_a_restart_that_nothing_needs_and_in_the_order_that_is_asked(group: PatroniGroup) -> None:
    started = {name: group.servers[name].query("SELECT pg_postmaster_start_time()")[0][0] for name in MEMBERS}
    leader = group.leader()
    order = [*(name for name in MEMBERS if name != leader), leader]
    predicted = call(group, check=True, restart=order)
    applied = call(group, restart=order, members=MEMBERS, wait_sync=True)
    assert predicted["restarted"] == applied["restarted"] == order
    assert group.leader() == leader
    for name in MEMBERS:
        assert group.servers[name].query("SELECT pg_postmaster_start_time()")[0][0] > started[name]
    assert "no member three" in call(group, restart=["three"])["msg"]


def test_pause_and_resume(group: PatroniGroup) -> None:
    _predicted, applied = four_times(group, paused=True)
    assert applied["paused"] is True
    assert group.get("two", "/patroni")["pause"] is True
    _predicted, applied = four_times(group, paused=False)
    assert applied["paused"] is False
    assert "pause" not in group.get("two", "/patroni")


def test_nobody_listens(group: PatroniGroup) -> None:
    result = call(group, url=group.url("one").replace("8008", "8009"), wait=False)
    assert result["failed"] is True
    assert "8009/cluster got no answer" in result["msg"]


# The check mode of everything that changes: what is asked for here would stop the group, as it was told to.
@hundred
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "config": st.recursive(
                OPTION | NUMBERS | st.booleans() | st.none(),
                lambda below: st.dictionaries(OPTION, below, max_size=3) | st.lists(below, max_size=3),
                max_leaves=6,
            ),
            "members": st.lists(OPTION, max_size=3),
            "restart": st.lists(OPTION, max_size=3),
            "paused": OPTION | st.booleans(),
            "restart_pending": OPTION | st.booleans(),
            "max_lag": NUMBERS | OPTION,
            "wait_timeout": NUMBERS | OPTION,
            "restart_timeout": NUMBERS | OPTION,
            "timeout": NUMBERS | OPTION,
            "url": OPTION.map(lambda text: f"http://127.0.0.1:1/{text}") | OPTION.map(lambda text: f"http://[{text}"),
            "ca_cert": OPTION,
            "client_cert": OPTION,
        },
    )
)
def test_hostile_input(group: PatroniGroup, options: dict[str, Any]) -> None:
    before = group.get("one", "/config")
    answered(call(group, check=True, **options))
    assert group.get("one", "/config") == before


@hundred
@given(restart=st.lists(OPTION, min_size=1, max_size=3), members=st.none() | st.lists(OPTION, max_size=3))
def test_hostile_names(group: PatroniGroup, restart: list[str], members: list[str] | None) -> None:
    assert not answered(call(group, restart=restart, members=members, wait=False))
