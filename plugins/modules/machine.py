#!/usr/bin/python
# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Know a machine, or say why no node can run on it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: machine
short_description: Know a machine, or say why no node can run on it
version_added: 0.1.0
description:
  - Looks at a machine on which systemd shall run a node, in one execution, and changes nothing.
  - Fails with everything that stands in the way at once. An unsupported distribution or version, no rights, no space, a
    clock that differs from the controller's, kernel parameters or a watchdog that are not there, ports that another
    program has, services that the node's packages would replace, data of another cluster or of a PostgreSQL that this
    collection did not make.
author: citus_ha contributors (@citus-ha)
extends_documentation_fragment:
  - citus_ha.cluster.attributes.info
options:
  cluster_id:
    description: The cluster's id, which the folder of its data carries.
    type: str
    required: true
  path:
    description: Folder of the cluster's data.
    type: path
    default: /var/lib/citus_ha
  units:
    description: The node's systemd units. Ports on which the users of those that run listen are the node's own.
    type: list
    elements: str
    default: []
  ports:
    description: The ports that the node wants.
    type: list
    elements: dict
    default: []
    suboptions:
      address:
        description: Address to listen on.
        type: str
        required: true
      port:
        description: TCP port.
        type: int
        required: true
      variable:
        description: The variable of the inventory that says so, for the message.
        type: str
        required: true
  package_units:
    description: Units of the packages that the node needs. They are switched off, so nobody may use them.
    type: list
    elements: str
    default: []
  kind:
    description: What the node is; only servers and poolers depend on the PostgreSQL version.
    type: str
    choices: [etcd, postgres, pooler]
    required: true
  postgres_version:
    description: The PostgreSQL version that is wanted.
    type: int
  postgres_repository:
    description: Where packages of PostgreSQL come from.
    type: str
    choices: [distribution, pgdg]
    default: distribution
  sysctl:
    description: Names of kernel parameters that must be there.
    type: list
    elements: str
    default: []
  watchdog:
    description: Device that must be there, and be one of the kernel's watchdogs. Empty for none.
    type: path
  time_check:
    description:
      - What to do with a machine whose kernel says that nothing keeps its clock right. C(warn) prints a warning,
        C(require) refuses it.
    type: str
    choices: ["off", warn, require]
    default: "off"
  minimum_free:
    description: Bytes that a new machine must have free, for packages and for data each.
    type: int
    default: 2147483648
"""

EXAMPLES = r"""
- name: Refuse a machine that cannot carry the node
  citus_ha.cluster.machine:
    cluster_id: "{{ cluster_id }}"
    kind: postgres
    postgres_version: 17
    units: [citus_ha.service]
    ports:
      - {address: 192.0.2.21, port: 5432, variable: postgres_port}
  become: true
  register: machine
"""

RETURN = r"""
cpus:
  description: How many CPUs the machine has.
  type: int
  returned: success
distribution:
  description: The C(id), C(version) and C(codename) of the distribution.
  type: dict
  returned: success
  sample: {id: debian, version: "13", codename: trixie}
memory_bytes:
  description: The machine's memory.
  type: int
  returned: success
owner:
  description: What the folder of the data says of the cluster that it belongs to; empty on a new machine.
  type: dict
  returned: success
  sample: {cluster_id: 0a1b2c3d4e5f6a7b, cluster_name: citus, node: worker1-1}
"""

import ctypes
import glob
import json
import os
import pwd
import stat
import subprocess
from contextlib import suppress
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils._ports import PORT_OPTIONS, is_here, is_taken
from ansible_collections.citus_ha.cluster.plugins.module_utils._runner import run

OWNER_FILE = "cluster.json"


def distribution() -> dict[str, str]:
    """What /etc/os-release says; empty strings where it says nothing."""
    fields: dict[str, str] = {}
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            for line in file:
                name, _equals, value = line.strip().partition("=")
                fields[name] = value.strip("\"'")
    except OSError:
        pass  # no such file: no distribution that anybody here knows
    return {
        "id": fields.get("ID", ""),
        "version": fields.get("VERSION_ID", ""),
        "codename": fields.get("VERSION_CODENAME", ""),
    }


def owner(path: str) -> dict[str, Any]:
    """The mark that a cluster leaves in its folder; empty without one."""
    try:
        with open(os.path.join(path, OWNER_FILE), encoding="utf-8") as file:
            return dict(json.load(file))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError):
        return {"cluster_id": "unreadable"}


def free_bytes(path: str) -> int:
    """Free space for root's files below the nearest folder that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    state = os.statvfs(path)
    return state.f_bavail * state.f_frsize


