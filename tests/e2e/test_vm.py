# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""inventories/vm on machines with systemd, reached over SSH by a user that is not root: tests/machines makes them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import artifact
import psycopg2
import pytest
import yaml
from attack import attack, bears_it
from cluster import eventually
from leaks import leaks, secrets_of
from vm import Machines, switched_on

from playbooks import REPOSITORY, Run

pytestmark = pytest.mark.slow

NAME = "citus_ha_test_vm"
SUBNET = "10.202.0.0/24"
ADDRESSES = {
    "etcd-1": "10.202.0.11",
    "etcd-2": "10.202.0.12",
    "etcd-3": "10.202.0.13",
    "coordinator-1": "10.202.0.21",
    "coordinator-2": "10.202.0.22",
    "worker1-1": "10.202.0.31",
    "worker1-2": "10.202.0.32",
    "worker2-1": "10.202.0.41",
    "worker2-2": "10.202.0.42",
    "pgbouncer-1": "10.202.0.51",
    "postgres-1": "10.202.0.61",
}
# A machine that no node can run on
OLD = {"old-1": {"ansible_host": "10.202.0.71", "machines_suite": "bookworm"}}


class ExampleMachines(Machines):
    """Those of inventories/vm, with addresses of this machine's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, NAME)
        template = REPOSITORY / "inventories/vm"
        shutil.copytree(template, self.inventory, ignore=shutil.ignore_patterns(".secrets"))
        variables = yaml.safe_load((template / "group_vars/all.yml").read_text()) | self.variables
        variables["machines_subnet"] = SUBNET
        (self.inventory / "group_vars/all.yml").write_text(yaml.safe_dump(variables))
        self.groups = yaml.safe_load((template / "hosts.yml").read_text())
        self.readdress(self.groups)
        self.save()

    def readdress(self, groups: dict[str, Any]) -> None:
        """Give every host the address that it has here."""
        for group in groups.values():
            for host, variables in group.get("hosts", {}).items():
                variables["ansible_host"] = ADDRESSES[host]
            self.readdress(group.get("children", {}))

    def save(self, **more_standalone: dict[str, Any]) -> None:
        """Write the hosts, with more of them for a test."""
        groups = json.loads(json.dumps(self.groups))
        groups["standalone"]["hosts"] |= more_standalone
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(groups, sort_keys=False))


PACKAGES = r"dpkg-query --show --showformat '${Package}\n'"
EVERYTHING = f"(ls -d /etc/citus_ha /var/lib/citus_ha /etc/systemd/system/*.service; {PACKAGES}) 2>/dev/null"


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleMachines]:
    """Fresh machines, with nothing on them."""
    made = ExampleMachines(tmp_path_factory.mktemp("vm"))
    made.save(**OLD)
    with switched_on(made):
        made.save()
        yield made


@pytest.fixture(scope="module")
def cluster(machines: ExampleMachines) -> ExampleMachines:
    """The machines with the cluster on them."""
    machines.play("site").succeeded()
    return machines


def traces(machines: Machines, *without: str) -> dict[str, str]:
    """What has come to machines, or left them, since they were fresh: folders, units, packages, as diff says it."""
    look = f"{EVERYTHING} | diff /srv/fresh - | grep '^[<>]'"
    names = [name for name in (*ADDRESSES, *OLD) if name not in without]
    left = {name: machines.console(name, look, check=False) for name in names}
    return {name: found for name, found in left.items() if found}


@pytest.mark.timeout(1200)
def test_the_machines_have_nothing_of_ours(machines: ExampleMachines) -> None:
    wanted = yaml.safe_load((REPOSITORY / "roles/packages/vars/main.yml").read_text(encoding="utf-8"))
    ours = {name.partition("-VERSION")[0] for names in wanted["packages_of_kind"].values() for name in names}
    ours |= set(wanted["packages_common"])
    for name in (*ADDRESSES, *OLD):
        installed = machines.console(name, PACKAGES).split()
        assert [package for package in installed if package in ours or package.startswith("postgresql")] == []
        machines.console(name, f"{EVERYTHING} > /srv/fresh; test -s /srv/fresh")
    assert traces(machines) == {}


def test_a_machine_that_does_not_answer_stops_all_of_them(machines: ExampleMachines) -> None:
    machines.power("stop", "postgres-1")
    machines.save()
    try:
        run = machines.play("site")
        assert run.code != 0 and "[postgres-1]: UNREACHABLE!" in run.output
        assert traces(machines, "postgres-1") == {}
    finally:
        machines.power("start", "postgres-1")


@pytest.mark.timeout(1200)
def test_what_stands_in_the_way_is_said_at_once_and_nothing_is_changed(machines: ExampleMachines) -> None:
    machines.console("etcd-1", "mkdir /var/lib/citus_ha && mount -t tmpfs -o size=50m tmpfs /var/lib/citus_ha")
    machines.console("coordinator-1", "nohup python3 -m http.server 5432 >/dev/null 2>&1 & sleep 1")
    machines.console("pgbouncer-1", "nohup python3 -m http.server -b 127.0.0.1 8404 >/dev/null 2>&1 & sleep 1")
    machines.console("pgbouncer-1", "cp /etc/os-release /etc/kept; sed -i s/^ID=.*/ID=fedora/ /etc/os-release")
    machines.console("pgbouncer-1", "printf '[Service]\nExecStart=true\n' > /etc/systemd/system/haproxy.service")
    # The machines share one clock: this is how one of them tells another time.
    clock = "/usr/local/bin/date"
    ahead = '#!/bin/sh\nexec /bin/date --date "3 seconds" "$@"'
    machines.console("coordinator-2", f"echo '{ahead}' > {clock}; chmod 755 {clock}")
    data = "/var/lib/postgresql/15/main"
    machines.console("coordinator-1", f"mkdir -p {data} && echo 15 > {data}/PG_VERSION")
    machines.console("worker1-2", "mv /etc/sudoers.d/admin /etc/admin")
    copied = "/var/lib/citus_ha/postgres/data"
    machines.console("worker2-1", f"mkdir -p {copied} && echo 17 > {copied}/PG_VERSION")
    machines.power("stop", "postgres-1")
    wrong = {"os_sysctl": {"vm.swapiness": 1}, "postgres_watchdog": "required"}
    host = machines.groups["coordinator"]["hosts"]["coordinator-2"]
    host.update(wrong)
    machines.save(**OLD)
    # Nothing stands in the way of worker1-1
    run = machines.play("site", "-e", "os_time_check=off")
    output = " ".join(run.output.split())
    try:
        assert run.code != 0
        assert re.search(r"its disk is full: \d+ MB are free for /var/lib/citus_ha, and 2048 MB are needed", output)
        assert (
            f"another program listens on port 5432 ({ADDRESSES['coordinator-1']}, 127.0.0.1), which postgres_port"
            in output
        )
        assert "another program listens on port 8404 (127.0.0.1), which haproxy_stats_port wants" in output
        assert "it runs fedora 13. Supported are Debian 13, Debian 12, Ubuntu 24.04, Ubuntu 22.04" in output
        assert "os_sysctl sets vm.swapiness, which its kernel does not have" in output
        assert "postgres_watchdog is required, and it has no device /dev/watchdog" in output
        assert re.search(r"its clock is (2\.[5-9]|3\.0) seconds ahead of this controller's", output)
        assert "it uses haproxy.service for something else" in output
        for folder in (data, copied):
            assert f"PostgreSQL data that this collection did not make: {folder}" in output
        assert "worker1-2: the user admin cannot become root there" in output
        assert "Debian 12 itself has PostgreSQL 15, Patroni 3.0 and PgBouncer 1.18" in output
        assert "[postgres-1]: UNREACHABLE!" in output
        left = traces(machines, "postgres-1")
        assert left == {
            **dict.fromkeys(("etcd-1", "worker2-1"), "> /var/lib/citus_ha"),
            "pgbouncer-1": "> /etc/systemd/system/haproxy.service",
        }
        assert machines.console("coordinator-1", f"cat {data}/PG_VERSION") == "15"
        assert machines.console("worker2-1", f"ls -A /var/lib/citus_ha {copied}").split() == [
            *("/var/lib/citus_ha:", "postgres", f"{copied}:", "PG_VERSION")
        ]
    finally:
        for name in wrong:
            del host[name]
        machines.save()
        machines.power("start", "postgres-1")
        machines.console("etcd-1", "umount /var/lib/citus_ha && rmdir /var/lib/citus_ha")
        machines.console("coordinator-2", f"rm {clock}")
        machines.console("coordinator-1", "rm -r /var/lib/postgresql")
        machines.console("worker2-1", "rm -r /var/lib/citus_ha")
        machines.console("worker1-2", "mv /etc/admin /etc/sudoers.d/admin")
        machines.console(
            "pgbouncer-1", "cat /etc/kept > /etc/os-release; rm /etc/kept /etc/systemd/system/haproxy.service"
        )
        machines.power("restart", "coordinator-1", "pgbouncer-1")
    for variables, words in (
        ({"postgres_memory": "4096g"}, "Lower them, or move nodes to another machine"),
        ({"postgres_cpus": 4096}, "CPUs. Lower it, or set it to 0 for no limit."),
        ({"pgbouncer_pool_sise": 5}, "did you mean"),
        ({"citus_package_source": "files", "citus_package_path": "/nowhere"}, "/nowhere on the controller has no"),
    ):
        run = machines.play("site", "-e", json.dumps(variables))
        assert run.code != 0 and words in " ".join(run.output.split()), run.tail
        assert traces(machines) == {}


@pytest.mark.timeout(1500)
def test_an_application_reaches_the_leader_through_the_pooler(cluster: Machines) -> None:
    assert cluster.query("SELECT pg_is_in_recovery(), current_user") == [(False, "app")]
    cluster.play("example").succeeded()
    cluster.play("verify").succeeded()
    assert cluster.query("SELECT count(*) FROM events") == [(6,)]


def test_a_second_run_changes_nothing(cluster: Machines, tmp_path: Path) -> None:
    """From the collection that is installed elsewhere, by its name: without this checkout's ansible.cfg, too."""
    installed = artifact.install(tmp_path)
    ran = artifact.run(
        "ansible-playbook", "citus_ha.cluster.site", "-i", str(cluster.inventory), "--forks", "20", folder=installed
    )
    assert Run(ran.returncode, ran.stdout + ran.stderr).succeeded().changed == {}
    assert cluster.play("site", "--check", "--diff").succeeded().changed == {}


