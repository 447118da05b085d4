#!/usr/bin/python
# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One physical streaming replica of a primary."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_replica
version_added: 0.1.0
short_description: One physical streaming replica of a PostgreSQL server
description:
  - Makes a server a streaming standby of another one, promotes it, pauses it, or takes it out of service. It copies
    an empty data folder with C(pg_basebackup), points a standby to another primary, and rewinds with C(pg_rewind)
    what has diverged.
  - Runs on the standby's machine, as the OS user that owns the data folder.
  - Whether the two servers fit is asked of the servers. What the primary would refuse to stream from is found out by
    asking it to.
  - With O(patroni_url) it does the same through Patroni's REST API and never touches a file.
extends_documentation_fragment:
  - citus_ha.cluster.attributes
  - citus_ha.cluster.connection
options:
  state:
    description:
      - V(streaming) follows the server in O(primary_conninfo) with a lag below O(max_lag).
      - V(promoted) is a primary. As planned, it requires that the old primary no longer accepts connections and that
        its clean shutdown has arrived here, so that no write is lost and no second primary is left. O(force) skips
        both.
      - V(paused) is a standby that receives but does not replay. V(streaming) resumes it. Under Patroni it means a
        group without automatic failover.
      - V(absent) has no slot on the primary. The data folder is kept unless O(remove_data).
    type: str
    choices: [streaming, promoted, paused, absent]
    default: streaming
  name:
    description:
      - Name of this standby, as C(application_name) in C(pg_stat_replication) and C(synchronous_standby_names) on the
        primary. Under Patroni the name of the member.
      - The machine's host name when not given.
    type: str
  data_dir:
    description: Data folder of this server. Required without O(patroni_url).
    type: path
  primary_conninfo:
    description:
      - The server to follow, as libpq's connection parameters (C(host), C(port), C(user), C(sslmode), C(sslcert),
        C(passfile) ...). It becomes PostgreSQL's parameter of the same name. Required without O(patroni_url).
      - C(user) needs the REPLICATION attribute only, and a line for C(replication) in pg_hba.conf.
    type: dict
  primary_password:
    description: Password of that user, written into the file that C(passfile) in O(primary_conninfo) names.
    type: str
  basebackup_conninfo:
    description:
      - Parameters that differ from O(primary_conninfo) for the copy, so that it can be taken from a standby.
    type: dict
    default: {}
  rewind_user:
    description:
      - Role for C(pg_rewind) on the primary, a superuser or one with the grants that its manual lists.
    type: str
    default: postgres
  slot:
    description:
      - Physical replication slot on the primary, created when missing. It keeps the log for this standby while it is
        away, on the disk of the primary, so drop it (O(state=absent)) when the standby is not to come back.
      - O(name) in lower case, with underscores, when not given.
    type: str
  bin_dir:
    description: Folder with PostgreSQL's programs. Searched for by the primary's version when not given.
    type: path
  config_file:
    description: The server's postgresql.conf when it is not in O(data_dir). C(pg_rewind) and C(pg_ctl) need it.
    type: path
  checkpoint:
    description:
      - Whether the copy begins at once at the cost of a burst of writes on the primary, or after its next regular
        checkpoint.
    type: str
    choices: [fast, spread]
    default: fast
  max_rate:
    description: Highest rate of the copy per second, as C(pg_basebackup --max-rate), such as V(50M).
    type: str
  max_lag:
    description: Bytes between the primary's log and what this standby has replayed.
    type: int
    default: 16777216
  manage_service:
    description:
      - V(none) leaves starting and stopping to the caller's service manager. The module prepares the files and
        returns RV(needs).
      - V(pg_ctl) starts and stops the server with C(pg_ctl).
    type: str
    choices: [none, pg_ctl]
    default: none
  allow_rebuild:
    description: Throw the data folder away and copy it anew when it can neither follow nor be rewound.
    type: bool
    default: false
  allow_cascade:
    description: Follow a server that is itself in recovery.
    type: bool
    default: false
  assume_stopped:
    description:
      - Believe that no server runs on O(data_dir) although its C(postmaster.pid) is there and its process cannot be
        seen, as after a crash inside of a container.
    type: bool
    default: false
  force:
    description:
      - Promote although the old primary may be alive, or writes of it may be missing here.
      - With O(patroni_url), O(state=streaming) and O(allow_rebuild), copy a member anew that streams, too, such as one
        with damaged pages.
    type: bool
    default: false
  remove_data:
    description: With O(state=absent), remove the content of O(data_dir) too.
    type: bool
    default: false
  wait:
    description: Wait until a started standby streams with a lag below O(max_lag), and for a promotion to end.
    type: bool
    default: true
  wait_timeout:
    description: Seconds to wait.
    type: int
    default: 120
  wait_for_start:
    description:
      - The server has been told to start, so wait until it is there. Without it, a stopped server is left to the
        caller.
      - Not done in check mode, and without O(wait).
    type: bool
    default: false
  patroni_url:
    description:
      - Address of the REST API of a member of the group. The standby is then Patroni's, and O(name) its member.
        V(streaming) reinitializes it when it does not stream and O(allow_rebuild) is set, one that is starting only
        after O(wait_timeout). V(promoted) switches over (with O(force) fails over), V(paused) pauses the group,
        V(absent) checks that the member has left.
    type: str
  patroni_ca_cert:
    description: As O(citus_ha.cluster.patroni_group#module:ca_cert).
    type: path
    default: /etc/citus_ha/tls/ca.crt
  patroni_client_cert:
    description: As O(citus_ha.cluster.patroni_group#module:client_cert).
    type: path
    default: /etc/citus_ha/tls/node.crt
  patroni_client_key:
    description: As O(citus_ha.cluster.patroni_group#module:client_key).
    type: path
    default: /etc/citus_ha/tls/node.key
notes:
  - O(login_host) and its companions are the standby's own server, O(primary_conninfo) is the server that it follows.
  - PostgreSQL 15 or newer on the primary, for C(READ_REPLICATION_SLOT).
  - "With O(manage_service=none) call the module twice. First while no server runs: on the machine, in a container whose
    command waits for the data folder, or in a one-off container with the same volumes. It copies, rewinds and
    configures, and returns RV(needs=start). Then let the server start, and call it again where the server runs, with
    O(wait_for_start=true): it has nothing to change, and waits until the standby streams. When a call beside a running
    server fails with RV(needs=stop), its files have to be replaced: stop the server and begin with the first call."
  - "It writes C(standby.signal), and C(primary_conninfo) and C(primary_slot_name) to C(postgresql.auto.conf) (by
    C(ALTER SYSTEM) when the server runs). A server started with the same parameters on its command line does not see
    them."
author: citus_ha contributors (@citus-ha)
seealso:
  - module: citus_ha.cluster.patroni_group
  - name: Log-shipping standby servers
    description: PostgreSQL's manual.
    link: https://www.postgresql.org/docs/current/warm-standby.html
"""

EXAMPLES = r"""
- name: A standby on this machine, copied when it is not there yet
  citus_ha.cluster.pg_replica:
    data_dir: /var/lib/postgresql/17/main
    primary_conninfo:
      host: db1.example.org
      user: replicator
      sslmode: verify-full
      sslrootcert: /etc/citus_ha/tls/ca.crt
      sslcert: /etc/citus_ha/tls/node.crt
      sslkey: /etc/citus_ha/tls/node.key
    max_rate: 100M
  become: true
  become_user: postgres
  register: standby

- name: Its service
  ansible.builtin.systemd_service:
    name: postgresql@17-main
    state: started
    enabled: true
  become: true

- name: It streams
  citus_ha.cluster.pg_replica:
    data_dir: /var/lib/postgresql/17/main
    primary_conninfo: "{{ conninfo }}"
    wait_for_start: true
  become: true
  become_user: postgres

- name: Take over from a primary that was stopped by the task before
  citus_ha.cluster.pg_replica:
    state: promoted
    data_dir: /var/lib/postgresql/17/main
    primary_conninfo: "{{ conninfo }}"

- name: The old primary becomes a standby of the new one, rewound when it has to be
  citus_ha.cluster.pg_replica:
    data_dir: /var/lib/postgresql/17/main
    primary_conninfo: "{{ conninfo | combine({'host': 'db2.example.org'}) }}"

- name: A planned switchover in a group that Patroni manages
  citus_ha.cluster.pg_replica:
    state: promoted
    name: worker1-2
    patroni_url: https://worker1-1.example.org:8008
"""

RETURN = r"""
name:
  description: Name of the standby.
  returned: success
  type: str
needs:
  description:
    - V(start) when the files are ready and the server has to be started, V(stop) (of a failed task) when it has to be
      stopped first.
  returned: success, and when a failure tells to stop the server
  type: str
  sample: none
actions:
  description: What was done, in check mode what would be.
  returned: success
  type: list
  elements: str
  sample: ["create slot db2 on db1:5432", "copy db1:5432 to /var/lib/postgresql/17/main"]
role:
  description: What the server is now; in check mode what it would be.
  returned: success
  type: str
  sample: standby
  choices: [standby, primary, stopped]
receiver:
  description: Status of the WAL receiver.
  returned: success
  type: str
  sample: streaming
lag:
  description: Bytes behind the primary; V(null) when the server does not run.
  returned: success
  type: int
  sample: 0
timeline:
  description: Timeline of the server or, when it does not run, of the data folder.
  returned: success
  type: int
  sample: 1
system_identifier:
  description: The database cluster's identity.
  returned: without O(patroni_url)
  type: str
slot:
  description: Name of the slot.
  returned: without O(patroni_url)
  type: str
idle_slots:
  description:
    - Physical replication slots of this standby that nobody uses, such as those of its time as a primary. They keep its
      log for ever, so they are named in a warning too; no slot is dropped as a side effect.
  returned: without O(patroni_url)
  type: list
  elements: str
queries:
  description: Statements and replication commands that changed something.
  returned: success
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils import (
    _connection,
    _patroni,
    _replica_patroni,
    _replica_run,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._runner import run


def work(module: AnsibleModule) -> dict[str, Any]:
    """Change the standby, through Patroni when it manages it."""
    return (_replica_patroni if module.params["patroni_url"] else _replica_run).work(module)


def main() -> None:
    """Entry point."""
    tls = _patroni.patroni_argument_spec()
    module = AnsibleModule(
        argument_spec={
            **_connection.connection_argument_spec(),
            "state": {
                "type": "str",
                "choices": ["streaming", "promoted", "paused", "absent"],
                "default": "streaming",
            },
            "name": {"type": "str"},
            "data_dir": {"type": "path"},
            "primary_conninfo": {"type": "dict"},
            "primary_password": {"type": "str", "no_log": True},
            "basebackup_conninfo": {"type": "dict", "default": {}},
            "rewind_user": {"type": "str", "default": "postgres"},
            "slot": {"type": "str"},
            "bin_dir": {"type": "path"},
            "config_file": {"type": "path"},
            "checkpoint": {"type": "str", "choices": ["fast", "spread"], "default": "fast"},
            "max_rate": {"type": "str"},
            "max_lag": {"type": "int", "default": 16777216},
            "manage_service": {"type": "str", "choices": ["none", "pg_ctl"], "default": "none"},
            "allow_rebuild": {"type": "bool", "default": False},
            "allow_cascade": {"type": "bool", "default": False},
            "assume_stopped": {"type": "bool", "default": False},
            "force": {"type": "bool", "default": False},
            "remove_data": {"type": "bool", "default": False},
            "wait": {"type": "bool", "default": True},
            "wait_timeout": {"type": "int", "default": 120},
            "wait_for_start": {"type": "bool", "default": False},
            "patroni_url": {"type": "str"},
            "patroni_ca_cert": tls["ca_cert"],
            "patroni_client_cert": tls["client_cert"],
            "patroni_client_key": {**tls["client_key"], "no_log": False},
        },
        required_one_of=[("data_dir", "patroni_url")],
        mutually_exclusive=[("data_dir", "patroni_url"), ("primary_conninfo", "patroni_url")],
        required_by={"data_dir": ["primary_conninfo"]},
        supports_check_mode=True,
    )
    run(module, work, needs_psycopg2=not module.params["patroni_url"])


if __name__ == "__main__":
    main()
