# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Docker and systemd give every process the same configuration: only the role service knows one from the other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.topology_nodes import container_ip
from rendering import Rendered, collection, content, render

SUBNET = "172.29.0.0/16"
HOSTS: dict[str, dict[str, dict[str, Any]]] = {
    "etcd": {"etcd-1": {}, "etcd-2": {}, "etcd-3": {}},
    "coordinator": {"coordinator-1": {}, "coordinator-2": {"postgres_serves_readers": False}},
    "worker1": {"worker1-1": {"citus_group": 1}},
    "pgbouncer": {"pgbouncer-1": {}},
    "standalone": {"postgres-1": {}, "postgres-2": {"postgres_data_checksums": False}},
}
VARIABLES: dict[str, Any] = {
    "ansible_connection": "local",
    "ansible_python_interpreter": sys.executable,
    "cluster_name": "citus",
    "postgres_parameters": {"work_mem": "9MB"},
    "postgres_client_networks": ["10.0.0.0/8"],
    "pgbouncer_parameters": {"query_wait_timeout": 60},
    "etcd_heartbeat_interval": 300,
    "service_docker_subnet": SUBNET,
}
# A container has a network of its own and listens on everything there. On a machine a process listens on the machine's
# own address, and on the loopback one where what runs beside it connects; there a pooler's HAProxy is on the loopback
# address, in Docker it is another container. Nothing else may differ, and every line here must.
DIFFERENCES: dict[str, dict[str, str]] = {
    "etcd.yml": {
        "listen-client-urls: https://0.0.0.0:2379": "listen-client-urls: https://OWN:2379",
        "listen-peer-urls: https://0.0.0.0:2380": "listen-peer-urls: https://OWN:2380",
    },
    "patroni.yml": {
        '  listen: "0.0.0.0:8008"': '  listen: "OWN:8008"',
        '  listen: "0.0.0.0:5432"': '  listen: "OWN,127.0.0.1:5432"',
    },
    "decide.sh": {"api=https://localhost:8008": "api=https://OWN:8008"},
    "postgresql.conf": {"listen_addresses = '*'": "listen_addresses = 'OWN,127.0.0.1'"},
    "haproxy.cfg": {
        "    bind :5000": "    bind OWN:5000\n    bind 127.0.0.1:5000",
        "    bind :5001": "    bind OWN:5001\n    bind 127.0.0.1:5001",
    },
    "pgbouncer.ini": {
        "listen_addr = *": "listen_addr = OWN,127.0.0.1",
        "app = host=pgbouncer-1-haproxy port=5000": "app = host=127.0.0.1 port=5000",
        "app_ro = host=pgbouncer-1-haproxy port=5001 dbname=app": "app_ro = host=127.0.0.1 port=5001 dbname=app",
    },
}
POOLER, PROXY = (container_ip(name, SUBNET) for name in ("pgbouncer-1", "pgbouncer-1-haproxy"))


def render_with(folder: Path, manager: str) -> Rendered:
    """What every process of the cluster is given with this service manager."""
    groups: dict[str, Any] = {"workers": {"children": {"worker1": None}}}
    for group, hosts in HOSTS.items():
        groups[group] = {"hosts": {name: dict(variables) for name, variables in hosts.items()}}
        for name in hosts:
            if manager == "systemd":
                groups[group]["hosts"][name] |= {
                    "ansible_host": container_ip(name, SUBNET),
                    "service_address": name,
                }
    dump = folder / manager
    inventory = folder / f"{manager}.yml"
    everywhere = {
        **VARIABLES,
        "service_manager": manager,
        # One machine for all five servers' containers
        "service_machine_memory": 2**30 * (5 if manager == "docker" else 1),
        "service_machine_cpus": 2,
        "dump_path": str(dump),
        "cluster_secrets_path": str(folder / "secrets"),
    }
    inventory.write_text(yaml.safe_dump({"all": {"vars": everywhere, "children": groups}}))
    return render(folder, inventory, dump)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rendered]:
    """Both runtimes."""
    folder = tmp_path_factory.mktemp("runtimes")
    collection(folder)
    (folder / "secrets").mkdir()
    runtimes = ("docker", "systemd")
    with ThreadPoolExecutor() as both:
        return dict(zip(runtimes, both.map(lambda manager: render_with(folder, manager), runtimes), strict=True))


def on_a_machine(text: str, process: str, path: str) -> str:
    """A file of a process in Docker as it has to be with systemd: to the letter, but for what differs on purpose."""
    # Servers let in HAProxy alone, not the pooler in front of it: on a machine both have one address
    assert POOLER not in text, f"{path} of {process}"
    text = text.replace(f" {PROXY}/32 ", f" {POOLER}/32 ")
    own = container_ip(process.removesuffix("-haproxy"), SUBNET)
    for here, there in DIFFERENCES.get(Path(path).name, {}).items():
        assert text.count(f"\n{here}\n") == 1, f"{here} in {path} of {process}"
        text = text.replace(f"\n{here}\n", "\n" + there.replace("OWN", own) + "\n")
    return text


