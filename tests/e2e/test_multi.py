# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The topology on two Docker machines over SSH: inventories/docker_multi, on two network namespaces."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import yaml
from cluster import eventually
from machines import Machine, two_machines

from playbooks import REPOSITORY, citus_sources, node_image, run_playbook

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/usr/sbin/sshd").exists(), reason="no sshd here: apt-get install openssh-server"),
]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Machine]]:
    """The two machines, with the node image."""
    with two_machines(tmp_path_factory.mktemp("machines"), node_image(citus_sources()[0])) as made:
        yield made


@pytest.fixture(scope="module")
def inventory(machines: list[Machine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """inventories/docker_multi with the addresses of these machines, and a cluster made from it."""
    folder = tmp_path_factory.mktemp("inventory") / "multi"
    shutil.copytree(REPOSITORY / "inventories/docker_multi", folder, ignore=shutil.ignore_patterns(".secrets"))
    hosts = yaml.safe_load((folder / "hosts.yml").read_text())
    for number, each in enumerate(machines, 1):
        hosts["docker_machines"]["hosts"][f"machine-{number}"] = {
            "ansible_host": each.address,
            "ansible_python_interpreter": sys.executable,
        }
    (folder / "hosts.yml").write_text(yaml.safe_dump(hosts, sort_keys=False))
    everywhere = yaml.safe_load((folder / "group_vars/all.yml").read_text()) | {
        "cluster_name": "citus_ha_test_multi",
        "postgres_memory": "512m",
        "citus_package_source": citus_sources()[0],
        "citus_allow_standin": True,
        "citus_standin_path": str(REPOSITORY / "tests/standin"),
    }
    (folder / "group_vars/all.yml").write_text(yaml.safe_dump(everywhere))
    run_playbook("site", folder, timeout=1800).succeeded()
    yield folder
    run_playbook("destroy", folder, "-e", "confirm=yes").succeeded()


def test_the_nodes_are_where_the_inventory_puts_them(machines: list[Machine], inventory: Path) -> None:
    first, second = (set(each.docker("ps", "--format", "{{.Names}}").split()) for each in machines)

    def with_leases(*servers: str) -> set[str]:
        return {f"{server}{beside}" for server in servers for beside in ("", "-lease")}

    poolers = {"pgbouncer-1", "pgbouncer-1-haproxy"}
    assert first == {"etcd-1", "etcd-3", *poolers, *with_leases("coordinator-1", "worker1-1", "worker2-2")}
    assert second == {"etcd-2", "postgres-1", *with_leases("coordinator-2", "worker1-2", "worker2-1")}


def test_a_second_run_changes_nothing(inventory: Path) -> None:
    assert run_playbook("site", inventory).succeeded().changed == {}


def test_the_example_runs_and_the_cluster_is_healthy(inventory: Path) -> None:
    run_playbook("example", inventory).succeeded()
    run_playbook("verify", inventory).succeeded()


def test_a_lost_machine_takes_no_group_with_it(machines: list[Machine], inventory: Path) -> None:
    dsn = (inventory / ".secrets/app.dsn").read_text().strip()
    lost = machines[1]
    containers = lost.docker("ps", "--quiet").split()
    lost.docker("kill", *containers)

    def answer() -> int:
        connection = psycopg2.connect(dsn, connect_timeout=5)
        try:
            with connection, connection.cursor() as cursor:
                # In every group
                cursor.execute("UPDATE events SET event_type = event_type")
                return int(cursor.rowcount)
        finally:
            connection.close()

    assert eventually(answer, timeout=120) == 6, "all that was there, and may be written"
    lost.docker("start", *containers)
    eventually(lambda: run_playbook("verify", inventory).code == 0, timeout=240)