def memory_bytes() -> int:
    """Physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def of_unit(unit: str, name: str) -> str:
    """A property of a systemd unit, empty when there is no such unit."""
    argv = ["systemctl", "show", "--property", name, "--value", unit]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


def is_used(unit: str) -> bool:
    """Whether it runs, or somebody has written it: a file that is not empty in /etc, where no package puts one."""
    file = f"/etc/systemd/system/{unit}.service"
    return of_unit(f"{unit}.service", "ActiveState") in ("active", "activating", "reloading") or (
        os.path.isfile(file) and os.path.getsize(file) > 0
    )


def listened_ports(units: list[str]) -> set[int]:
    """TCP ports on which the users of those of these units that run listen."""
    users = {of_unit(unit, "User") for unit in units if of_unit(unit, "ActiveState") != "inactive"}
    ids = set()
    for user in users - {""}:
        with suppress(KeyError):  # nobody has it yet
            ids.add(str(pwd.getpwnam(user).pw_uid))
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError), open(table, encoding="ascii") as file:  # no IPv6
            for line in file.readlines()[1:]:
                # proc(5): local address in hexadecimal, state (0A is LISTEN), the user of the socket
                _slot, local, _remote, state, _queues, _timer, _retransmits, user = line.split()[:8]
                if state == "0A" and user in ids:
                    ports.add(int(local.rpartition(":")[2], 16))
    return ports


def data_folders(path: str) -> list[str]:
    """PostgreSQL data folders: Debian's own, and in the folder of the cluster."""
    found = glob.glob("/var/lib/postgresql/*/*/PG_VERSION") + glob.glob(f"{path}/*/data/PG_VERSION")
    return sorted(os.path.dirname(name) for name in found)


def missing_sysctl(names: list[str]) -> list[str]:
    """Those kernel parameters that this kernel does not have."""
    return [name for name in names if not os.path.exists(os.path.join("/proc/sys", *name.split(".")))]


def is_device(path: str) -> bool:
    """Whether there is a character device."""
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:
        return False


def clock_is_kept() -> bool | None:
    """Whether something keeps the kernel's clock right, adjtimex(2); None where the kernel does not say.

    Its estimate of the error grows to 16 seconds when nobody corrects it, which is what timedatectl looks at too.
    """
    # struct timex: modes (0: change nothing), offset, freq, maxerror, ..., each in the place of a long; some 200 bytes
    buffer = (ctypes.c_long * 64)()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(buffer))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else buffer[3] < 16_000_000


def work(module: AnsibleModule) -> dict[str, Any]:
    """Look at everything once; the action plugin judges."""
    params = module.params
    ours = listened_ports(params["units"])
    return {
        "changed": False,
        "distribution": distribution(),
        "cpus": os.cpu_count() or 1,
        "memory_bytes": memory_bytes(),
        "free_bytes": {folder: free_bytes(folder) for folder in (params["path"], "/usr")},
        "owner": owner(params["path"]),
        "data_folders": data_folders(params["path"]),
        "missing_sysctl": missing_sysctl(params["sysctl"]),
        "missing_watchdog": params["watchdog"] if params["watchdog"] and not is_device(params["watchdog"]) else "",
        "clock_is_kept": clock_is_kept(),
        "systemd": os.path.isdir("/run/systemd/system"),
        "taken_ports": [
            entry
            for entry in params["ports"]
            if entry["port"] not in ours and is_taken(entry["address"], entry["port"])
        ],
        "missing_addresses": sorted({entry["address"] for entry in params["ports"] if not is_here(entry["address"])}),
        "used_units": [unit for unit in params["package_units"] if is_used(unit)],
    }


def main() -> None:
    """Entry point."""
    run(
        AnsibleModule(
            argument_spec={
                "cluster_id": {"type": "str", "required": True},
                "path": {"type": "path", "default": "/var/lib/citus_ha"},
                "units": {"type": "list", "elements": "str", "default": []},
                "ports": {"type": "list", "elements": "dict", "default": [], "options": PORT_OPTIONS},
                "package_units": {"type": "list", "elements": "str", "default": []},
                "kind": {"type": "str", "choices": ["etcd", "postgres", "pooler"], "required": True},
                "postgres_version": {"type": "int"},
                "postgres_repository": {"type": "str", "choices": ["distribution", "pgdg"], "default": "distribution"},
                "sysctl": {"type": "list", "elements": "str", "default": []},
                "watchdog": {"type": "path"},
                "time_check": {"type": "str", "choices": ["off", "warn", "require"], "default": "off"},
                "minimum_free": {"type": "int", "default": 2147483648},
            },
            supports_check_mode=True,
        ),
        work,
        needs_psycopg2=False,
    )


if __name__ == "__main__":
    main()