def test_planned_work_is_done_over_ssh_too(cluster: Machines) -> None:
    cluster.play("switchover", "-e", "group=worker1", "-e", "candidate=worker1-2").succeeded()
    cluster.play("switchover", "-e", "group=coordinator").succeeded()
    cluster.play("restart").succeeded()
    cluster.play("balance").succeeded()
    cluster.play("verify").succeeded()
    assert cluster.query("SELECT count(*) FROM events") == [(6,)]


def test_a_port_that_the_running_cluster_is_to_move_to_must_be_free(cluster: Machines) -> None:
    cluster.console("pgbouncer-1", "nohup python3 -m http.server 7432 >/dev/null 2>&1 & echo $! > /run/other; sleep 1")
    try:
        refused = cluster.play("site", "-e", "pgbouncer_port=7432")
        assert refused.code != 0
        assert "another program listens on port 7432" in " ".join(refused.output.split())
    finally:
        cluster.console("pgbouncer-1", "kill $(cat /run/other)")
    assert cluster.play("site").succeeded().changed == {}


def test_sudo_may_want_a_password(cluster: ExampleMachines) -> None:
    machine = "worker1-2"
    cluster.console(
        machine, "useradd --create-home --home-dir /srv/ops --shell /bin/bash ops; echo ops:open-sesame | chpasswd"
    )
    cluster.console(machine, "cp -r /srv/admin/.ssh /srv/ops/; chown -R ops: /srv/ops/.ssh")
    cluster.console(machine, "echo 'ops ALL=(ALL) ALL' > /etc/sudoers.d/ops")
    host = cluster.groups["workers"]["children"]["worker1"]["hosts"][machine]
    before = dict(host)
    try:
        host.update(ansible_user="ops", ansible_become_password="open-sesame")
        cluster.save()
        assert cluster.play("site", "--limit", machine).succeeded().changed == {}
        for wrong in ("wrong", None):
            host["ansible_become_password"] = wrong
            cluster.save()
            refused = cluster.play("site", "--limit", machine)
            assert refused.code != 0
            assert f"{machine}: the user ops cannot become root there" in " ".join(refused.output.split())
    finally:
        host.clear()
        host.update(before)
        cluster.save()


