# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Which machines are refused, what a unit is told, and what a machine's files and packages are."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.citus_ha.cluster.plugins.filter.files import machine_file, masked_unit
from ansible_collections.citus_ha.cluster.plugins.module_utils._ports import is_here
from ansible_collections.citus_ha.cluster.plugins.modules.machine import clock_is_kept, is_device, missing_sysctl
from ansible_collections.citus_ha.cluster.plugins.modules.unit import State, health_command, plan
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.machine import (
    Wanted,
    clock_offset,
    findings,
    warnings,
)

ROOT = Path(__file__).resolve().parents[2]
GIGABYTE = 1024**3
GOOD: dict[str, Any] = {
    "distribution": {"id": "debian", "version": "13", "codename": "trixie"},
    "systemd": True,
    "free_bytes": {"/var/lib/citus_ha": 9 * GIGABYTE, "/usr": 9 * GIGABYTE},
    "owner": {},
    "data_folders": [],
    "missing_addresses": [],
    "taken_ports": [],
    "used_units": [],
    "missing_sysctl": [],
    "missing_watchdog": "",
    "clock_is_kept": True,
}
OURS = {"cluster_id": "0a1b", "cluster_name": "citus", "node": "worker1-1"}


def judged(offset: float = 0, seen: dict[str, Any] | None = None, **wanted: Any) -> list[str]:
    """Findings about the good machine with some of it replaced."""
    defaults = {
        "cluster_id": "0a1b",
        "kind": "postgres",
        "postgres_version": 17,
        "postgres_repository": "distribution",
        "minimum_free": 2 * GIGABYTE,
    }
    return findings({**GOOD, **(seen or {})}, Wanted(**{**defaults, **wanted}), offset)


def system(name: str, version: str) -> dict[str, Any]:
    return {"distribution": {"id": name, "version": version, "codename": ""}}


