# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What the roles give every process of an inventory.

They run as they are, on the controller, with a role ``service`` that writes down what it is given.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
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
      memory: "{{ service_memory }}"
      cpus: "{{ service_cpus | float }}"
      files: "{{ service_files }}"
      secret_files: "{{ service_secrets | default({}) | list }}"
      restart_files: "{{ service_restart_files | default([]) }}"
      data_path: "{{ service_data_path | default('') }}"
      health: "{{ service_health }}"
      reload_signal: "{{ service_reload_signal | default('') }}"
      stop_signal: "{{ service_stop_signal | default('') }}"
      unit: "{{ lookup('ansible.builtin.template', unit_template) if service_manager == 'systemd' else '' }}"
      certificate_names: "{{ certificate_names }}"
      uri: "{{ __pgbouncer_uri if is_pooler else '' }}"
      pgpass: "{{ lookup('ansible.builtin.template', 'pgpass.j2') if is_pooler else '' }}"
    __service_path: /usr/bin
    is_pooler: "{{ service_command[0] == 'pgbouncer' }}"

- name: Nothing after a node's last process can work here
  ansible.builtin.meta: end_host
  when: service_instance | default(inventory_hostname) == inventory_hostname ~ last
  vars:
    last: "{{ '-lease' if 'lease' in cluster_node.beside else '' }}"
"""
# What the process of a node is given, by the process's name.
Rendered = dict[str, dict[str, Any]]


def collection(folder: Path) -> None:
    """The collection below ``folder`` with another role ``service`` and certificates that nobody has made."""
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
    names = (ROOT / "roles/pki/vars/main.yml").read_text()
    names = re.sub("^pki_(?=[a-z_]*(files|secrets):)", "__pki_real_", names, flags=re.MULTILINE)
    names += "\npki_files: []\npki_etcd_client_files: []\npki_secrets: {}\npki_etcd_client_secrets: {}\n"
    names += 'certificate_names: "{{ __pki_names }}"\n'
    (copy / "roles/pki/vars/main.yml").write_text(names)
    (folder / "ansible.cfg").touch()


def render(folder: Path, inventory: Path, dump: Path) -> Rendered:
    """What every process of the inventory is given; it sets ``dump_path`` to ``dump``."""
    dump.mkdir()
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("-i", str(inventory), "--forks", "4"),
            *("-e", f"unit_template={ROOT}/roles/service/templates/unit.service.j2"),
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
    return {path.stem: json.loads(path.read_text()) for path in dump.glob("*.json")}


def content(given: dict[str, Any], path: str) -> str:
    """One file of a process, which is no secret."""
    return str({file["path"]: file["content"] for file in given["files"] if "content" in file}[path])
