# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What verify.yml says is wrong, given what the nodes answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLAY = f"""
- hosts: all
  gather_facts: false
  vars_files: [{ROOT}/roles/status/vars/main.yml]
  tasks:
    - ansible.builtin.copy:
        dest: "{{{{ playbook_dir }}}}/found.json"
        content: "{{{{ lookup('ansible.builtin.vars', asked) | to_json }}}}"
        mode: "0600"
      when: inventory_hostname == 'coordinator-1'
"""
NODES = {
    name: {
        "name": name,
        "address": name,
        "ip": f"10.0.0.{number}",
        "kind": "postgres",
        "group": name.partition("-")[0],
        "citus_group": group,
        "manager": "patroni",
        "ports": {"postgres_port": 5432},
        "initial_primary": name.endswith("-1"),
    }
    for number, (name, group) in enumerate([("coordinator-1", 0), ("worker1-1", 1), ("worker1-2", 1)], 1)
}


def registered(name: str, role: str = "primary", **more: Any) -> dict[str, Any]:
    return {"name": name, "port": 5432, "role": role, "is_active": True, "metadata_synced": True, **more}


def pair(source: str, target: str, ok: bool | None) -> dict[str, Any]:
    return {"from_name": source, "from_port": 5432, "to_name": target, "to_port": 5432, "ok": ok}


def answers() -> dict[str, Any]:
    """Of a cluster in which all is well, as the leader of the coordinator has them."""
    leaders = [{"name": name, "role": "leader"} for name in ("coordinator-1", "worker1-1")]
    return {
        "cluster_topology": {"nodes": NODES, "coordinators": ["coordinator-1"]},
        "cluster_node": NODES["coordinator-1"],
        "cluster_pki_path": "/nonexistent",
        "cluster_database": "app",
        "cluster_reader_suffix": "_ro",
        "status_max_in_doubt": 60,
        "status_max_lag": 100,
        "status_min_certificate_days": 7,
        "__status_leads": True,
        "__status_patroni": {"members": [*leaders, {"name": "worker1-2", "role": "sync_standby"}], "paused": False},
        "__status_citus": {
            "nodes": [registered("coordinator-1"), registered("worker1-1"), registered("worker1-2", "secondary")],
            "health": [pair("coordinator-1", "worker1-1", True)],
            "drift": [],
            "unavailable": {},
        },
        "__status_coordinator_leaders": [NODES["coordinator-1"]],
        "__status_pooler": {"query_result": [{"address": "10.0.0.1", "port": 5432, "in_recovery": False}]},
        "__status_reader": {"query_result": [{"address": "10.0.0.1", "port": 5432, "in_recovery": False}]},
        "__status_reached": {"query_result": []},
        "__status_slots": {"query_result": []},
        "__status_in_doubt": {"query_result": []},
        "__status_server": {"query_result": [{"state": "running", "role": "primary", "lag": None}]},
        "service_down": [],
    }


def problems(folder: Path, given: dict[str, Any], asked: str = "__status_found_here") -> list[str]:
    """What is said of the node, without its name, when there are ``others`` in the play."""
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "asked": asked}
    others: dict[str, Any] = dict.fromkeys(given.get("others", []), local)
    inventory = {"all": {"hosts": {"coordinator-1": {**given, **local}, **others}}}
    (folder / "inventory.yml").write_text(json.dumps(inventory), encoding="utf-8")
    (folder / "play.yml").write_text(PLAY, encoding="utf-8")
    (folder / "problems.j2").symlink_to(ROOT / "roles/status/templates/problems.j2")
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(folder / "inventory.yml")]
    ran = subprocess.run(
        [*command, str(folder / "play.yml")],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return [
        text.removeprefix("coordinator-1: ") for text in json.loads((folder / "found.json").read_text(encoding="utf-8"))
    ]


def test_nothing_is_said_of_a_cluster_in_which_all_is_well(tmp_path: Path) -> None:
    assert problems(tmp_path, answers()) == []


def test_everything_that_is_wrong_is_said(tmp_path: Path) -> None:
    given = answers()
    given["__status_patroni"]["paused"] = True
    given["__status_etcd"] = {"failed": True, "stderr": "context deadline exceeded"}
    given["__status_server"] = {"query_result": [{"state": "not streaming", "role": "standby", "lag": 101}]}
    given["service_down"] = ["coordinator-1-lease"]
    given["__status_slots"]["query_result"] = [{"slot_name": "left", "kept": "16 MB"}]
    given["__status_in_doubt"]["query_result"] = [
        {"gid": "citus_0_2", "database": "app", "owner": "app", "age": 61, "of_citus": True},
        {"gid": "it's mine", "database": "postgres", "owner": "shop", "age": 3600, "of_citus": False},
    ]
    given["__status_citus"] = {
        # worker1-1 leads
        "nodes": [
            registered("coordinator-1", metadata_synced=False),
            registered("worker1-1", "secondary"),
            registered("worker9", port=5433),
        ],
        "health": [pair("coordinator-1", "worker1-1", False), pair("worker1-1", "coordinator-1", None)],
        "drift": [{"table": "pg_dist_node"}],
        "unavailable": {"versions": "permission denied"},
    }
    given["__status_pooler"]["query_result"] = [{"address": "10.0.0.9", "port": 5432, "in_recovery": True}]
    given["__status_reader"]["query_result"] = [{"address": "10.0.0.1", "port": 5433, "in_recovery": True}]
    given["__status_reached"]["query_result"] = [{"name": "worker1-1", "port": 5432}]
    assert problems(tmp_path, given) == [
        "context deadline exceeded",
        "coordinator-1-lease does not run. start.yml starts it, logs.yml shows what it said.",
        "leads to a server that is in recovery, 10.0.0.9.",
        "leads to 10.0.0.9, port 5432, instead of coordinator-1, which leads the coordinator. If it lasts, look at the"
        " log of its HAProxy.",
        "leads readers to 10.0.0.1, port 5433, which is no server of the coordinator. Look at the log of its HAProxy.",
        "does not reach worker1-1:5432, and could not lead.",
        "nobody reads the replication slot left, which keeps 16 MB of WAL. Start its reader, or drop it:"
        " pg_drop_replication_slot.",
        "the transaction citus_0_2 of app in app has been in doubt for 61 seconds: it is decided when all nodes"
        " reach each other.",
        "the transaction it's mine of shop in postgres has been in doubt for 3600 seconds: its application decides it,"
        " or you do, with COMMIT PREPARED or ROLLBACK PREPARED.",
        "is not streaming.",
        "is a standby, and the inventory says otherwise: the first host of a group, or the one with"
        " postgres_initial_role: primary, is its primary.",
        "lags 101 bytes; status_max_lag is 100.",
        "automatic failover is switched off for coordinator. resume.yml switches it on.",
        "could not ask for versions: permission denied",
        "worker1-2 is not registered in Citus. site.yml registers it.",
        "coordinator-1 is registered, but not active or without Citus metadata. site.yml activates it when it runs.",
        "Citus takes another server for the primary of worker1 than worker1-1, which leads it.",
        "coordinator-1:5432 does not reach worker1-1:5432.",
        "worker1-1:5432 does not reach coordinator-1:5432.",
        'metadata differs between nodes: {"table": "pg_dist_node"}',
    ]


def test_a_pooler_without_an_answer_may_be_paused(tmp_path: Path) -> None:
    given = {**answers(), "__status_pooler": {"failed": True, "msg": "Timed out.", "timedout": {"period": 20}}}
    assert problems(tmp_path, given) == [
        "does not answer. logs.yml shows what it said.",
        "lets no client in. One that is paused (SHOW STATE in its console) goes on after RESUME.",
    ]


def test_readers_who_are_not_let_in_are_missed(tmp_path: Path) -> None:
    given = {**answers(), "__status_reader": {"failed": True, "msg": "connection refused"}}
    assert problems(tmp_path, given) == ["connection refused", "lets no reader in (database app_ro)."]


def test_a_node_that_was_not_judged_is_named(tmp_path: Path) -> None:
    given = {"__status_found": ["coordinator-1: is away."], "others": ["worker1-1"]}
    assert problems(tmp_path, given, "__status_problems") == [
        "is away.",
        "worker1-1: was not judged. The tasks above say why.",
    ]


@pytest.mark.parametrize("lacking", ["from_name", "ok"])
def test_an_answer_that_is_not_understood_is_no_health(tmp_path: Path, lacking: str) -> None:
    given = answers()
    given["__status_citus"]["health"] = [pair("coordinator-1", "worker1-1", False)]
    del given["__status_citus"]["health"][0][lacking]
    with pytest.raises(AssertionError, match=r"undefined|has no attribute"):
        problems(tmp_path, given)