def test_the_same_processes_run(rendered: dict[str, Rendered]) -> None:
    docker, systemd = rendered["docker"], rendered["systemd"]
    names = {host for hosts in HOSTS.values() for host in hosts}
    # Nobody else could lead the group of worker1-1.
    names |= {"pgbouncer-1-haproxy", "coordinator-1-lease", "coordinator-2-lease"}
    assert docker.keys() == systemd.keys() == names
    same = ("command", "user", "memory", "cpus", "restart_files", "data_path", "reload_signal", "stop_signal")
    for name in names:
        for aspect in same:
            assert docker[name][aspect] == systemd[name][aspect], f"{aspect} of {name}"


def test_without_a_limit_in_the_inventory_a_server_has_its_share_of_the_machine(rendered: dict[str, Rendered]) -> None:
    assert int(rendered["docker"]["worker1-1"]["memory"]) == 896 * 2**20
    assert rendered["docker"]["worker1-1"]["cpus"] == 1.8
    assert "shared_buffers: 224MB" in content(rendered["docker"]["worker1-1"], "/etc/citus_ha/postgres/patroni.yml")


def test_nobody_is_led_to_a_standby_that_shall_have_no_readers(rendered: dict[str, Rendered]) -> None:
    tags = {
        name: yaml.safe_load(content(rendered["docker"][name], "/etc/citus_ha/postgres/patroni.yml")).get("tags")
        for name in ("coordinator-1", "coordinator-2", "worker1-1")
    }
    assert tags == {"coordinator-1": None, "coordinator-2": {"noloadbalance": True}, "worker1-1": None}


def test_one_lost_packet_does_not_end_an_idle_connection(rendered: dict[str, Rendered]) -> None:
    patroni = yaml.safe_load(content(rendered["docker"]["worker1-1"], "/etc/citus_ha/postgres/patroni.yml"))
    server = patroni["bootstrap"]["dcs"]["postgresql"]["parameters"]
    node = dict(word.split("=") for word in server["citus.node_conninfo"].split())
    asked_twice = int(server["tcp_keepalives_idle"]) + 2 * int(server["tcp_keepalives_interval"])
    assert asked_twice <= int(server["tcp_user_timeout"].removesuffix("s"))
    asked_twice = int(node["keepalives_idle"]) + 2 * int(node["keepalives_interval"])
    assert asked_twice <= int(node["tcp_user_timeout"]) / 1000


def test_they_read_the_same_configuration(rendered: dict[str, Rendered]) -> None:
    compared = set()
    for process, given in rendered["docker"].items():
        for path in sorted({file["path"] for file in given["files"]} - {*given["secret_files"]}):
            docker, systemd = (content(rendered[manager][process], path) for manager in ("docker", "systemd"))
            assert on_a_machine(docker, process, path) == systemd, f"{path} of {process}"
            compared.add(Path(path).name)
    scripts = {"start.sh", "run.sh", "postgres", "pg_ctl", "before_stop.sh", "keep_lease.py"}
    assert compared >= {*DIFFERENCES, *scripts, "pg_hba.conf", "pg_ident.conf"}


def test_new_data_has_checksums_where_they_are_wanted(rendered: dict[str, Rendered]) -> None:
    assert "\n    - data-checksums\n" in content(rendered["docker"]["worker1-1"], "/etc/citus_ha/postgres/patroni.yml")
    initialize = "/etc/citus_ha/postgres/initialize.sh"
    assert " --data-checksums --auth-local=peer " in content(rendered["docker"]["postgres-1"], initialize)
    assert "checksums" not in content(rendered["docker"]["postgres-2"], initialize)


def test_they_have_the_same_files(rendered: dict[str, Rendered]) -> None:
    def listed(given: dict[str, Any]) -> list[dict[str, Any]]:
        return [file | {"content": file["path"] in given["secret_files"]} for file in given["files"]]

    for name, given in rendered["docker"].items():
        assert listed(given) == listed(rendered["systemd"][name])


