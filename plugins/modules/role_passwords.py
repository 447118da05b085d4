#!/usr/bin/python
# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replaces passwords of roles on the servers and in the poolers at the same moment."""

from __future__ import annotations

DOCUMENTATION = r"""
module: role_passwords
version_added: 0.1.0
short_description: Replace passwords of roles without an error for clients of poolers
description:
  - Gives roles other passwords. Sessions that are there go on, whichever password they were opened with. Whoever logs
    in needs the new password from the moment of the change.
  - PgBouncer passes a client's SCRAM login on to the server, for which both must know the same secret. So the two are
    changed at the same moment. The task runs on the poolers' nodes (O(part=pooler)) and on the servers that they lead
    to (O(part=server)) at the same time. The poolers let transactions end and make their clients wait (C(PAUSE)); the
    server changes the roles when no pooler has a session any more; each pooler reads its configuration again as soon
    as the server takes the new password, and lets its clients go on (C(RESUME)).
  - The poolers' configuration must name a list of users with the new secrets before, and not have been read yet. The
    list is another file than the one in use, as PgBouncer looks at that one all the time.
  - The halves need no word from each other, and none from the controller once they have begun. A pooler whose half is
    ended, in whatever way, lets its clients go on at once.
extends_documentation_fragment:
  - citus_ha.cluster.attributes
attributes:
  diff_mode:
    support: none
    details: What differs is a secret.
options:
  part:
    description:
      - V(server) changes the roles on the server of this node, which must be a primary. Must run as C(postgres).
      - V(pooler) makes the PgBouncer of this node use them. Must run as PgBouncer's user.
    type: str
    choices: [server, pooler]
    required: true
  passwords:
    description: The new passwords, by role.
    type: dict
    required: true
  secrets:
    description: V(server), the same as SCRAM secrets, as the filter C(citus_ha.cluster.scram_secrets) makes them.
    type: dict
    default: {}
  socket_dir:
    description: Folder of the server's, or of PgBouncer's, Unix socket.
    type: path
    required: true
  socket_port:
    description: Port of that socket.
    type: int
    required: true
  database:
    description: V(pooler), the database that roles log in to, in the pooler and on the server.
    type: str
  connect_params:
    description: V(server), further libpq parameters of the session.
    type: dict
    default: {}
  poolers:
    description: V(server), names in the certificates of the poolers whose sessions must have ended before.
    type: list
    elements: str
    default: []
  hold:
    description: V(pooler), whether clients are made to wait. In session pooling they keep their sessions, and need not.
    type: bool
    default: true
  target_host:
    description: V(pooler), host that PgBouncer connects to.
    type: str
  target_port:
    description: V(pooler), port that PgBouncer connects to.
    type: int
  ca_cert:
    description: V(pooler), file with the authority of the certificate that is found there.
    type: path
    default: /etc/citus_ha/tls/ca.crt
  ssl_mode:
    description: V(pooler), how that certificate is verified, as libpq's C(sslmode).
    choices: [verify-full, verify-ca]
    type: str
    default: verify-full
  drain_timeout:
    description: Seconds that transactions have to end. After that nothing is changed.
    type: int
    default: 10
  wait_timeout:
    description: V(pooler), seconds after which clients go on in any case.
    type: int
    default: 30
  start_at:
    description: The moment, in seconds since 1970, before which nobody does anything, so that halves begin together.
    type: float
author: citus_ha contributors (@citus-ha)
seealso:
  - module: citus_ha.cluster.patroni_switchover
"""

EXAMPLES = r"""
- name: Replace passwords, on coordinator-1 and pgbouncer-1 at the same time
  citus_ha.cluster.role_passwords:
    part: "{{ 'pooler' if inventory_hostname == 'pgbouncer-1' else 'server' }}"
    passwords: "{{ new_passwords }}"
    secrets: "{{ new_passwords | citus_ha.cluster.scram_secrets }}"
    socket_dir: "{{ '/run/pgbouncer' if inventory_hostname == 'pgbouncer-1' else '/run/postgresql' }}"
    socket_port: "{{ 6432 if inventory_hostname == 'pgbouncer-1' else 5432 }}"
    database: app
    poolers: [pgbouncer-1]
    target_host: localhost
    target_port: 5000
    start_at: "{{ now().timestamp() + 2 }}"
  become: true
  become_user: postgres
"""

RETURN = r"""
roles:
  description: Roles whose password was changed, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: [app]
seconds:
  description: V(pooler), how long clients were held.
  returned: when something was done
  type: float
  sample: 0.4
"""

import time
from contextlib import nullcontext
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils import _connection
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput, Refused
from ansible_collections.citus_ha.cluster.plugins.module_utils._pgbouncer import Console, login
from ansible_collections.citus_ha.cluster.plugins.module_utils._runner import run
from ansible_collections.citus_ha.cluster.plugins.module_utils._wait import wait_for, wait_until

# A pooler's half may begin a little later than the server's, on a machine that is busy.
POOLERS_GRACE = 1.0

# Sessions of the poolers: their certificate names them.
_POOLED = """
SELECT substring(s.client_dn FROM 'CN=([^/,]+)') AS pooler, count(*) AS sessions
  FROM pg_stat_ssl AS s JOIN pg_stat_activity AS a USING (pid)
 WHERE a.backend_type = 'client backend' AND substring(s.client_dn FROM 'CN=([^/,]+)') = ANY (%(poolers)s)
 GROUP BY 1
"""


# What could keep the text of a statement; as in roles/postgres/vars, for roles that are made.
KEEP_SILENT = {
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_duration": "off",
    "log_min_error_statement": "panic",
    "track_activities": "off",
    "pg_stat_statements.track": "none",
}


