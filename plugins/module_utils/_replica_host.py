# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine of a streaming replica: its data folder, its server, PostgreSQL's programs, and the server it follows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils import _connection
from ansible_collections.citus_ha.cluster.plugins.module_utils import _replica as rules
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    ConnectionFailed,
    InvalidInput,
    Refused,
    ServerError,
    TimedOut,
)

try:
    import psycopg2
    import psycopg2.errorcodes
    import psycopg2.extensions
    import psycopg2.extras
except ImportError:  # reported by the runner
    psycopg2 = None

MINIMUM_VERSION = 150000
"""READ_REPLICATION_SLOT came with PostgreSQL 15."""
CATCH_UP_SECONDS = 5.0
PROBE_SECONDS = 1.0
LONGEST_SECONDS = 86400.0

RunCommand = Callable[..., tuple[int, str, str]]


def make_conninfo(parts: Mapping[str, Any], name: str) -> str:
    """``primary_conninfo`` from its parts: without password and database, in a fixed order."""
    parts = {str(key): value for key, value in parts.items()}
    unreadable = sorted(key for key in parts if not key.isidentifier())
    if unreadable:
        raise InvalidInput(
            f"primary_conninfo: {unreadable[0]!r} is no name of a connection parameter.",
            "Name the parameters as libpq does: host, port, user, sslmode, passfile.",
        )
    forbidden = rules.NOT_A_CONNINFO_KEY & set(parts)
    if forbidden:
        raise InvalidInput(
            f"primary_conninfo must not contain {', '.join(sorted(forbidden))}.",
            "A password belongs into the file named by passfile; application_name is the option name.",
        )
    if not parts.get("host"):
        raise InvalidInput("primary_conninfo has no host.", "Name the server to follow: primary_conninfo: {host: ...}.")
    values = {key: str(parts[key]) for key in sorted(parts) if parts[key] is not None}
    for key, value in {**values, "name": name}.items():
        if not rules.is_one_line(value):
            raise InvalidInput(
                f"primary_conninfo: the value of {key} cannot stand in a configuration file: {value!r}.",
                "Leave line breaks, zero bytes and what is no UTF-8 out.",
            )
    try:
        return str(psycopg2.extensions.make_dsn(**values, application_name=name))
    except (psycopg2.Error, TypeError, ValueError) as error:
        raise InvalidInput(
            f"primary_conninfo is not valid: {' '.join(str(error).split())}.",
            "Give it as libpq takes it, such as host=10.0.0.21 port=5432 user=replicator.",
        ) from error


def same_conninfo(left: str, right: str) -> bool:
    """Whether two connection strings say the same."""
    try:
        return bool(psycopg2.extensions.parse_dsn(left) == psycopg2.extensions.parse_dsn(right))
    except psycopg2.Error:
        return left == right


