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
    description: Promote although the old primary may be alive, or writes of it may be missing here.
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
        V(streaming) reinitializes it when it does not stream and O(allow_rebuild) is set, V(promoted) switches over
        (with O(force) fails over), V(paused) pauses the group, V(absent) checks that the member has left.
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

import re
import socket
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils import _connection, _patroni, _replica_patroni
from ansible_collections.citus_ha.cluster.plugins.module_utils import _replica as rules
from ansible_collections.citus_ha.cluster.plugins.module_utils import _replica_host as host
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    CitusHaError,
    ConnectionFailed,
    InvalidInput,
    Refused,
    ServerError,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._replica import Action, Step
from ansible_collections.citus_ha.cluster.plugins.module_utils._runner import run
from ansible_collections.citus_ha.cluster.plugins.module_utils._wait import wait_for

RATE = re.compile(r"[0-9]+(\.[0-9]+)?[kM]?")
SLOT_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")


class Replica:
    """Looks at one standby and the server it follows, and changes the standby."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self.params: dict[str, Any] = module.params
        self.queries: list[str] = []
        params = self.params
        self.name: str = params["name"] or socket.gethostname()
        slot: str = params["slot"] or rules.slot_name(self.name)
        if not set(slot) <= SLOT_CHARACTERS or len(slot) > 63:
            raise InvalidInput(
                f"'{slot}' is not a name for a replication slot.",
                "Use up to 63 lower case letters, digits and underscores.",
            )
        if params["max_rate"] and not RATE.fullmatch(params["max_rate"]):
            raise InvalidInput(
                f"max_rate {params['max_rate']!r} is no rate.", "Give kilobytes a second, or megabytes as in 50M."
            )
        self.desired = rules.Desired(
            state=params["state"],
            data_dir=params["data_dir"],
            conninfo=host.make_conninfo(params["primary_conninfo"], self.name),
            slot=slot,
            managed=params["manage_service"] == "pg_ctl",
            **{
                option: params[option]
                for option in ("max_lag", "allow_rebuild", "allow_cascade", "assume_stopped", "force", "remove_data")
            },
        )
        self._replication: host.Replication | None = None
        self._use_version(host.folder_version(params["data_dir"]))

    def _use_version(self, major: int | None) -> None:
        self._programs = host.Programs(self._module.run_command, self.params["bin_dir"], major)
        self.folder = host.DataFolder(self.desired.data_dir, self._programs)

    def connect_upstream(self) -> None:
        """Open the session with the server to follow; for a promotion it need not be there."""
        try:
            self._replication = host.Replication(
                self.desired.conninfo, self.params["connect_timeout"], self.params["primary_password"]
            )
        except ConnectionFailed:
            if self.desired.state in ("promoted", "paused"):
                return
            raise

    def close(self) -> None:
        """End what is open."""
        if self._replication is not None:
            self.queries += self._replication.executed
            self._replication.close()

    def observe(self) -> rules.State:
        """Everything that the planner wants to know."""
        process = self.folder.process()
        local, received = host.observe_local(self.params, process, self.desired.data_dir)
        upstream = self._replication.observe(self.desired.slot) if self._replication is not None else None
        if upstream is not None and host.folder_version(self.desired.data_dir) is None:
            self._use_version(upstream.version // 10000)
        folder = self.folder.observe()
        state = rules.State(
            replace(folder, settings=self._same(folder.settings)),
            replace(local, settings=self._same(local.settings)),
            upstream,
        )
        return replace(state, continuation=self._continuation(state, received))

    def _same(self, settings: Any) -> dict[str, str]:
        """The settings, with the connection string in our spelling when it says the same as ours."""
        conninfo = settings.get("primary_conninfo", "")
        return (
            {**settings, "primary_conninfo": self.desired.conninfo}
            if host.same_conninfo(conninfo, self.desired.conninfo)
            else dict(settings)
        )

    def _continuation(self, state: rules.State, received: int) -> rules.Continuation:
        upstream, folder, local = state.upstream, state.folder, state.local
        if (
            self._replication is None
            or upstream is None
            or self.desired.state != "streaming"
            or folder.content is not rules.Content.DATABASE
            or folder.system_identifier != upstream.system_identifier
        ):
            return rules.Continuation.UNKNOWN
        if local.up:
            settled = local.receiver == "streaming" and dict(local.settings) == self.desired.settings
            if settled or not local.in_recovery:
                return rules.Continuation.UNKNOWN
            return self._replication.continuation(local.timeline, received)
        if local.run is rules.Run.STARTING or folder.crashed_primary or folder.timeline > upstream.timeline:
            return rules.Continuation.UNKNOWN
        return self._replication.continuation(*folder.end)

    # ---- changes -----------------------------------------------------------------------------

    def apply(self, actions: list[Action]) -> None:
        """Do them in order."""
        steps: dict[Step, Callable[[], None]] = {
            Step.CREATE_SLOT: lambda: self._upstream().create_slot(self.desired.slot),
            Step.DROP_SLOT: lambda: self._upstream().drop_slot(self.desired.slot),
            Step.STOP: lambda: self._pg_ctl("stop", "--mode=fast"),
            Step.START: self._start,
            Step.EMPTY: self.folder.empty,
            Step.BASEBACKUP: self._basebackup,
            Step.REWIND: self._rewind,
            Step.CONFIGURE: lambda: self.folder.configure(self.desired.settings),
            Step.RECONFIGURE: self._reconfigure,
            Step.RESUME: lambda: self._execute("SELECT pg_wal_replay_resume()"),
            Step.PAUSE: lambda: self._execute("SELECT pg_wal_replay_pause()"),
            Step.PROMOTE: self._promote,
        }
        for action in actions:
            steps[action.step]()

    def _upstream(self) -> host.Replication:
        if self._replication is None:
            raise ValueError("no session with the upstream")
        return self._replication

    def _execute(self, statement: Any, values: Any = None) -> None:
        session = _connection.connect(self.params)
        try:
            session.execute(statement, values)
            self.queries += session.executed
        finally:
            session.close()

    def _basebackup(self) -> None:
        source = {**self.params["primary_conninfo"], **self.params["basebackup_conninfo"]}
        arguments = [
            f"--pgdata={self.desired.data_dir}",
            f"--dbname={host.make_conninfo(source, self.name)}",
            "--no-password",
            "--wal-method=stream",
            f"--checkpoint={self.params['checkpoint']}",
        ]
        if self.params["max_rate"]:
            arguments.append(f"--max-rate={self.params['max_rate']}")
        if not self.params["basebackup_conninfo"]:
            arguments.append(f"--slot={self.desired.slot}")
        self._programs.call(
            "pg_basebackup", arguments, "Mend the cause and run the task again: it begins the copy anew."
        )

    def _rewind(self) -> None:
        source = {**self.params["primary_conninfo"], "user": self.params["rewind_user"]}
        conninfo = f"{host.make_conninfo(source, self.name)} dbname=postgres"
        arguments = [f"--target-pgdata={self.desired.data_dir}", f"--source-server={conninfo}"]
        if self.params["config_file"]:
            arguments.append(f"--config-file={self.params['config_file']}")
        try:
            self._programs.call("pg_rewind", arguments)
        except ServerError as error:
            if not self.desired.allow_rebuild:
                raise Refused(
                    f"{self.desired.data_dir} has diverged and could not be rewound: {error.message}",
                    "Mend the cause (pg_rewind needs data checksums or wal_log_hints, and rewind_user on the primary), "
                    "or set allow_rebuild: true to throw the folder away and copy the primary anew.",
                ) from error
            self._module.warn(f"Copied anew, because rewinding failed: {error.message}")
            self.folder.empty()
            self._basebackup()

    def _reconfigure(self) -> None:
        session = _connection.connect(self.params)
        try:
            for name, value in self.desired.settings.items():
                statement = _connection.pgsql.SQL("ALTER SYSTEM SET {} = {}").format(
                    _connection.pgsql.Identifier(name), _connection.pgsql.Literal(value)
                )
                session.execute(statement)
            session.execute("SELECT pg_reload_conf()")
            self.queries += session.executed
        finally:
            session.close()

    def _start(self) -> None:
        self._pg_ctl("start", f"--log={self.desired.data_dir}/pg_ctl.log", *self._server_options())

    def _server_options(self) -> list[str]:
        return [f"--options=-c config_file={self.params['config_file']}"] if self.params["config_file"] else []

    def _pg_ctl(self, command: str, *arguments: str) -> None:
        self._programs.call(
            "pg_ctl",
            [
                command,
                f"--pgdata={self.desired.data_dir}",
                "--wait",
                f"--timeout={self.params['wait_timeout']}",
                *arguments,
            ],
            f"Look at {self.desired.data_dir}/pg_ctl.log and at the server's own log.",
        )

    def _promote(self) -> None:
        session = _connection.connect(self.params)
        try:
            session.executed.append("SELECT pg_promote()")
            timeout = max(1, self.params["wait_timeout"])
            done = session.value("SELECT pg_promote(%s, %s)", (self.params["wait"], timeout))
            self.queries += session.executed
            if not done:
                raise ServerError(
                    f"The server on {self.desired.data_dir} did not end its promotion within {timeout} seconds.",
                    "Look at its log; it may still be replaying.",
                )
        finally:
            session.close()

    # ---- waits -------------------------------------------------------------------------------

    def unsafe(self) -> list[str]:
        """What is missing for a promotion that loses nothing and leaves one primary."""
        parts = self.params["primary_conninfo"]
        alive = host.accepts_connections(
            str(parts["host"]), int(parts.get("port") or 5432), float(self.params["connect_timeout"])
        )
        session = _connection.connect(self.params)
        try:
            row = session.query(
                "SELECT pg_last_wal_replay_lsn() - '0/0'::pg_lsn AS replayed,"
                " pg_last_wal_receive_lsn() - '0/0'::pg_lsn AS received,"
                " setting::bigint AS segment_size FROM pg_settings WHERE name = 'wal_segment_size'"
            )[0]
        finally:
            session.close()
        state = host.observe_local(self.params, self.folder.process(), self.desired.data_dir)[0]
        return rules.not_safe_to_promote(
            f"{parts['host']}:{parts.get('port') or 5432}" if alive else None,
            not alive
            and row["replayed"] is not None
            and row["replayed"] >= (row["received"] or 0)
            and host.ends_with_shutdown(
                self._programs, self.desired.data_dir, state.timeline, int(row["replayed"]), int(row["segment_size"])
            ),
        )

    def wait_until_safe(self) -> None:
        """Come back when a promotion loses nothing; the last records may still be being replayed."""
        lacking = self.unsafe()
        if not lacking:
            return
        if not any("accepts connections" in item for item in lacking) and self.params["wait"]:
            try:
                wait_for(
                    self.unsafe, lambda seen: seen, min(5, self.params["wait_timeout"]), "Waiting for the last records"
                )
                return
            except CitusHaError:
                lacking = self.unsafe()
        raise Refused(
            f"Promoting the server on {self.desired.data_dir} is not safe: {'; '.join(lacking)}.",
            "Shut the old primary down cleanly (pg_ctl stop -m fast, or its service) and see that it stays down. "
            "If it is gone for good, set force: true; writes that did not arrive here are then lost.",
        )

    def wait_for_start(self) -> None:
        """Come back when there is a process; what it lacks then is seen by looking at it."""
        wait_for(
            self.folder.process,
            lambda run: [] if run is rules.Run.STARTING else [f"the server is {run.value}"],
            self.params["wait_timeout"],
            f"Waiting for the server on {self.desired.data_dir} to start",
            "Look at the log of its service.",
        )

    def wait_until_streaming(self) -> rules.State:
        """Come back when the running standby streams as wanted."""
        return wait_for(
            self.observe_running,
            lambda state: rules.missing_for_streaming(self.desired, state),
            self.params["wait_timeout"],
            f"Waiting for the standby on {self.desired.data_dir} to stream",
            "Look at its log, and at the primary's. If the log it needs is gone, set allow_rebuild: true.",
        )

    def observe_running(self) -> rules.State:
        """The part of the state that changes while waiting."""
        local, _received = host.observe_local(self.params, self.folder.process(), self.desired.data_dir)
        upstream = self._upstream().observe(self.desired.slot)
        return rules.State(
            rules.Folder(rules.Content.DATABASE), replace(local, settings=self._same(local.settings)), upstream
        )


def work(module: AnsibleModule) -> dict[str, Any]:
    """Observe, plan, apply; through Patroni when it manages the standby."""
    params = module.params
    if params["patroni_url"]:
        return _replica_patroni.work(module)
    replica = Replica(module)
    # Check mode must not create the folder; it changes nothing, so it need not wait for its turn.
    with nullcontext() if module.check_mode else replica.folder.lock(params["wait_timeout"]):
        # The programs that copy and rewind read the password there; check mode does without the file.
        password_changed = params["primary_password"] is not None and _store_password(module)
        replica.connect_upstream()
        try:
            return change(module, replica, password_changed)
        finally:
            replica.close()


def change(module: AnsibleModule, replica: Replica, password_changed: bool) -> dict[str, Any]:
    """One standby of ours."""
    params = module.params
    if params["wait_for_start"] and params["wait"] and not module.check_mode:
        replica.wait_for_start()
    before = replica.observe()
    actions = rules.plan(replica.desired, before)
    promotes = any(action.step is Step.PROMOTE for action in actions)
    if promotes and not params["force"]:
        if module.check_mode:
            for item in replica.unsafe():
                module.warn(f"It would be refused now: {item}.")
        else:
            replica.wait_until_safe()
    after = before
    if not module.check_mode:
        replica.apply(actions)
        after = replica.observe() if actions else before
        if (
            params["state"] == "streaming"
            and params["wait"]
            and after.local.run in (rules.Run.STARTING, rules.Run.RUNNING)
        ):
            after = replace(replica.wait_until_streaming(), folder=after.folder)
    upstream = after.upstream
    if after.local.in_recovery and after.local.idle_slots:
        module.warn(
            f"This standby has replication slots that nobody uses: {', '.join(after.local.idle_slots)}. They keep its "
            "log until its disk is full. Let the servers follow that they are for, or drop them: "
            "SELECT pg_drop_replication_slot('...')."
        )
    texts = [*(["store the password"] if password_changed else []), *(action.text for action in actions)]
    result: dict[str, Any] = {
        "changed": bool(texts),
        "name": replica.name,
        "slot": replica.desired.slot,
        "needs": _needs(params, after),
        "actions": texts,
        "role": _role(after, promotes),
        "receiver": after.local.receiver,
        "lag": after.lag(),
        "timeline": after.local.timeline or after.folder.timeline or None,
        "system_identifier": after.folder.system_identifier or (upstream.system_identifier if upstream else ""),
        "idle_slots": list(after.local.idle_slots),
        "queries": replica.queries,
    }
    if texts:
        result["diff"] = {
            "before": {"actions": []},
            "after": {"actions": texts},
        }
    return result


def _needs(params: dict[str, Any], after: rules.State) -> str:
    """What the caller's service manager has to do next."""
    stopped = after.local.run in (rules.Run.STOPPED, rules.Run.UNCLEAR)
    return "start" if params["state"] == "streaming" and params["manage_service"] == "none" and stopped else "none"