def to_change(stored: dict[str, str | None], secrets: dict[str, str]) -> list[str]:
    """Roles whose secret on the server is another one. Pure.

    :raises InvalidInput: a role is not there.
    """
    missing = sorted(set(secrets) - set(stored))
    if missing:
        raise InvalidInput(
            f"The server has no role {', '.join(missing)}. Nothing was changed.",
            "Run site.yml, which makes the roles of cluster_roles, or take them out of passwords.",
        )
    return sorted(role for role, secret in secrets.items() if stored[role] != secret)


def serve(module: AnsibleModule) -> dict[str, Any]:
    """The server's half."""
    params = module.params
    defaults = {name: option.get("default") for name, option in _connection.connection_argument_spec().items()}
    session = _connection.connect(
        {
            **defaults,
            "login_host": params["socket_dir"],
            "login_port": params["socket_port"],
            "connect_params": params["connect_params"],
        }
    )
    try:
        if session.value("SELECT pg_is_in_recovery()"):
            raise Refused(f"{session.where} is a standby. Nothing was changed.", "Run this on the group's leader.")
        rows = session.query(
            "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = ANY (%(roles)s)",
            {"roles": list(params["secrets"])},
        )
        roles = to_change({row["rolname"]: row["rolpassword"] for row in rows}, params["secrets"])
        result = {"changed": bool(roles), "roles": roles}
        if not roles or module.check_mode:
            return result
        if params["poolers"]:
            wait_until(params["start_at"])
            time.sleep(POOLERS_GRACE)
            wait_for(
                lambda: session.query(_POOLED, {"poolers": params["poolers"]}),
                lambda seen: [f"{row['sessions']} sessions of {row['pooler']}" for row in seen],
                params["drain_timeout"] + 5,
                "Waiting for the poolers to let go of their sessions",
                "No password was changed. The pooler's own half says why; both must run at the same time.",
                interval=0.03,
                longest_interval=0.03,
            )
        # Neither the log nor the statistics keep a secret; standbys that must have it have it when this returns.
        for setting, value in KEEP_SILENT.items():
            session.execute(f"SET {setting} = '{value}'")
        session.execute("SET synchronous_commit = 'remote_apply'")
        with session.transaction():
            for role in roles:
                statement = _connection.pgsql.SQL("ALTER ROLE {} PASSWORD %(secret)s")
                session.execute(
                    statement.format(_connection.pgsql.Identifier(role)), {"secret": params["secrets"][role]}
                )
        return result
    finally:
        session.close()


def pool(module: AnsibleModule) -> dict[str, Any]:
    """The pooler's half."""
    params = module.params
    console = Console(params["socket_dir"], params["socket_port"])
    ours = {"host": params["socket_dir"], "port": params["socket_port"], "dbname": params["database"]}
    server = {
        "host": params["target_host"],
        "port": params["target_port"],
        "dbname": params["database"],
        "sslmode": params["ssl_mode"],
        "sslrootcert": params["ca_cert"],
    }

    def lacking(where: dict[str, Any]) -> list[str]:
        """Roles whose new password is not taken there."""
        refused = {role: login(role, password, **where) for role, password in params["passwords"].items()}
        if where is ours:
            # A PgBouncer that is paused has checked the password when it keeps silent.
            refused = {role: answer for role, answer in refused.items() if answer and "timeout expired" not in answer}
        return [f"{role}: {answer}" for role, answer in refused.items() if answer]

    known = [entry.partition(":")[0] for entry in lacking(ours)]
    result: dict[str, Any] = {"changed": bool(known), "roles": known}
    if not known or module.check_mode:
        return result
    if params["hold"]:
        console.refuse_if_paused()
        console.log_in_again()
    wait_until(params["start_at"])
    begun = time.monotonic()
    with console.paused(params["drain_timeout"], params["wait_timeout"]) if params["hold"] else nullcontext():
        # No more than is left before the guard lets clients go on
        patience = max(1.0, params["wait_timeout"] - 5 - (time.monotonic() - begun))
        remedy = "The task on the server's node says why. Clients of this pooler go on."
        wait_for(lambda: lacking(server), list, patience, "Waiting for the server's new passwords", remedy, 0.05, 0.2)
        console.reload()
        # A login leaves the key in the pooler with which it logs in to the server for those who are there already.
        remedy = (
            f"Its list of users must be on the node before this task. Run it again: {console.where} was not changed."
        )
        wait_for(lambda: lacking(ours), list, 5, "Waiting for PgBouncer to take the new passwords", remedy, 0.05, 0.2)
    return {**result, "seconds": round(time.monotonic() - begun, 3)}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "part": {"type": "str", "choices": ["server", "pooler"], "required": True},
            "passwords": {"type": "dict", "required": True, "no_log": True},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "socket_dir": {"type": "path", "required": True},
            "socket_port": {"type": "int", "required": True},
            "database": {"type": "str"},
            "connect_params": {"type": "dict", "default": {}},
            "poolers": {"type": "list", "elements": "str", "default": []},
            "hold": {"type": "bool", "default": True},
            "target_host": {"type": "str"},
            "target_port": {"type": "int"},
            "ca_cert": {"type": "path", "default": "/etc/citus_ha/tls/ca.crt"},
            "ssl_mode": {"choices": ["verify-full", "verify-ca"], "default": "verify-full"},
            "drain_timeout": {"type": "int", "default": 10},
            "wait_timeout": {"type": "int", "default": 30},
            "start_at": {"type": "float"},
        },
        required_if=[("part", "pooler", ["database", "target_host", "target_port"])],
        supports_check_mode=True,
    )
    run(module, {"server": serve, "pooler": pool}[module.params["part"]])


if __name__ == "__main__":
    main()
