# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ``pg_replica`` at work on a standby of its own: observe, plan, apply, wait."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils import _connection
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
from ansible_collections.citus_ha.cluster.plugins.module_utils._wait import wait_for

# A standby whose receiver ended before the last records were replayed looks at its log again after up to
# wal_retrieve_retry_interval (5 s). With twice that it has.
LAST_RECORDS_SECONDS = 10
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
                    self.unsafe,
                    lambda seen: seen,
                    min(LAST_RECORDS_SECONDS, self.params["wait_timeout"]),
                    "Waiting for the last records",
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
    """Observe, plan, apply; one run at a time on a data folder."""
    params = module.params
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
