# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""pg_replica with patroni_url, and the inventory plugin, against a real Patroni group."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.citus_ha.cluster.plugins.modules import pg_replica as module
from hostile import OPTION, answered, hundred
from hypothesis import given
from hypothesis import strategies as st
from patroni_servers import PGDATA, PatroniGroup, patroni_group

MEMBERS = ["one", "two"]
COLLECTIONS = Path(__file__).resolve().parents[2] / ".collections"


@pytest.fixture(scope="module")
def group() -> Iterator[PatroniGroup]:
    with patroni_group(MEMBERS) as running:
        yield running


def call(group: PatroniGroup, check: bool = False, **options: Any) -> dict[str, Any]:
    """The result of the module, run in this process."""
    arguments = {"patroni_url": group.url("one"), "wait_timeout": 60, "_ansible_check_mode": check, **options}
    output = io.StringIO()
    with patch_module_args(arguments), redirect_stdout(output), pytest.raises(SystemExit):
        module.main()
    result: dict[str, Any] = json.loads(output.getvalue())
    return result


def four_times(group: PatroniGroup, action: str, **options: Any) -> dict[str, Any]:
    """Check, apply, apply again, check again."""
    predicted = call(group, check=True, **options)
    assert predicted["changed"] is True, predicted
    applied = call(group, **options)
    assert not applied.get("failed"), applied
    assert predicted["actions"] == applied["actions"] == [action]
    for check in (False, True):
        assert call(group, check=check, **options)["changed"] is False
    return applied


def standby(group: PatroniGroup) -> str:
    return next(name for name in MEMBERS if name != group.leader())


def test_a_member_that_streams(group: PatroniGroup) -> None:
    result = call(group, name=standby(group))
    assert (result["changed"], result["role"], result["receiver"]) == (False, "standby", "streaming")


def test_a_planned_switchover(group: PatroniGroup) -> None:
    target = standby(group)
    applied = four_times(group, f"switchover {target}", name=target, state="promoted")
    assert applied["role"] == "primary"
    assert group.leader() == target
    group.wait()


def test_a_failover_by_force(group: PatroniGroup) -> None:
    target = standby(group)
    four_times(group, f"failover {target}", name=target, state="promoted", force=True)
    assert group.leader() == target
    group.wait()


def test_the_leader_is_no_standby(group: PatroniGroup) -> None:
    result = call(group, name=group.leader())
    assert result["failed"] is True
    assert "Switch over to another member first" in result["msg"]


def test_pausing_the_group(group: PatroniGroup) -> None:
    four_times(group, "pause test", name="one", state="paused")
    assert group.get("two", "/config")["pause"] is True
    call(group, name="one", state="paused")
    group.servers["one"].run(["curl", "-s", "-X", "PATCH", "-d", '{"pause": null}', "http://localhost:8008/config"])


def test_a_broken_member_is_copied_anew_when_allowed(group: PatroniGroup) -> None:
    target, leader_url = standby(group), group.url(group.leader())
    broken = group.servers[target]
    broken.run(["pkill", "-f", "/usr/bin/patroni"])
    broken.run(["sh", "-c", f"while test -e {PGDATA}/postmaster.pid; do sleep 0.2; done"])
    broken.run(["sh", "-c", f": > {PGDATA}/global/pg_control"])
    group.start(target)
    refused = call(group, name=target, patroni_url=leader_url, wait_timeout=8)
    assert refused["failed"] is True
    assert "allow_rebuild: true" in refused["msg"]
    applied = call(group, name=target, patroni_url=leader_url, allow_rebuild=True)
    assert not applied.get("failed"), applied
    assert applied["actions"] == [f"reinitialize {target}"]
    assert call(group, name=target, allow_rebuild=True)["changed"] is False


def inventory(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    path = folder / "patroni.yml"
    path.write_text(json.dumps({"plugin": "citus_ha.cluster.patroni", **options}))
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_INVENTORY_ENABLED": "citus_ha.cluster.patroni",
    }
    program = Path(sys.executable).parent / "ansible-inventory"
    done = subprocess.run([program, "-i", path, "--list"], env=environment, capture_output=True, check=True, cwd=folder)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def plain(variables: dict[str, Any]) -> dict[str, Any]:
    """Without Ansible's mark of what must not be templated."""
    return {key: value["__ansible_unsafe"] if isinstance(value, dict) else value for key, value in variables.items()}


def test_the_inventory_knows_who_leads(group: PatroniGroup, tmp_path: Path) -> None:
    group.wait()
    by_etcd = inventory(tmp_path, {"etcd_urls": [group.etcd_url], "scope": "test"})
    by_api = inventory(tmp_path, {"groups_urls": {"all": ["http://127.0.0.1:1", group.url("two")]}})
    for seen in (by_etcd, by_api):
        assert seen["patroni_leader"]["hosts"] == [group.leader()]
        assert seen["patroni_replica"]["hosts"] == [standby(group)]
    for name in MEMBERS:
        ours, theirs = (plain(seen["_meta"]["hostvars"][name]) for seen in (by_etcd, by_api))
        assert ours == theirs


def test_absent_says_that_the_member_is_still_there(group: PatroniGroup) -> None:
    result = call(group, name=standby(group), state="absent")
    assert result["failed"] is True
    assert "Stop Patroni on it" in result["msg"]
    assert call(group, name="three", state="absent")["changed"] is False


@hundred
@given(
    name=OPTION,
    state=st.sampled_from(["streaming", "promoted"]),
    more=st.fixed_dictionaries({}, optional={"force": st.booleans(), "allow_rebuild": st.booleans()}),
)
def test_hostile_names(group: PatroniGroup, name: str, state: str, more: dict[str, Any]) -> None:
    assert not answered(call(group, name=name, state=state, wait_timeout=0, **more))
