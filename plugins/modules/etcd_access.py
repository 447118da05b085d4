#!/usr/bin/python
# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may do what in etcd: authentication, a role that is limited to a prefix, and the user who has it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_access
short_description: Authentication of etcd, with one role that is limited to a prefix
version_added: 0.1.0
description:
  - Makes a role that may read and write the keys below one prefix and nothing else, and a user who has this role and
    logs in with a password. Switches etcd's authentication on or off.
  - The administrator is etcd's user V(root), without a password. Who he is etcd knows by the C(CN) of a certificate,
    which O(cert) must have (U(https://etcd.io/docs/v3.5/op-guide/authentication/rbac/#using-tls-common-name)).
  - etcd's JSON gateway, through which Patroni comes, refuses certificates with any C(CN) while authentication is on.
    Give those who log in with a password certificates without one.
  - For a new password give O(user) another name, and let O(exclusive) remove the old one when everybody uses the new.
    So both passwords open meanwhile.
  - Runs C(etcdctl). Passwords go through its standard input.
author: citus_ha contributors (@citus-ha)
extends_documentation_fragment:
  - citus_ha.cluster.attributes
options:
  endpoint:
    description: Address of a member, such as V(https://etcd-1:2379).
    type: str
    required: true
  role:
    description: Name of the role.
    type: str
    default: patroni
  prefix:
    description: The role may read and write the keys that begin with this. Other rights are taken from it.
    type: str
  user:
    description: Name of the user who has the role. Required with O(prefix).
    type: str
  password:
    description:
      - Password of a new user. The one of an existing user is left as it is, for nobody can see whether it is the same.
    type: str
  exclusive:
    description: Remove the other users who have the role, once O(user) has it.
    type: bool
    default: false
  grace:
    description: Seconds to wait before somebody loses access, until everybody has read the new password.
    type: int
    default: 0
  enabled:
    description: Whether etcd demands authentication. Left as it is when not given.
    type: bool
  spare_clients:
    description:
      - Leave authentication off while there are keys below O(prefix). Whoever wrote them works without a password, and
        is to be told one first.
    type: bool
    default: false
  cacert:
    description: File with the certificate authority of the members.
    type: path
    default: /etc/citus_ha/tls/ca.crt
  cert:
    description: File with a certificate whose C(CN) is V(root).
    type: path
    default: /etc/citus_ha/etcd_client/client.crt
  key:
    description: File with the key of O(cert).
    type: path
    default: /etc/citus_ha/etcd_client/client.key
"""

EXAMPLES = r"""
- name: Let Patroni in, and nobody else
  citus_ha.cluster.etcd_access:
    endpoint: https://etcd-1:2379
    prefix: /service/shop/
    user: patroni-2026
    password: "{{ vault_etcd_password }}"
    enabled: true
  run_once: true
"""

RETURN = r"""
actions:
  description: The etcdctl commands that were run, in order (in check mode, that would be run).
  type: list
  elements: str
  returned: success
  sample: ["user add patroni-2026 --interactive=false", "user grant-role patroni-2026 patroni"]
enabled:
  description: Whether etcd demands authentication in the end (in check mode, as it is).
  type: bool
  returned: success
"""

import base64
import json
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import CitusHaError, InvalidInput
from ansible_collections.citus_ha.cluster.plugins.module_utils._runner import run

ROOT = "root"
#: As in etcd's ``authpb.Permission.Type``
READ_AND_WRITE = 2
Permission = tuple[int, bytes, bytes]


@dataclass(frozen=True)
class State:
    """What etcd has: whether it demands authentication, roles of each user, permissions of the role (None: no role).

    ``used`` says whether there are keys below the prefix.
    """

    enabled: bool
    users: Mapping[str, frozenset[str]] = field(default_factory=dict)
    permissions: frozenset[Permission] | None = None
    used: bool = False


@dataclass(frozen=True)
class Wanted:
    """What it shall have; without a prefix roles and users are left alone."""

    role: str
    prefix: str | None = None
    user: str = ""
    exclusive: bool = False
    enabled: bool | None = None
    spare_clients: bool = False


@dataclass(frozen=True)
class Step:
    """One etcdctl command."""

    argv: tuple[str, ...]
    gives_password: bool = False
    takes_access: bool = False


def below(prefix: str) -> Permission:
    """Reading and writing of every key that begins with ``prefix``, as etcd keeps it."""
    start = prefix.encode()
    return READ_AND_WRITE, start, start[:-1] + bytes([start[-1] + 1])


def plan(state: State, wanted: Wanted) -> list[Step]:
    """The steps from what is to what shall be. Nobody loses access before whoever shall have it has it."""
    steps = plan_access(state, wanted) if wanted.prefix else []
    if wanted.enabled and not state.enabled and not (wanted.spare_clients and state.used):
        if ROOT not in state.users:
            steps.append(Step(("user", "add", ROOT, "--no-password")))
        if ROOT not in state.users.get(ROOT, ()):
            steps.append(Step(("user", "grant-role", ROOT, ROOT)))
        steps.append(Step(("auth", "enable"), takes_access=True))
    if wanted.enabled is False and state.enabled:
        steps.append(Step(("auth", "disable")))
    # With a prefix the steps above make it.
    will_have_role = bool(wanted.prefix) or wanted.role in state.users.get(wanted.user, ())
    if wanted.exclusive and will_have_role:
        others = [
            name for name, roles in state.users.items() if wanted.role in roles and name not in (wanted.user, ROOT)
        ]
        steps += [Step(("user", "delete", name), takes_access=True) for name in sorted(others)]
    return steps


def plan_access(state: State, wanted: Wanted) -> list[Step]:
    """The steps that make the role and its user."""
    steps = []
    permission = below(wanted.prefix or "")
    if state.permissions is None:
        steps.append(Step(("role", "add", wanted.role)))
    present = state.permissions or frozenset()
    if permission not in present:
        steps.append(Step(("role", "grant-permission", wanted.role, "readwrite", wanted.prefix or "", "--prefix")))
    # One permission for each range of keys: the grant has replaced a lesser one for the same.
    for _kind, start, end in sorted(entry for entry in present if entry[1:] != permission[1:]):
        keys = (start.decode("utf-8", "replace"), *([end.decode("utf-8", "replace")] if end else []))
        steps.append(Step(("role", "revoke-permission", wanted.role, *keys)))
    if wanted.user not in state.users:
        steps.append(Step(("user", "add", wanted.user, "--interactive=false"), gives_password=True))
    if wanted.role not in state.users.get(wanted.user, ()):
        steps.append(Step(("user", "grant-role", wanted.user, wanted.role)))
    return steps


class Etcdctl:
    """Runs etcdctl as the administrator.

    :raises CitusHaError: with etcd's own words.
    """

    def __init__(self, endpoint: str, cacert: str, cert: str, key: str) -> None:
        self._argv = ["etcdctl", f"--endpoints={endpoint}", f"--cacert={cacert}", f"--cert={cert}", f"--key={key}"]
        self._argv += ["--dial-timeout=2s", "--command-timeout=5s"]

    def run(self, *argv: str, stdin: str = "") -> str:
        """Standard output."""
        try:
            done = subprocess.run([*self._argv, *argv], input=stdin, capture_output=True, text=True, check=False)
        except OSError as error:
            raise CitusHaError(f"etcdctl could not be run: {error.strerror}.", "Install it on this node.") from error
        if done.returncode != 0:
            # Before that the client logs each attempt, as JSON
            said = [line for line in done.stderr.splitlines() if line and not line.startswith("{")]
            raise CitusHaError(
                f"etcdctl {' '.join(argv)} failed: {' '.join(said) or done.stderr.strip()}",
                f"Is the CN of {self._argv[3].removeprefix('--cert=')} {ROOT}, and has etcd a quorum?",
            )
        return done.stdout

    def ask(self, *argv: str) -> dict[str, Any]:
        """The answer as an object."""
        answer = json.loads(self.run(*argv, "--write-out=json"))
        return dict(answer)

    def demands_authentication(self) -> bool:
        """Whether everybody has to log in."""
        return bool(self.ask("auth", "status").get("enabled"))

    def observe(self, wanted: Wanted) -> State:
        """Everything that the plan wants to know."""
        role = wanted.role
        names = self.ask("user", "list").get("users", [])
        return State(
            enabled=self.demands_authentication(),
            users={name: frozenset(self.ask("user", "get", name).get("roles", [])) for name in names},
            permissions=self._permissions(role) if role in self.ask("role", "list").get("roles", []) else None,
            used=bool(wanted.prefix and self.ask("get", wanted.prefix, "--prefix", "--limit=1").get("kvs")),
        )

    def _permissions(self, role: str) -> frozenset[Permission]:
        return frozenset(
            (
                permission.get("permType", 0),
                base64.b64decode(permission.get("key", "")),
                base64.b64decode(permission.get("range_end", "")),
            )
            for permission in self.ask("role", "get", role).get("perm", [])
        )


def wanted_by(params: Mapping[str, Any]) -> Wanted:
    """What the arguments ask for, or :class:`InvalidInput`."""
    if params["prefix"] is not None and not params["prefix"]:
        raise InvalidInput(
            "prefix is empty: the role would have every key.", "Name the prefix, such as /service/shop/."
        )
    if params["password"] and not re.fullmatch(r"\S+", params["password"]):
        raise InvalidInput("password has white space, which etcdctl takes for its end.", "Choose one without.")
    if params["user"] == ROOT:
        raise InvalidInput(f"user is {ROOT}, the administrator.", "Give the role to a user of another name.")
    return Wanted(
        params["role"],
        params["prefix"],
        params["user"] or "",
        params["exclusive"],
        params["enabled"],
        params["spare_clients"],
    )


def work(module: AnsibleModule) -> dict[str, Any]:
    """Observe, plan, and unless in check mode apply."""
    params = module.params
    wanted = wanted_by(params)
    etcd = Etcdctl(params["endpoint"], params["cacert"], params["cert"], params["key"])
    state = etcd.observe(wanted)
    steps = plan(state, wanted)
    if not params["password"] and any(step.gives_password for step in steps):
        raise InvalidInput(f"The user {wanted.user} is to be made without a password.", "Give password.")
    if not module.check_mode:
        waited = False
        for step in steps:
            if step.takes_access and not waited:
                time.sleep(max(params["grace"], 0))
                waited = True
            etcd.run(*step.argv, stdin=f"{params['password']}\n" if step.gives_password else "")
    actions = [" ".join(step.argv) for step in steps]
    return {
        "changed": bool(actions),
        "actions": actions,
        "enabled": state.enabled if module.check_mode else etcd.demands_authentication(),
        "diff": {"prepared": "".join(f"etcdctl {action}\n" for action in actions)},
    }


def main() -> None:
    """Entry point."""
    run(
        AnsibleModule(
            argument_spec={
                "endpoint": {"type": "str", "required": True},
                "role": {"type": "str", "default": "patroni"},
                "prefix": {"type": "str"},
                "user": {"type": "str"},
                "password": {"type": "str", "no_log": True},
                "exclusive": {"type": "bool", "default": False},
                "grace": {"type": "int", "default": 0},
                "enabled": {"type": "bool"},
                "spare_clients": {"type": "bool", "default": False},
                "cacert": {"type": "path", "default": "/etc/citus_ha/tls/ca.crt"},
                "cert": {"type": "path", "default": "/etc/citus_ha/etcd_client/client.crt"},
                "key": {"type": "path", "default": "/etc/citus_ha/etcd_client/client.key", "no_log": False},
            },
            required_by={"prefix": ["user"]},
            required_if=[("exclusive", True, ["user"]), ("spare_clients", True, ["prefix"])],
            supports_check_mode=True,
        ),
        work,
        needs_psycopg2=False,
    )


if __name__ == "__main__":
    main()