class Replication:
    """A physical replication session with the server to follow. It needs only the REPLICATION attribute."""

    def __init__(self, conninfo: str, timeout: int, password: str | None = None) -> None:
        parts = psycopg2.extensions.parse_dsn(conninfo)
        parts.setdefault("connect_timeout", str(timeout))
        if password is not None:
            parts["password"] = password
        parts["application_name"] = "citus_ha"  # the standby's own name would count as a synchronous standby
        self.where = f"{parts['host']}:{parts.get('port', '5432')}"
        self._parts = parts
        self._connection = self._open()
        self.executed: list[str] = []

    def _open(self) -> Any:
        try:
            return psycopg2.connect(**self._parts, connection_factory=psycopg2.extras.PhysicalReplicationConnection)
        except (psycopg2.Error, ValueError) as error:
            raise ConnectionFailed(
                f"Could not open a replication connection to {self.where} as {self._parts.get('user', 'the OS user')}: "
                f"{' '.join(str(error).split())}",
                "Check primary_conninfo, that the role has the REPLICATION attribute, and that pg_hba.conf has a line "
                "for the database 'replication'.",
            ) from error

    def close(self) -> None:
        """End the session."""
        self._connection.close()

    def observe(self, slot: str) -> rules.Upstream:
        """The server and the slot."""
        version = int(self._connection.server_version)
        if version < MINIMUM_VERSION:
            raise InvalidInput(
                f"{self.where} runs PostgreSQL {version // 10000}; "
                f"pg_replica needs {MINIMUM_VERSION // 10000} or newer.",
                "Upgrade it, or manage it with Patroni and give patroni_url.",
            )
        system, timeline, position = self._row("IDENTIFY_SYSTEM")[:3]
        kind, restart_lsn = self._row(f"READ_REPLICATION_SLOT {slot}")[:2]
        if kind not in (None, "physical"):
            raise Refused(f"Slot {slot} on {self.where} is a {kind} slot.", "Give another name in slot.")
        return rules.Upstream(
            where=self.where,
            system_identifier=str(system),
            timeline=int(timeline),
            position=rules.parse_lsn(position),
            in_recovery=self._connection.info.parameter_status("in_hot_standby") == "on",
            version=version,
            slot=None
            if kind is None
            else rules.Slot(slot, None if restart_lsn is None else rules.parse_lsn(restart_lsn)),
        )

    def create_slot(self, slot: str) -> None:
        """A slot that keeps the log from now on."""
        self._change(f"CREATE_REPLICATION_SLOT {slot} PHYSICAL RESERVE_WAL")

    def drop_slot(self, slot: str) -> None:
        """Let the log go."""
        self._change(f"DROP_REPLICATION_SLOT {slot}")

    def continuation(self, timeline: int, position: int) -> rules.Continuation:
        """Ask the server itself whether it can stream from there, by asking it to.

        It refuses when its history does not contain the position, or when it no longer has the log.
        """
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while True:  # a cascading upstream may be a little behind
            _system, upstream_timeline, upstream_position = self._row("IDENTIFY_SYSTEM")[:3]
            if int(upstream_timeline) != timeline or rules.parse_lsn(upstream_position) >= position:
                break
            if time.monotonic() > deadline:
                return rules.Continuation.DIVERGED
            time.sleep(0.25)
        probe = self._open()
        try:
            with probe.cursor() as cursor:
                cursor.start_replication(
                    slot_type=psycopg2.extras.REPLICATION_PHYSICAL,
                    start_lsn=rules.format_lsn(position),
                    timeline=timeline,
                )
                # Nothing is to be expected at the end of the log; before it, the log or the complaint comes at once.
                at_end = int(upstream_timeline) == timeline and rules.parse_lsn(upstream_position) == position
                deadline = time.monotonic() + (0 if at_end else PROBE_SECONDS)
                while time.monotonic() < deadline:
                    if cursor.read_message() is not None:
                        break
                    select.select([cursor], [], [], max(0.0, deadline - time.monotonic()))
            return rules.Continuation.POSSIBLE
        except psycopg2.Error as error:
            if error.pgcode == psycopg2.errorcodes.UNDEFINED_FILE:
                return rules.Continuation.REMOVED
            if error.pgcode == psycopg2.errorcodes.INTERNAL_ERROR:
                return rules.Continuation.DIVERGED
            if error.pgcode is None and "COPY" in str(error):  # a past timeline: all of it was sent at once
                return rules.Continuation.POSSIBLE
            raise ServerError(
                f"{self.where} did not let a standby stream from {rules.format_lsn(position)} on timeline {timeline}: "
                f"{' '.join(str(error).split())}",
                "Check max_wal_senders there.",
            ) from error
        finally:
            probe.close()

    def _row(self, command: str) -> tuple[Any, ...]:
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(command)
                return tuple(cursor.fetchone())
        except psycopg2.Error as error:
            raise ServerError(f"{self.where} rejected {command}: {' '.join(str(error).split())}") from error

    def _change(self, command: str) -> None:
        self.executed.append(command)
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(command)
        except psycopg2.Error as error:
            raise ServerError(
                f"{self.where} rejected {command}: {' '.join(str(error).split())}",
                "If the slot is active, stop the standby that uses it."
                if error.pgcode == psycopg2.errorcodes.OBJECT_IN_USE
                else "Check max_replication_slots there.",
                sqlstate=error.pgcode,
            ) from error


class Programs:
    """PostgreSQL's own programs, of the version of the server to follow."""

    def __init__(self, run_command: RunCommand, bin_dir: str | None, major: int | None) -> None:
        self._run = run_command
        self._folders = (
            [bin_dir]
            if bin_dir
            else [*([f"/usr/lib/postgresql/{major}/bin", f"/usr/pgsql-{major}/bin"] if major else []), None]
        )

    def path(self, name: str) -> str:
        """Where a program is."""
        for folder in self._folders:
            with contextlib.suppress(ValueError):  # a zero byte in bin_dir
                found = shutil.which(name, path=folder)
                if found:
                    return found
        raise InvalidInput(
            f"The program {name} was not found in {', '.join(folder or 'PATH' for folder in self._folders)}.",
            "Install PostgreSQL of the primary's version on this machine, or set bin_dir.",
        )

    def call(self, name: str, arguments: Sequence[str], remedy: str = "", must_succeed: bool = True) -> str:
        """Run one and return its output.

        :raises ServerError: with the last lines it wrote.
        """
        code, output, errors = self._run([self.path(name), *arguments], environ_update={"LC_ALL": "C"})
        if code != 0 and must_succeed:
            raise ServerError(
                f"{name} ended with {code}: {' | '.join((errors or output).strip().splitlines()[-5:])}.",
                remedy,
                program=name,
            )
        return output