def test_there_is_no_container_and_the_packages_units_stay_off(cluster: Machines) -> None:
    for machine in ADDRESSES:
        assert cluster.console(machine, "command -v docker podman", check=False) == ""
    assert cluster.console("coordinator-1", "systemctl is-enabled patroni postgresql", check=False) == "masked\nmasked"
    clusters = "find /var/lib/postgresql/17 /etc/postgresql -mindepth 1"
    assert cluster.console("coordinator-1", clusters, check=False) == ""
    for machine, said in (("coordinator-1", "INFO: no action. I am"), ("pgbouncer-1", "stats: ")):
        assert said in cluster.play("logs", "-e", f"node={machine}").succeeded().output


def test_a_process_can_write_to_its_data_only(cluster: Machines) -> None:
    shown = cluster.console("coordinator-1", "systemctl show citus_ha -p ProtectSystem,NoNewPrivileges,MemoryMax")
    assert set(shown.splitlines()) == {"ProtectSystem=strict", "NoNewPrivileges=yes", f"MemoryMax={512 * 1024**2}"}
    key = "/etc/citus_ha/tls/node.key"
    assert cluster.console("pgbouncer-1", f"stat -c '%U %G %a' {key}") == "root citus_ha 640"
    # 0 is closed, 10 open
    for machine, unit in (
        ("etcd-1", "citus_ha"),
        ("coordinator-1", "citus_ha"),
        ("coordinator-1", "citus_ha-lease"),
        ("postgres-1", "citus_ha"),
        ("pgbouncer-1", "citus_ha"),
        ("pgbouncer-1", "citus_ha-haproxy"),
    ):
        said = cluster.console(machine, f"systemd-analyze security --no-pager {unit}").splitlines()[-1]
        assert float(said.partition(": ")[2].split()[0]) <= 2.0, said
    # From inside, as somebody would who got hold of the server: places that are open to its user outside.
    for place in ("/var/lib/postgresql", "/run/lock"):
        cluster.console("coordinator-1", f"runuser -u postgres -- sh -c 'touch {place}/tried && rm {place}/tried'")
        tried = f"COPY (SELECT) TO PROGRAM 'touch {place}/tried 2>&1 | grep \"Read-only file system\"'"
        shell = "runuser -u postgres -- psql -h /run/postgresql -d postgres -XAt"
        assert cluster.console("coordinator-1", f"echo {shlex.quote(tried)} | {shell}") == "COPY 1"
    for user in ("postgres", "haproxy"):
        cluster.console("pgbouncer-1", f"runuser -u {user} -- test -r {key} -a ! -w {key}")
    assert cluster.console("pgbouncer-1", f"runuser -u guest -- cat {key}", check=False) == ""


