#!/usr/bin/python
# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Has clients of a PgBouncer go to another server, after the end of their transactions."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pgbouncer_leave
version_added: 0.1.0
short_description: Has clients of a PgBouncer leave a server that HAProxy leads nobody to any more
description:
  - Waits until HAProxy leads elsewhere, and has PgBouncer replace its sessions (C(RECONNECT)), each at the end of its
    transaction. No client waits, and none sees an error.
  - Must run on PgBouncer's node as PgBouncer's user. Not for session pooling, in which a session lasts as long as its
    client.
extends_documentation_fragment:
  - citus_ha.cluster.attributes
attributes:
  idempotent:
    support: none
    details: Every run replaces the sessions.
options:
  server:
    description: Name of the server, as in its certificate.
    type: str
    required: true
  databases:
    description: The databases of PgBouncer whose clients may be there. One that it does not have has none.
    type: list
    elements: str
    required: true
  target_host:
    description: Host that PgBouncer connects to for them, which is an HAProxy.
    type: str
    required: true
  target_port:
    description: Port that PgBouncer connects to for them.
    type: int
    required: true
  socket_dir:
    description: Folder of PgBouncer's Unix socket.
    type: path
    required: true
  socket_port:
    description: Port of that socket.
    type: int
    default: 6432
  ca_cert:
    description: CA certificates that the servers' certificates are checked with.
    type: path
    default: /etc/citus_ha/tls/ca.crt
  wait_timeout:
    description: Seconds to wait until HAProxy leads elsewhere.
    type: int
    default: 30
  drain_timeout:
    description: Seconds that transactions then have to end.
    type: int
    default: 10
author: citus_ha contributors (@citus-ha)
seealso:
  - module: citus_ha.cluster.patroni_restart
  - name: PgBouncer's admin console
    description: What C(RECONNECT) does.
    link: https://www.pgbouncer.org/usage.html#reconnect-db
"""

EXAMPLES = r"""
- name: Have readers leave coordinator-2, whose Patroni has the tag noloadbalance by now
  citus_ha.cluster.pgbouncer_leave:
    server: coordinator-2
    databases: [app_ro]
    target_host: localhost
    target_port: 5001
    socket_dir: /run/pgbouncer
  become: true
  become_user: postgres
"""

RETURN = r"""
seconds:
  description: How long it took, of which no client had to wait.
  returned: when something was done
  type: float
  sample: 1.2
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput
from ansible_collections.citus_ha.cluster.plugins.module_utils._pgbouncer import Console, leads_steadily
from ansible_collections.citus_ha.cluster.plugins.module_utils._runner import run
from ansible_collections.citus_ha.cluster.plugins.module_utils._wait import wait_for

# Seconds that one connection through HAProxy may take.
PROBE_SECONDS = 2
# How many have to lead elsewhere: HAProxy takes its servers in turn, and others use it, too.
PROBES = 20


def leave(module: AnsibleModule) -> dict[str, Any]:
    """Wait for HAProxy, replace the sessions, wait for the last transaction."""
    params = module.params
    if not params["databases"]:
        raise InvalidInput("databases is empty. Nothing was changed.", "Name those whose clients may be there.")
    console = Console(params["socket_dir"], params["socket_port"])
    console.refuse_if_paused()
    databases = console.known(params["databases"])
    begun = time.monotonic()
    if module.check_mode or not databases:
        return {"changed": bool(databases), "seconds": 0.0}
    target = (params["target_host"], params["target_port"], params["ca_cert"])
    wait_for(
        lambda: leads_steadily(*target, timeout=PROBE_SECONDS, probes=PROBES),
        lambda servers: lacking(servers, params["server"]),
        params["wait_timeout"],
        f"Waiting for {params['target_host']}, port {params['target_port']}, to lead elsewhere",
        "No session was ended. Look at HAProxy beside this pooler.",
    )
    # Before, as every pool runs empty now, and after it, as it may have broken off a login.
    console.log_in_again()
    console.reconnect(databases)
    console.log_in_again()
    wait_for(
        lambda: console.outdated_sessions(databases),
        lambda sessions: sessions,
        params["drain_timeout"],
        "Waiting for the clients' open transactions",
        "They go on. End these, or allow more time with drain_timeout.",
        interval=0.05,
    )
    return {"changed": True, "seconds": round(time.monotonic() - begun, 3)}


def lacking(servers: frozenset[str], left: str) -> list[str]:
    """What the servers that HAProxy leads to are not yet."""
    if not servers:
        return ["it leads nowhere"]
    return [f"it leads to {left}"] if left in servers else []


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "server": {"type": "str", "required": True},
            "databases": {"type": "list", "elements": "str", "required": True},
            "target_host": {"type": "str", "required": True},
            "target_port": {"type": "int", "required": True},
            "socket_dir": {"type": "path", "required": True},
            "socket_port": {"type": "int", "default": 6432},
            "ca_cert": {"type": "path", "default": "/etc/citus_ha/tls/ca.crt"},
            "wait_timeout": {"type": "int", "default": 30},
            "drain_timeout": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    run(module, leave, needs_psycopg2=True)


if __name__ == "__main__":
    main()
