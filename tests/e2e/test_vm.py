# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""inventories/vm on machines with systemd, reached over SSH by a user that is not root: tests/machines makes them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from cluster import eventually

from playbooks import REPOSITORY, Run, citus_sources, run_playbook

pytestmark = pytest.mark.slow

NAME = "citus_ha_test_vm"
SUBNET = "10.202.0.0/24"
ADDRESSES = {
    "etcd-1": "10.202.0.11",
    "coordinator-1": "10.202.0.21",
    "coordinator-2": "10.202.0.22",
    "worker1-1": "10.202.0.31",
    "worker1-2": "10.202.0.32",
    "pgbouncer-1": "10.202.0.51",
    "postgres-1": "10.202.0.61",
}
# A machine that no node can run on
OLD = {"old-1": {"ansible_host": "10.202.0.71", "machines_suite": "bookworm"}}


class Machines:
    """The machines, the inventory that names them, and what a person with a console does to them."""

    def __init__(self, folder: Path) -> None:
        self.inventory = folder / "inventory"
        template = REPOSITORY / "inventories/vm"
        shutil.copytree(template, self.inventory, ignore=shutil.ignore_patterns(".secrets"))
        variables = yaml.safe_load((template / "group_vars/all.yml").read_text()) | {
            "cluster_name": NAME,
            "machines_path": str(folder / "machines"),
            "machines_subnet": SUBNET,
            "ansible_ssh_private_key_file": "{{ machines_path }}/key",
            "ansible_ssh_common_args": (
                "-o UserKnownHostsFile={{ machines_path }}/known_hosts -o StrictHostKeyChecking=accept-new"
            ),
            "postgres_memory": "512m",
            "citus_package_source": citus_sources()[0],
            "citus_allow_standin": True,
            "citus_standin_path": str(REPOSITORY / "tests/standin"),
        }
        (self.inventory / "group_vars/all.yml").write_text(yaml.safe_dump(variables))
        self.groups = self.kept(yaml.safe_load((template / "hosts.yml").read_text()))
        self.save()

    def kept(self, groups: dict[str, Any]) -> dict[str, Any]:
        """The template's groups with those of its hosts that have a machine here."""
        result = {}
        for name, group in groups.items():
            result[name] = {key: value for key, value in group.items() if key == "vars"}
            if "hosts" in group:
                result[name]["hosts"] = {h: {"ansible_host": ADDRESSES[h]} for h in group["hosts"] if h in ADDRESSES}
            if "children" in group:
                result[name]["children"] = self.kept(group["children"])
        return {name: group for name, group in result.items() if group.get("hosts") or group.get("children")}

    def save(self, **more_standalone: dict[str, Any]) -> None:
        """Write the hosts, with more of them for a test."""
        groups = json.loads(json.dumps(self.groups))
        groups["standalone"]["hosts"] |= more_standalone
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(groups, sort_keys=False))

    def play(self, name: str, *arguments: str, timeout: float = 1500) -> Run:
        """Run a playbook."""
        return run_playbook(name, self.inventory, *arguments, timeout=timeout)

    def console(self, machine: str, command: str, check: bool = True) -> str:
        """Standard output of a shell command as root on the machine."""
        ran = subprocess.run(
            ["docker", "exec", f"{NAME}.{machine}", "sh", "-c", command],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert ran.returncode == 0 or not check, f"{command} on {machine}: {ran.stderr}"
        return ran.stdout.strip()

    def power(self, verb: str, *machines: str) -> None:
        """``stop``, ``start`` or ``restart`` machines."""
        subprocess.run(
            ["docker", verb, *(f"{NAME}.{machine}" for machine in machines)],
            check=True,
            capture_output=True,
            timeout=120,
        )

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of a statement of the application role, through the pooler."""
        connection = psycopg2.connect((self.inventory / ".secrets/app.dsn").read_text().strip(), connect_timeout=5)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Fresh machines, with nothing on them."""
    made = Machines(tmp_path_factory.mktemp("vm"))
    made.save(**OLD)
    playbooks = "../tests/machines"
    made.play(f"{playbooks}/destroy").succeeded()
    try:
        made.play(f"{playbooks}/create").succeeded()
        made.save()
        yield made
    finally:
        made.save(**OLD)
        made.play(f"{playbooks}/destroy").succeeded()


@pytest.fixture(scope="module")
def cluster(machines: Machines) -> Machines:
    """The machines with the cluster on them."""
    machines.play("site").succeeded()
    return machines


@pytest.mark.timeout(1200)
def test_what_stands_in_the_way_is_said_at_once_and_nothing_is_changed(machines: Machines) -> None:
    machines.console("etcd-1", "mkdir /var/lib/citus_ha && mount -t tmpfs -o size=50m tmpfs /var/lib/citus_ha")
    machines.console("coordinator-1", "nohup python3 -m http.server 5432 >/dev/null 2>&1 & sleep 1")
    clock = "/usr/lib/python3/dist-packages/sitecustomize.py"
    machines.console("coordinator-2", f"echo 'import time; now = time.time; time.time = lambda: now() + 60' > {clock}")
    data = "/var/lib/postgresql/15/main"
    machines.console("worker1-1", f"mkdir -p {data} && echo 15 > {data}/PG_VERSION")
    machines.console("worker1-2", "mv /etc/sudoers.d/admin /etc/admin")
    machines.power("stop", "postgres-1")
    machines.save(**OLD)
    run = machines.play("site")
    output = " ".join(run.output.split())
    try:
        assert run.code != 0
        assert re.search(r"its disk is full: \d+ MB are free for /var/lib/citus_ha, and 2048 MB are needed", output)
        assert f"another program listens on port 5432 ({ADDRESSES['coordinator-1']})" in output
        assert re.search(r"its clock is [45]\d\.\d seconds ahead of this controller's", output)
        assert f"PostgreSQL data that this collection did not make: {data}" in output
        assert "worker1-2: the user admin cannot become root there" in output
        assert "Debian 12 itself has PostgreSQL 15, Patroni 3.0 and PgBouncer 1.18" in output
        assert "[postgres-1]: UNREACHABLE!" in output
        for machine in (*ADDRESSES, *OLD):
            if machine not in ("postgres-1", "etcd-1"):
                assert machines.console(machine, "ls -d /etc/citus_ha /var/lib/citus_ha", check=False) == ""
        assert machines.console("worker1-1", f"cat {data}/PG_VERSION") == "15"
    finally:
        machines.save()
        machines.power("start", "postgres-1")
        machines.console("etcd-1", "umount /var/lib/citus_ha && rmdir /var/lib/citus_ha")
        machines.console("coordinator-2", f"rm {clock}")
        machines.console("worker1-1", "rm -r /var/lib/postgresql")
        machines.console("worker1-2", "mv /etc/admin /etc/sudoers.d/admin")
        machines.power("restart", "coordinator-1")


@pytest.mark.timeout(1500)
def test_an_application_reaches_the_leader_through_the_pooler(cluster: Machines) -> None:
    assert cluster.query("SELECT pg_is_in_recovery(), current_user") == [(False, "app")]
    cluster.play("example").succeeded()
    cluster.play("verify").succeeded()
    assert cluster.query("SELECT count(*) FROM events") == [(6,)]


def test_a_second_run_changes_nothing(cluster: Machines) -> None:
    assert cluster.play("site").succeeded().changed == {}
    assert cluster.play("site", "--check", "--diff").succeeded().changed == {}


def test_there_is_no_container_and_the_packages_units_stay_off(cluster: Machines) -> None:
    assert cluster.console("coordinator-1", "command -v docker podman", check=False) == ""
    assert cluster.console("coordinator-1", "systemctl is-enabled patroni postgresql", check=False) == "masked\nmasked"
    assert cluster.console("coordinator-1", "ls /var/lib/postgresql/17 /etc/postgresql", check=False) == ""
    assert "INFO: no action. I am" in cluster.play("logs", "-e", "node=coordinator-1").succeeded().output


def test_a_process_can_write_to_its_data_only(cluster: Machines) -> None:
    shown = cluster.console("coordinator-1", "systemctl show citus_ha -p ProtectSystem,NoNewPrivileges,MemoryMax")
    assert set(shown.splitlines()) == {"ProtectSystem=strict", "NoNewPrivileges=yes", f"MemoryMax={512 * 1024**2}"}
    key = "/etc/citus_ha/tls/node.key"
    assert cluster.console("pgbouncer-1", f"stat -c '%U %G %a' {key}") == "root citus_ha 640"
    for user in ("postgres", "haproxy"):
        cluster.console("pgbouncer-1", f"runuser -u {user} -- test -r {key} -a ! -w {key}")
    assert cluster.console("pgbouncer-1", f"runuser -u guest -- cat {key}", check=False) == ""


def test_a_killed_process_and_a_rebooted_machine_come_back(cluster: Machines) -> None:
    cluster.console("pgbouncer-1", "systemctl kill --signal KILL citus_ha citus_ha-haproxy")
    cluster.console("worker1-1", "systemctl kill --signal KILL citus_ha")
    cluster.power("restart", "etcd-1", "coordinator-2", "worker1-2", "postgres-1")
    eventually(lambda: cluster.query("SELECT count(*) FROM events") == [(6,)], timeout=120)
    eventually(lambda: cluster.play("verify").code == 0, timeout=240)


def test_limit_and_tags_leave_the_cluster_healthy(cluster: Machines) -> None:
    memory = '{"postgres_parameters": {"work_mem": "9MB"}}'
    cluster.play("site", "--limit", "worker1-2", "-e", memory).succeeded()
    cluster.play("site", "--tags", "pgbouncer", "-e", "pgbouncer_default_pool_size=33").succeeded()
    cluster.play("verify").succeeded()
    assert cluster.console("pgbouncer-1", "grep ^default_pool_size /etc/citus_ha/pgbouncer/pgbouncer.ini").endswith(
        "33"
    )
    cluster.play("site").succeeded()


def test_a_broken_standby_is_built_anew(cluster: Machines) -> None:
    recovering = "psql -h /run/postgresql -U postgres -XAtc 'SELECT pg_is_in_recovery()'"
    standby = next(
        name
        for name in ("worker1-1", "worker1-2")
        if cluster.console(name, f"runuser -u postgres -- {recovering}") == "t"
    )
    cluster.console(standby, "rm /var/lib/citus_ha/postgres/data/global/pg_control; systemctl kill -s KILL citus_ha")
    eventually(lambda: cluster.play("reinit", "-e", f"node={standby}").code == 0, timeout=180)
    eventually(lambda: cluster.play("verify").code == 0, timeout=120)


def test_it_stops_and_starts_and_leaves_nothing_when_it_is_destroyed(cluster: Machines) -> None:
    cluster.play("stop").succeeded()
    assert cluster.console("coordinator-1", "systemctl is-active citus_ha", check=False) == "inactive"
    cluster.play("start").succeeded()
    eventually(lambda: cluster.query("SELECT count(*) FROM events") == [(6,)], timeout=60)

    foreign = json.dumps({"cluster_id": "ffff", "cluster_name": "other", "node": "postgres-1"})
    mark = "/var/lib/citus_ha/cluster.json"
    kept = cluster.console("postgres-1", f"cat {mark}")
    cluster.console("postgres-1", f"echo '{foreign}' > {mark}")
    for playbook, arguments in (("site", ()), ("destroy", ("-e", "confirm=yes"))):
        refused = cluster.play(playbook, *arguments)
        assert refused.code != 0
        assert "another cluster" in refused.output
        assert cluster.console("coordinator-1", "systemctl is-active citus_ha") == "active"
    cluster.console("postgres-1", f"echo '{kept}' > {mark}")

    cluster.play("destroy", "-e", "confirm=yes").succeeded()
    for machine in ADDRESSES:
        left = cluster.console(machine, "ls -d /etc/citus_ha /var/lib/citus_ha /etc/systemd/system/citus*", check=False)
        assert left == ""
        assert cluster.console(machine, "systemctl list-units --no-legend 'citus*'") == ""
