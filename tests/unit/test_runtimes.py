# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Docker and systemd give every process the same configuration: only the role service knows one from the other.

The roles run as they are, on the controller, with a role ``service`` that writes down what it is given.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.topology_nodes import container_ip

ROOT = Path(__file__).resolve().parents[2]
SUBNET = "172.29.0.0/16"
HOSTS: dict[str, dict[str, dict[str, Any]]] = {
    "etcd": {"etcd-1": {}, "etcd-2": {}, "etcd-3": {}},
    "coordinator": {"coordinator-1": {}, "coordinator-2": {}},
    "worker1": {"worker1-1": {"citus_group": 1}},
    "pgbouncer": {"pgbouncer-1": {}},
    "standalone": {"postgres-1": {}},
}
VARIABLES: dict[str, Any] = {
    "ansible_connection": "local",
    "ansible_python_interpreter": sys.executable,
    "cluster_name": "citus",
    "postgres_memory": "1g",
    "postgres_parameters": {"work_mem": "9MB"},
    "postgres_client_networks": ["10.0.0.0/8"],
    "pgbouncer_parameters": {"query_wait_timeout": 60},
    "etcd_heartbeat_interval": 300,
    "service_docker_subnet": SUBNET,
}
# Where they differ, and why: with a network of its own a container listens on everything and finds HAProxy under
# another name; on a machine both are on the machine's own address.
LISTENERS = (
    "listen-client-urls: ",
    "listen-peer-urls: ",
    "  listen: ",
    "listen_addresses = ",
    "listen_addr = ",
    "    bind ",
    "app = host=",
    "app_ro = host=",
    # A pooler's HAProxy comes from an address of its own in Docker only.
    '    - "hostssl postgres haproxy ',
    '    - "hostssl all all 172.29.',
    "hostssl postgres haproxy ",
    "hostssl all all 172.29.",
)
DUMP = """
- name: Write down what the process is given
  ansible.builtin.copy:
    dest: "{{ dump_path }}/{{ service_instance | default(inventory_hostname) }}.json"
    content: "{{ given | to_json }}"
    mode: "0600"
  vars:
    given:
      command: "{{ service_command }}"
      user: "{{ service_user }}"
      files: "{{ service_files }}"
      restart_files: "{{ service_restart_files | default([]) }}"
      data_path: "{{ service_data_path | default('') }}"
      health: "{{ service_health }}"
      reload_signal: "{{ service_reload_signal | default('') }}"
      stop_signal: "{{ service_stop_signal | default('') }}"

- name: Nothing after it can work here
  ansible.builtin.meta: end_host
  when: service_instance is not defined or not service_instance.endswith('-haproxy')
"""


def collection(folder: Path) -> Path:
    """The collection with another role ``service`` and certificates that nobody has made."""
    copy = folder / "ansible_collections/citus_ha/cluster"
    (copy / "roles").mkdir(parents=True)
    for entry in ROOT.iterdir():
        if entry.name in ("plugins", "meta", "galaxy.yml"):
            (copy / entry.name).symlink_to(entry)
    for role in (ROOT / "roles").iterdir():
        if role.name not in ("service", "pki"):
            (copy / "roles" / role.name).symlink_to(role)
    # The inventory is judged by all argument specs, also by those of the roles that are replaced.
    for name, tasks in (("service", DUMP), ("pki", "[]\n")):
        role = copy / "roles" / name
        (role / "tasks").mkdir(parents=True)
        (role / "tasks/main.yml").write_text(tasks)
        for part in ("defaults", "meta"):
            (role / part).symlink_to(ROOT / "roles" / name / part)
    (copy / "roles/pki/vars").mkdir()
    (copy / "roles/pki/vars/main.yml").write_text("pki_files: []\n")
    return copy


def render(folder: Path, manager: str) -> dict[str, dict[str, Any]]:
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
    dump.mkdir()
    inventory = folder / f"{manager}.yml"
    everywhere = {
        **VARIABLES,
        "service_manager": manager,
        "dump_path": str(dump),
        "cluster_secrets_path": str(folder / "secrets"),
    }
    inventory.write_text(yaml.safe_dump({"all": {"vars": everywhere, "children": groups}}))
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("-i", str(inventory), "--forks", "4"),
            str(ROOT / "tests/unit/runtimes/render.yml"),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(folder), "ANSIBLE_CONFIG": str(folder / "ansible.cfg")},
    )
    assert run.returncode == 0, (run.stdout + run.stderr)[-3000:]
    return {path.stem: json.loads(path.read_text()) for path in dump.iterdir()}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, Any]]]:
    """Both runtimes."""
    folder = tmp_path_factory.mktemp("runtimes")
    collection(folder)
    (folder / "secrets").mkdir()
    (folder / "ansible.cfg").touch()
    runtimes = ("docker", "systemd")
    with ThreadPoolExecutor() as both:
        return dict(zip(runtimes, both.map(lambda manager: render(folder, manager), runtimes), strict=True))


def without_listeners(text: str) -> list[str]:
    """Lines that must be the same."""
    return [line for line in text.splitlines() if not line.startswith(LISTENERS)]


def test_the_same_processes_run(rendered: dict[str, dict[str, dict[str, Any]]]) -> None:
    docker, systemd = rendered["docker"], rendered["systemd"]
    names = {host for hosts in HOSTS.values() for host in hosts} | {"pgbouncer-1-haproxy"}
    assert docker.keys() == systemd.keys() == names
    for name in names:
        for aspect in ("command", "user", "restart_files", "data_path", "reload_signal", "stop_signal"):
            assert docker[name][aspect] == systemd[name][aspect], f"{aspect} of {name}"


@pytest.mark.parametrize(
    ("process", "path"),
    [
        ("etcd-2", "/etc/citus_ha/etcd/etcd.yml"),
        ("coordinator-1", "/etc/citus_ha/postgres/patroni.yml"),
        ("worker1-1", "/etc/citus_ha/postgres/patroni.yml"),
        ("pgbouncer-1-haproxy", "/etc/citus_ha/haproxy/haproxy.cfg"),
        ("pgbouncer-1", "/etc/citus_ha/pgbouncer/pgbouncer.ini"),
        ("postgres-1", "/etc/citus_ha/postgres/postgresql.conf"),
    ],
)
def test_they_read_the_same_configuration(
    rendered: dict[str, dict[str, dict[str, Any]]], process: str, path: str
) -> None:
    def content(manager: str) -> str:
        return str({file["path"]: file["content"] for file in rendered[manager][process]["files"]}[path])

    docker, systemd = content("docker"), content("systemd")
    assert without_listeners(docker) == without_listeners(systemd)
    assert len(without_listeners(docker)) > 10


def test_they_have_the_same_files(rendered: dict[str, dict[str, dict[str, Any]]]) -> None:
    for name, given in rendered["docker"].items():
        listed = [(file["path"], file.get("mode"), file.get("secret")) for file in given["files"]]
        assert listed == [
            (file["path"], file.get("mode"), file.get("secret")) for file in rendered["systemd"][name]["files"]
        ]