def test_a_killed_process_and_a_rebooted_machine_come_back(cluster: Machines) -> None:
    cluster.console("pgbouncer-1", "systemctl kill --signal KILL citus_ha citus_ha-haproxy")
    cluster.console("worker1-1", "systemctl kill --signal KILL citus_ha")
    cluster.power("restart", "etcd-1", "coordinator-2", "worker1-2", "postgres-1")
    eventually(lambda: cluster.query("SELECT count(*) FROM events") == [(6,)], timeout=120)
    eventually(lambda: cluster.play("verify").succeeded(), timeout=240)


def test_a_unit_that_does_not_run_is_missed(cluster: Machines) -> None:
    cluster.console("worker1-1", "systemctl stop citus_ha-lease")
    missed = cluster.play("verify")
    cluster.console("worker1-1", "systemctl start citus_ha-lease")
    assert missed.code != 0 and "citus_ha-lease.service does not run" in " ".join(missed.output.split()), missed.tail
    cluster.play("verify").succeeded()


# One of every kind: a process, a unit, a machine's network, a frozen unit, etcd, planned work
FAULTS = (
    *("kill_postgres:worker", "kill_node:worker", "cut_off:coordinator", "freeze_short:pooler", "etcd_lost_1:etcd*1"),
    *("kill_machine:worker", "switchover:worker"),
)


@bears_it
@pytest.mark.timeout(2400)
def test_faults_on_machines_break_no_promise(cluster: Machines, tmp_path: Path) -> None:
    attack(cluster.inventory, FAULTS, tmp_path / "report")
    for machine in ADDRESSES:
        left = (
            "iptables -S | grep -i chaos; systemctl list-units --all --no-legend '*chaos*'; find /run -name '*chaos*'"
        )
        assert cluster.console(machine, left) == ""
    cluster.play("verify").succeeded()