def folder_version(path: str) -> int | None:
    """PostgreSQL's major version of a data folder; None when it has none."""
    try:
        return int((Path(path) / "PG_VERSION").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


class DataFolder:
    """The data folder on disk."""

    def __init__(self, path: str, programs: Programs) -> None:
        self.path = Path(path)
        self._programs = programs

    @contextmanager
    def lock(self, timeout: float) -> Iterator[None]:
        """Two runs on the same folder wait for each other."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except (OSError, ValueError) as error:
            raise InvalidInput(
                f"data_dir {str(self.path)!r} cannot be a folder of this user: {error}.",
                "Correct it, or run as the OS user of PostgreSQL (become_user: postgres).",
            ) from error
        try:
            deadline = time.monotonic() + timeout
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise TimedOut(
                            f"Another run of pg_replica has worked on {self.path} for more than {timeout:g} seconds.",
                            "Wait for it to end, and run the task again.",
                        ) from error
                    time.sleep(0.5)
            yield
        finally:
            os.close(handle)

    def observe(self) -> rules.Folder:
        """What is in it."""
        try:
            names = set(os.listdir(self.path))
        except FileNotFoundError:
            return rules.Folder(rules.Content.EMPTY)
        except (OSError, ValueError) as error:
            raise InvalidInput(
                f"data_dir {str(self.path)!r} cannot be read by this user: {error}.",
                "Correct it, or run as the OS user of PostgreSQL (become_user: postgres).",
            ) from error
        if not names:
            return rules.Folder(rules.Content.EMPTY)
        if not (self.path / "global" / "pg_control").exists():
            interrupted = bool(names & {"backup_label", "PG_VERSION"})
            return rules.Folder(rules.Content.INTERRUPTED if interrupted else rules.Content.OTHER)
        # pg_controldata writes for people, but it is PostgreSQL's only access to the file of a stopped server; the C
        # locale keeps its words stable.
        control = rules.parse_controldata(self._programs.call("pg_controldata", ["-D", str(self.path)]))
        recovery_timeline = int(control.get("Min recovery ending loc's timeline", "0"))
        return rules.Folder(
            content=rules.Content.DATABASE,
            system_identifier=control["Database system identifier"],
            cluster_state=control["Database cluster state"],
            timeline=max(int(control["Latest checkpoint's TimeLineID"]), recovery_timeline),
            checkpoint=rules.parse_lsn(control["Latest checkpoint location"]),
            min_recovery=rules.parse_lsn(control["Minimum recovery ending location"]),
            has_backup_label="backup_label" in names,
            has_standby_signal="standby.signal" in names,
            settings=rules.read_settings(self._auto_conf()),
        )

    def process(self) -> rules.Run:
        """What postmaster.pid says: STARTING stands for a living process of which nothing more is known."""
        try:
            pid = int((self.path / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
        except FileNotFoundError:
            return rules.Run.STOPPED
        except (ValueError, IndexError):
            return rules.Run.UNCLEAR
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return rules.Run.STOPPED if _sees_all_processes() else rules.Run.UNCLEAR
        except PermissionError:
            pass
        try:
            # A process of that number that works elsewhere is not our server.
            if os.readlink(f"/proc/{pid}/cwd") != str(self.path.resolve()):
                return rules.Run.STOPPED if _sees_all_processes() else rules.Run.UNCLEAR
        except OSError:
            pass  # not ours to look at: assume the worst
        return rules.Run.STARTING

    def empty(self) -> None:
        """Remove the content, not the folder: it may be a mount point."""
        for folder in ("pg_wal", "pg_tblspc"):
            links = [self.path / folder] if folder == "pg_wal" else [*(self.path / folder).glob("*")]
            for link in links:
                if link.is_symlink():
                    raise Refused(
                        f"{link} is a link to {os.readlink(link)}, outside of the data folder.",
                        "Empty both folders by hand, and run the task again.",
                    )
        # The file that makes it a database cluster goes first: a half-removed one must not look whole.
        (self.path / "global" / "pg_control").unlink(missing_ok=True)
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def configure(self, settings: Mapping[str, str]) -> None:
        """Make a stopped server start as a standby."""
        self._write("postgresql.auto.conf", rules.write_settings(self._auto_conf(), settings))
        (self.path / "recovery.signal").unlink(missing_ok=True)
        self._write("standby.signal", "")

    def _auto_conf(self) -> str:
        try:
            return (self.path / "postgresql.auto.conf").read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def _write(self, name: str, text: str) -> None:
        write_file(self.path / name, text)


def ends_with_shutdown(programs: Programs, data_dir: str, timeline: int, replayed: int, segment_size: int) -> bool:
    """Whether the last record in the standby's log is the shutdown of its primary.

    A primary that shuts down sends this record to its standbys before it ends, so nothing can be missing
    behind it. Only pg_waldump tells what the last record is; it always ends with an error, where the log ends.
    """
    start = max(replayed - 65536, (replayed - 1) // segment_size * segment_size)
    output = programs.call(
        "pg_waldump",
        ["--path", f"{data_dir}/pg_wal", "--timeline", str(timeline), "--start", rules.format_lsn(start)],
        must_succeed=False,
    )
    records = [line for line in output.splitlines() if line.startswith("rmgr:")]
    return bool(records) and "desc: CHECKPOINT_SHUTDOWN" in records[-1]


def accepts_connections(host: str, port: int, timeout: float) -> bool:
    """Whether anything listens at the server's address, whatever it says; libpq's 0 seconds mean no limit."""
    limit = min(timeout, LONGEST_SECONDS) if timeout > 0 else LONGEST_SECONDS
    if host.startswith("/"):
        family, address = socket.AF_UNIX, f"{host}/.s.PGSQL.{port}"
        with socket.socket(family) as probe:
            probe.settimeout(limit)
            return probe.connect_ex(address) == 0
    try:
        with socket.create_connection((host, port), limit):
            return True
    except (OSError, ValueError):
        return False


def passfile_with(text: str, host: str, port: str, user: str, password: str) -> str:
    """The text of a password file with this entry; the others are kept."""
    escaped = [part.replace("\\", "\\\\").replace(":", "\\:") for part in (host, port, "*", user)]
    start = ":".join(escaped) + ":"
    entry = start + password.replace("\\", "\\\\").replace(":", "\\:")
    kept = [line for line in text.splitlines() if not line.startswith(start)]
    return "\n".join([entry, *kept]) + "\n"


def write_file(path: Path, text: str) -> None:
    """Replace a file at once, readable by its owner only."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _sees_all_processes() -> bool:
    """Whether this is the machine's first PID namespace (its number is fixed in Linux: PROC_PID_INIT_INO)."""
    try:
        return os.readlink("/proc/self/ns/pid") == "pid:[4026531836]"
    except OSError:
        return False


OBSERVE_LOCAL = """
SELECT pg_is_in_recovery() AS in_recovery,
       greatest(checkpoint.timeline_id, recovery.min_recovery_end_timeline, receiver.received_tli) AS timeline,
       greatest(pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn()) - '0/0'::pg_lsn AS received,
       pg_last_wal_replay_lsn() - '0/0'::pg_lsn AS replayed,
       CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END AS replay_paused,
       receiver.status AS receiver,
       current_setting('data_directory') AS data_directory,
       current_setting('primary_conninfo') AS primary_conninfo,
       current_setting('primary_slot_name') AS primary_slot_name,
       array(SELECT slot_name::text FROM pg_replication_slots
              WHERE slot_type = 'physical' AND NOT active AND restart_lsn IS NOT NULL ORDER BY 1) AS idle_slots
  FROM pg_control_checkpoint() AS checkpoint, pg_control_recovery() AS recovery
  LEFT JOIN pg_stat_wal_receiver AS receiver ON true
"""


def observe_local(params: Mapping[str, Any], process: rules.Run, data_dir: str | None) -> tuple[rules.Local, int]:
    """The server on the data folder, and the position up to which it has received the log."""
    if process in (rules.Run.STOPPED, rules.Run.UNCLEAR):
        return rules.Local(process), 0
    try:
        session = _connection.connect(params)
    except ConnectionFailed as error:
        return rules.Local(rules.Run.STARTING, trouble=error.message.rstrip(".")), 0
    try:
        row = session.query(OBSERVE_LOCAL)[0]
    finally:
        session.close()
    if data_dir and os.path.realpath(row["data_directory"]) != os.path.realpath(data_dir):
        raise InvalidInput(
            f"{session.where} runs on {row['data_directory']}, not on {data_dir}.",
            "Let login_host and login_port point to the server of data_dir, which runs too.",
        )
    local = rules.Local(
        run=rules.Run.RUNNING,
        in_recovery=row["in_recovery"],
        timeline=int(row["timeline"] or 0),
        replayed=None if row["replayed"] is None else int(row["replayed"]),
        receiver=row["receiver"],
        replay_paused=row["replay_paused"],
        settings={name: row[name] for name in rules.SETTINGS},
        idle_slots=tuple(row["idle_slots"]),
    )
    return local, int(row["received"] or 0)
