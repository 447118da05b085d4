# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""patroni_switchover's leading half against a real Patroni group. The poolers' half needs a whole cluster."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.citus_ha.cluster.plugins.modules import patroni_switchover as module
from hostile import NUMBERS, OPTION, answered, hundred
from hypothesis import given
from hypothesis import strategies as st
from patroni_servers import PatroniGroup, patroni_group

MEMBERS = ["one", "two"]


@pytest.fixture(scope="module")
def group() -> Iterator[PatroniGroup]:
    with patroni_group(MEMBERS, dynamic={"synchronous_mode": True}) as running:
        wait_for_synchronous(running)
        yield running


def wait_for_synchronous(group: PatroniGroup) -> None:
    """Only a synchronous standby may take over as planned; Patroni chooses one a moment after it streams."""
    deadline = time.monotonic() + 30
    while "sync_standby" not in (roles := {member["role"] for member in group.get("one", "/cluster")["members"]}):
        assert time.monotonic() < deadline, roles
        time.sleep(0.1)


def call(group: PatroniGroup, check: bool = False, **options: Any) -> dict[str, Any]:
    """The result of the module, run in this process."""
    arguments = {"url": group.url("one"), "_ansible_check_mode": check, "_ansible_diff": True, **options}
    output = io.StringIO()
    with patch_module_args(arguments), redirect_stdout(output), pytest.raises(SystemExit):
        module.main()
    result: dict[str, Any] = json.loads(output.getvalue())
    return result


def standby(group: PatroniGroup) -> str:
    return next(name for name in MEMBERS if name != group.leader())


def test_check_apply_and_again(group: PatroniGroup) -> None:
    old, new = group.leader(), standby(group)
    predicted = call(group, check=True, candidate=new)
    assert not predicted.get("failed"), predicted
    assert (predicted["changed"], predicted["leader"], predicted["new_leader"]) == (True, old, new)
    assert group.leader() == old
    applied = call(group, candidate=new)
    assert not applied.get("failed"), applied
    assert (applied["changed"], applied["leader"], applied["new_leader"]) == (True, old, new)
    assert predicted["diff"] == applied["diff"] == {"before": {"leader": old}, "after": {"leader": new}}
    assert group.leader() == new
    # Complete again: whoever led before streams.
    group.wait(timeout=0.5)
    for check in (False, True):
        assert call(group, check=check, candidate=new)["changed"] is False


def test_without_a_candidate_every_run_switches(group: PatroniGroup) -> None:
    for _run in range(2):
        expected = standby(group)
        applied = call(group)
        assert not applied.get("failed"), applied
        assert applied["new_leader"] == expected
        assert group.leader() == expected


def test_a_forced_failover(group: PatroniGroup) -> None:
    new = standby(group)
    applied = call(group, candidate=new, force=True)
    assert not applied.get("failed"), applied
    assert (applied["changed"], applied["new_leader"]) == (True, new)
    group.wait()


def test_who_is_no_member_cannot_take_over(group: PatroniGroup) -> None:
    leader = group.leader()
    refused = call(group, candidate="three")
    assert refused["failed"] is True
    assert "three" in refused["msg"]
    assert group.leader() == leader


@hundred
@given(
    candidate=OPTION,
    more=st.fixed_dictionaries(
        {},
        optional={
            "force": st.booleans(),
            "max_lag": NUMBERS,
            "part": OPTION,
            "socket_dir": OPTION,
            "socket_port": NUMBERS,
            "poolers": st.lists(OPTION, max_size=3),
            "drain_timeout": NUMBERS,
            "wait_timeout": NUMBERS,
            "leader": OPTION,
            "target_host": OPTION,
            "target_port": NUMBERS,
        },
    ),
)
def test_hostile_input(group: PatroniGroup, candidate: str, more: dict[str, Any]) -> None:
    leader = group.leader()
    assert not answered(call(group, candidate=candidate, **more))
    assert group.leader() == leader