@pytest.mark.timeout(1200)
def test_limit_and_tags_leave_the_cluster_healthy(cluster: Machines) -> None:
    memory = '{"postgres_parameters": {"work_mem": "9MB"}}'
    cluster.play("site", "--limit", "worker1-2", "-e", memory).succeeded()
    show = "runuser -u postgres -- psql -h /run/postgresql -XAtc 'SHOW work_mem'"
    assert {cluster.console(name, show) for name in ("worker1-1", "worker1-2")} == {"9MB"}, "it is the group's"
    cluster.play("verify").succeeded()
    cluster.play("site", "--tags", "pgbouncer", "-e", "pgbouncer_default_pool_size=33").succeeded()
    pool = cluster.console("pgbouncer-1", "grep ^default_pool_size /etc/citus_ha/pgbouncer/pgbouncer.ini")
    assert pool.endswith("33")
    for part in ("etcd-1", "coordinator-1", "coordinator-2", "pgbouncer-1", "worker1-2", "postgres-1"):
        cluster.play("site", "--limit", part).succeeded()
    for tag in ("etcd", "citus"):
        cluster.play("site", "--tags", tag).succeeded()
    cluster.play("verify").succeeded()
    assert cluster.play("site").succeeded().changed == {}


def test_what_changes_goes_through_in_batches_and_ends_at_the_first_failure(cluster: Machines) -> None:
    settings = "/etc/citus_ha/postgres/patroni.yml"
    hba = '{"postgres_hba": ["hostssl all all 203.0.113.7/32 reject"], "batch": 1}'
    # A machine that cannot take the change: its configuration's folder is read-only.
    cluster.console("coordinator-2", "mount --bind -o ro /etc/citus_ha /etc/citus_ha")
    try:
        assert cluster.play("site", "--tags", "postgres", "-e", hba).code != 0
        changed = {name for name in ADDRESSES if "203.0.113.7" in cluster.console(name, f"cat {settings}", check=False)}
        assert changed == {"coordinator-1"}
    finally:
        cluster.console("coordinator-2", "umount /etc/citus_ha")
    cluster.play("site", "--tags", "postgres", "-e", hba).succeeded()
    assert "203.0.113.7" in cluster.console("worker1-2", f"cat {settings}")
    cluster.play("verify").succeeded()
    cluster.play("site", "-e", "batch=1").succeeded()
    assert cluster.play("site").succeeded().changed == {}


def test_the_operating_system_is_as_the_inventory_asks_and_as_it_was_when_it_does_not(cluster: Machines) -> None:
    """With a kernel parameter that these machines have for themselves, and a device that is no watchdog."""
    parameter, machine = "net.ipv4.tcp_keepalive_probes", standby(cluster, "worker1-1", "worker1-2")
    # In a container the kernel's parameters are read-only by themselves
    cluster.console(machine, "mount -o remount,rw /proc/sys && mknod /dev/watchdog c 1 3")
    system = {"os_sysctl": {parameter: 4}, "service_limits": {"nofile": 70000}, "postgres_watchdog": "automatic"}
    arguments = ("site", "--limit", machine, "-e", json.dumps(system))
    assert cluster.play(*arguments, "--check").succeeded().changed
    before = cluster.console(machine, "cat /proc/sys/net/ipv4/tcp_keepalive_probes")
    assert before != "4"
    cluster.play(*arguments).succeeded()
    assert cluster.play(*arguments).succeeded().changed == {}
    assert cluster.console(machine, "cat /proc/sys/net/ipv4/tcp_keepalive_probes") == "4"
    assert f"{parameter} = 4" in cluster.console(machine, "cat /etc/sysctl.d/90-citus_ha.conf")
    assert cluster.console(machine, "systemctl show --property LimitNOFILE --value citus_ha") == "70000"
    assert cluster.console(machine, "stat --format %U /dev/watchdog") == "postgres"
    cluster.play("verify").succeeded()
    replaced_without_an_error(cluster, "coordinator:pgbouncer", '{"service_limits": {"nofile": 70000}}')
    for coordinator in ("coordinator-1", "coordinator-2"):
        assert cluster.console(coordinator, "systemctl show --property LimitNOFILE --value citus_ha") == "70000"
        assert (
            cluster.console(coordinator, "grep -c noloadbalance /etc/citus_ha/postgres/patroni.yml", check=False) == "0"
        )
    cluster.play("site").succeeded()
    assert cluster.console(machine, "ls /etc/sysctl.d/90-citus_ha.conf", check=False) == ""
    assert cluster.console(machine, "systemctl show --property LimitNOFILE --value citus_ha") == "65536"
    assert cluster.play("site").succeeded().changed == {}