def _role(after: rules.State, promotes: bool) -> str:
    if promotes:
        return "primary"
    if not after.local.up:
        return "stopped"
    return "standby" if after.local.in_recovery else "primary"


def _store_password(module: AnsibleModule) -> bool:
    """Keep the password in the file that primary_conninfo names; whether that changed it."""
    parts = module.params["primary_conninfo"]
    if not parts.get("passfile") or not parts.get("user"):
        raise InvalidInput(
            "primary_password is given, but primary_conninfo names no passfile and user.",
            "Add passfile: the file to keep the password in, and user.",
        )
    path = Path(parts["passfile"])
    if not rules.is_one_line(module.params["primary_password"]):
        raise InvalidInput("primary_password has a line break.", "A password file has one line for each password.")
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"The passfile {str(path)!r} of primary_conninfo cannot be read: {error}.", "Correct it."
        ) from error
    after = before
    for source in ({**parts, **module.params["basebackup_conninfo"]}, parts):
        where = (str(source["host"]), str(source.get("port") or 5432), str(source["user"]))
        after = host.passfile_with(after, *where, module.params["primary_password"])
    if before == after and path.stat().st_mode & 0o777 == 0o600:
        return False
    if not module.check_mode:
        try:
            host.write_file(path, after)
        except OSError as error:
            raise InvalidInput(
                f"The passfile {str(path)!r} of primary_conninfo cannot be written: {error}.",
                "Name a file in a folder of the OS user of PostgreSQL.",
            ) from error
    return True


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