def test_an_address_is_here_or_not() -> None:
    assert is_here("127.0.0.1") and is_here("0.0.0.0")
    assert not is_here("198.51.100.7"), "for documentation, RFC 5737"


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        ({}, {}),
        (system("debian", "12"), {"postgres_repository": "pgdg"}),
        (system("ubuntu", "22.04"), {"postgres_repository": "pgdg"}),
        (system("ubuntu", "24.04"), {"postgres_repository": "pgdg", "postgres_version": 18}),
        # a machine that is ours may have our data and less space
        ({"owner": OURS, "data_folders": ["/var/lib/citus_ha/postgres/data"]}, {}),
        ({"owner": OURS, "free_bytes": {"/usr": GIGABYTE}}, {}),
    ],
)
def test_a_good_machine_is_taken(seen: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert judged(seen=seen, **wanted) == []


@pytest.mark.parametrize(
    ("seen", "wanted", "expected"),
    [
        (system("fedora", "42"), {}, "it runs fedora 42. Supported are Debian 13"),
        (system("debian", "11"), {}, "it runs Debian 11."),
        (system("debian", "12"), {}, "Patroni 3.0 and PgBouncer 1.18; the cluster needs PostgreSQL 17"),
        (system("debian", "12"), {"kind": "pooler"}, "Set postgres_repository: pgdg"),
        # etcd comes from the distribution everywhere
        (system("debian", "12"), {"kind": "etcd"}, "Debian 12 has etcd 3.4, and etcd is always the distribution's"),
        (
            system("ubuntu", "22.04"),
            {"kind": "etcd"},
            "has etcd 3.3, and etcd is always the distribution's; Patroni needs 3.5",
        ),
        ({"used_units": ["haproxy"]}, {}, "it uses haproxy.service for something else"),
        ({}, {"postgres_version": 16}, "postgres_version is 16, and Debian 13 itself has PostgreSQL 17"),
        ({"systemd": False}, {}, "systemd does not run there"),
        ({"free_bytes": {"/usr": GIGABYTE}}, {}, "1024 MB are free for /usr, and 2048 MB are needed"),
        ({"owner": OURS, "free_bytes": {"/usr": 5}}, {}, "its disk is full: 0 MB are free"),
        ({"owner": {"cluster_id": "ffff"}}, {}, "another cluster: unknown with the cluster_id ffff"),
        ({"data_folders": ["/var/lib/postgresql/15/main"]}, {}, "did not make: /var/lib/postgresql/15/main"),
        (
            {"missing_addresses": ["198.51.100.7"]},
            {},
            "no interface with the address 198.51.100.7, where its processes",
        ),
        ({"missing_sysctl": ["vm.swapiness"]}, {}, "os_sysctl sets vm.swapiness, which its kernel does not have"),
        ({"missing_watchdog": "/dev/watchdog"}, {}, "it has no device /dev/watchdog. Set os_watchdog_module"),
        ({"clock_is_kept": False}, {"time_check": "require"}, "nothing keeps it so: install and start chrony"),
        (
            {"taken_ports": [{"address": "192.0.2.1", "port": 5432, "variable": "postgres_port"}]},
            {},
            "port 5432 (192.0.2.1), which postgres_port wants",
        ),
        (
            {
                "taken_ports": [
                    {"address": address, "port": 6432, "variable": "pgbouncer_port"}
                    for address in ("2001:db8::51", "127.0.0.1")
                ]
            },
            {"kind": "pooler"},
            "port 6432 (2001:db8::51, 127.0.0.1), which pgbouncer_port wants",
        ),
    ],
)
def test_a_bad_machine_is_refused_with_the_remedy(seen: dict[str, Any], wanted: dict[str, Any], expected: str) -> None:
    found = judged(seen=seen, **wanted)
    assert len(found) == 1
    assert expected in found[0]


def test_everything_is_said_at_once() -> None:
    assert len(judged(offset=-90, seen={"free_bytes": {"/usr": 0}, "data_folders": ["/x"]})) == 3


@pytest.mark.parametrize(
    ("machine", "offset"),
    [(100.0, 0.0), (104.0, 0.0), (99.0, -1.0), (106.5, 1.5)],
)
def test_only_what_the_duration_of_the_question_cannot_explain_is_an_offset(machine: float, offset: float) -> None:
    assert clock_offset(machine, before=100.0, after=105.0) == offset


@pytest.mark.parametrize(("offset", "refused"), [(0.9, False), (-0.9, False), (1.1, True), (-1.1, True)])
def test_more_than_a_second_is_refused(offset: float, refused: bool) -> None:
    assert bool(judged(offset=offset)) == refused


@pytest.mark.parametrize(
    ("kept", "time_check", "warned"),
    [
        (False, "warn", True),
        (False, "off", False),
        (False, "require", False),
        (True, "warn", False),
        (None, "warn", False),
    ],
)
def test_a_clock_that_nobody_keeps_is_a_warning(kept: bool | None, time_check: str, warned: bool) -> None:
    seen = {**GOOD, "clock_is_kept": kept}
    wanted = Wanted("0a1b", "postgres", 17, "distribution", 2 * GIGABYTE, time_check)
    assert bool(warnings(seen, wanted)) == warned
    assert findings(seen, wanted, 0) == [] or time_check == "require"


def test_the_kernel_is_asked_without_changing_anything() -> None:
    assert clock_is_kept() in (True, False, None)
    assert missing_sysctl(["kernel.ostype", "kernel.nonsense"]) == ["kernel.nonsense"]
    assert is_device("/dev/null") and not is_device("/etc/passwd") and not is_device("/nowhere")


RUNNING = State(exists=True, active=True, enabled=True, stale=False)
NOTHING = State(exists=False, active=False, enabled=False, stale=True)


@pytest.mark.parametrize(
    ("state", "desired", "enabled", "verbs"),
    [
        (NOTHING, "started", True, ["enable", "start"]),
        (RUNNING, "started", True, []),
        (RUNNING, "started", None, []),
        (State(True, False, True, False), "started", True, ["start"]),
        (RUNNING, "stopped", None, ["stop"]),
        (NOTHING, "stopped", None, []),
        (RUNNING, "reloaded", None, ["reload"]),
        (State(True, False, True, False), "reloaded", None, ["start"]),
        (RUNNING, "restarted", None, ["restart"]),
        (RUNNING, "absent", None, ["stop", "disable"]),
        (NOTHING, "absent", None, []),
    ],
)
def test_what_a_unit_is_told(state: State, desired: str, enabled: bool | None, verbs: list[str]) -> None:
    assert plan(state, desired, enabled) == verbs


def test_a_unit_carries_its_health_check() -> None:
    unit = "[Service]\nEnvironment=A=1\nEnvironment=B=%h\n\n[X-Health]\nCommand=curl 'http://localhost/a b'\n"
    assert health_command(unit) == ["curl", "http://localhost/a b"]
    assert health_command("[Service]\nUser=etcd\n") == []


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ({"path": "/etc/citus_ha/etcd/etcd.yml"}, {"mode": "0640"}),
        ({"path": "/etc/citus_ha/tls/node.key", "mode": "0600"}, {"mode": "0640", "group": "citus_ha"}),
        ({"path": "/etc/citus_ha/haproxy/check.sh", "mode": "0750"}, {"mode": "0750"}),
        ({"path": "/etc/citus_ha/pgbouncer/userlist.txt", "mode": "0600"}, {"mode": "0640"}),
    ],
)
def test_on_a_machine_root_owns_the_files_and_the_group_reads(file: dict[str, Any], expected: dict[str, Any]) -> None:
    assert machine_file(file) == {**file, **expected}


def test_an_empty_file_masks_a_unit() -> None:
    assert masked_unit("etcd") == {"path": "/etc/systemd/system/etcd.service", "content": "", "mode": "0644"}


def test_machines_get_the_packages_of_the_node_image() -> None:
    listed = yaml.safe_load((ROOT / "roles/packages/vars/main.yml").read_text())
    of_machines = {*listed["packages_common"], *itertools.chain(*listed["packages_of_kind"].values())}
    dockerfile = (ROOT / "roles/citus/files/image/Dockerfile").read_text().replace("${POSTGRESQL_VERSION}", "VERSION")
    installed = re.findall(r"apt-get install --yes --no-install-recommends ((?:[^&])+)&&", dockerfile)
    of_image = {word for words in installed for word in words.replace("\\", " ").split()}
    # For becoming another user over SSH; a container's user is the right one
    assert of_machines - of_image == {"acl"}
    # Modules speak to the pooler's console as well as to the server
    for kind in ("postgres", "pooler"):
        assert "python3-psycopg2" in listed["packages_of_kind"][kind]
    # What backups and monitoring will need, and what the packages bring along by themselves
    extra = {name for name in of_image - of_machines if not name.startswith("prometheus-")}
    assert extra == {"pgbackrest", "postgresql-common"}