class Scripts:
    """The scripts that Patroni runs on a server, with programs of PostgreSQL that write down how they were called."""

    def __init__(self, folder: Path, given: dict[str, Any]) -> None:
        self.folder = folder
        self.held = folder / "clients_are_held"
        self.called = folder / "called"
        for name in ("pg_ctl", "pg_controldata"):
            self.program(name, "exit 0")
        for name in ("pg_ctl", "before_stop.sh", "decide.sh"):
            text = content(given, f"/etc/citus_ha/postgres/{name}")
            text = text.replace("/usr/lib/postgresql/17/bin", str(folder)).replace("/run/postgresql", str(folder))
            (folder / f"script.{name}").write_text(text, encoding="utf-8")

    def program(self, name: str, then: str) -> None:
        """A program that does this after it has written down how it was called."""
        (self.folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {self.called}\n{then}\n', encoding="utf-8")
        (self.folder / name).chmod(0o700)

    def run(self, name: str, *arguments: str) -> tuple[int, list[str]]:
        """The exit code of a script, and what it called."""
        self.called.write_text("", encoding="utf-8")
        script = str(self.folder / f"script.{name}")
        path = {"PATH": f"{self.folder}:{os.environ['PATH']}"}
        ran = subprocess.run(["sh", script, *arguments], check=False, timeout=30, env={**os.environ, **path})
        return ran.returncode, self.called.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def scripts(rendered: dict[str, Rendered], tmp_path: Path) -> Scripts:
    """Those of a worker."""
    return Scripts(tmp_path, rendered["docker"]["worker1-1"])


def held_until(file: Path, moment: float) -> None:
    file.touch()
    os.utime(file, (moment, moment))


@pytest.mark.parametrize("leads", [True, False])
def test_only_who_has_the_lease_decides_transactions_in_doubt(scripts: Scripts, leads: bool) -> None:
    scripts.program("curl", f"exit {0 if leads else 22}")
    scripts.program("psql", f"cat >> {scripts.called}")
    code, called = scripts.run("decide.sh")
    assert code == 0 and called[0].startswith("curl --fail ") and called[0].endswith("/primary")
    if leads:
        assert called[1].startswith("psql ")
        # Asked once more by psql itself: it runs what is between backquotes
        asked = called[3].removeprefix("\\set leads `").removesuffix(" && echo on || echo off`")
        assert asked == called[0] and called[4] == "\\if :leads" and "recover_prepared_transactions()" in called[5]
        # Not by one that was frozen in between: the moment is chosen before the question, and is soon
        moment = subprocess.run(
            called[2].removeprefix("\\set until `").removesuffix("`"),
            shell=True,
            check=True,
            capture_output=True,
            text=True,
        )
        assert 0 < datetime.fromisoformat(moment.stdout.strip() + ":00").timestamp() - time.time() < 5
        assert called[5].endswith(" WHERE clock_timestamp() < :'until';")
    else:
        assert len(called) == 1


def test_postgresql_is_stopped_before_patroni_does_while_clients_are_held_only(scripts: Scripts) -> None:
    assert scripts.run("before_stop.sh") == (0, [])
    held_until(scripts.held, time.time() + 20)
    code, called = scripts.run("before_stop.sh")
    assert code == 0 and len(called) == 1 and called[0].startswith("pg_ctl stop ") and "--mode=fast" in called[0]
    # Once only, and not of a switchover that ended otherwise
    assert scripts.run("before_stop.sh") == (0, [])
    held_until(scripts.held, time.time() - 1)
    assert scripts.run("before_stop.sh") == (0, [])


def test_a_promotion_is_answered_when_the_server_is_a_primary(scripts: Scripts) -> None:
    once = scripts.folder / "once"
    scripts.program("pg_controldata", f'[ -e {once} ] && echo "cluster state: in production"; touch {once}')
    code, called = scripts.run("pg_ctl", "promote", "-D", "data", "-W")
    assert code == 0 and called[0] == "pg_ctl promote -D data -W"
    assert [line.split()[0] for line in called[1:]] == ["pg_controldata"] * 2
    assert scripts.run("pg_ctl", "reload") == (0, ["pg_ctl reload"])
    scripts.program("pg_ctl", "exit 3")
    assert scripts.run("pg_ctl", "promote") == (3, ["pg_ctl promote"])


def test_a_coordinator_has_its_daemon_before_the_registry_is_changed(
    rendered: dict[str, Rendered], tmp_path: Path
) -> None:
    scripts = Scripts(tmp_path, rendered["docker"]["coordinator-1"])
    scripts.program("pg_controldata", 'echo "cluster state: in production"')
    scripts.program("psql", f"cat >> {scripts.called}; exit 2")  # whatever becomes of it, the promotion has been one
    code, called = scripts.run("pg_ctl", "promote")
    assert code == 0 and [line.split()[0] for line in called[:3]] == ["pg_ctl", "pg_controldata", "psql"]
    assert called[2].endswith(" --username=postgres --dbname=app")
    assert any("Citus Maintenance Daemon" in line for line in called[3:])
    assert scripts.run("pg_ctl", "reload") == (0, ["pg_ctl reload"])