def standby(cluster: Machines, *members: str) -> str:
    """Who may restart without the others: whichever of a new group's members was there first leads it."""
    recovers = "runuser -u postgres -- psql -h /run/postgresql -XAtc 'SELECT pg_is_in_recovery()'"
    return next(name for name in members if cluster.console(name, recovers) == "t")


def replaced_without_an_error(cluster: Machines, limit: str, variables: str) -> None:
    """site.yml with these variables, while a client writes and another one reads from standbys."""
    dsn = (cluster.inventory / ".secrets/app.dsn").read_text().strip()
    stop = threading.Event()
    done = {"app": 0, "app_ro": 0}

    def work(database: str, statement: str) -> None:
        connection = psycopg2.connect(dsn, dbname=database, connect_timeout=5)
        connection.autocommit = True
        with connection.cursor() as cursor:
            while not stop.wait(0.05):
                cursor.execute(statement)
                done[database] += 1

    with ThreadPoolExecutor() as clients:
        working = [
            clients.submit(work, "app", "UPDATE events SET event_type = event_type"),
            clients.submit(work, "app_ro", "SELECT count(*) FROM events"),
        ]
        try:
            cluster.play("site", "--limit", limit, "-e", variables).succeeded()
        finally:
            stop.set()
    for client in working:
        client.result()  # raises what ended it
    assert min(done.values()) > 100, done


def secrets(cluster: Machines) -> dict[str, str]:
    """What rotate.yml replaces: on the controller, and what Patroni logs in to etcd with."""
    folder = cluster.inventory / ".secrets"
    certificates = [file for name in ADDRESSES for file in folder.glob(f"pki/*{name}.*")]
    files = [folder / "passwords/app", folder / "etcd_password", *folder.glob("pki/ca.*"), *certificates]
    return {file.name: file.read_text() for file in files} | {
        name: cluster.console(name, "cat /etc/citus_ha/postgres/etcd_login.yml") for name in ("worker1-1", "worker1-2")
    }


def begun(cluster: Machines) -> dict[str, str]:
    """When the processes of the servers and of the pooler were started."""
    asked = "systemctl show --property=ActiveEnterTimestamp --value citus_ha"
    return {name: cluster.console(name, asked) for name in ADDRESSES if not name.startswith("etcd")}


@pytest.mark.timeout(1800)
def test_all_secrets_are_replaced_without_a_restart(cluster: Machines) -> None:
    before, processes = secrets(cluster), begun(cluster)
    cluster.play("rotate", "-e", "what=all").succeeded()
    after = secrets(cluster)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] == before[name]} == set()
    assert begun(cluster) == processes
    # Ansible's modules write into the machines' journals what they were given.
    known = secrets_of(cluster.inventory / ".secrets", {})
    for machine in ADDRESSES:
        journal = cluster.console(machine, "journalctl --no-pager")
        assert "ansible-citus_ha.cluster.node_files" in journal
        assert leaks(journal, known) == []
    assert cluster.query("SELECT current_user") == [("app",)]
    cluster.play("verify").succeeded()
    assert cluster.play("site").succeeded().changed == {}


def test_a_broken_standby_is_built_anew(cluster: Machines) -> None:
    recovering = "psql -h /run/postgresql -U postgres -XAtc 'SELECT pg_is_in_recovery()'"
    standby = next(
        name
        for name in ("worker1-1", "worker1-2")
        if cluster.console(name, f"runuser -u postgres -- {recovering}") == "t"
    )
    cluster.console(standby, "rm /var/lib/citus_ha/postgres/data/global/pg_control; systemctl kill -s KILL citus_ha")
    eventually(lambda: cluster.play("reinit", "-e", f"node={standby}").code == 0, timeout=180)
    eventually(lambda: cluster.play("verify").succeeded(), timeout=120)


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
