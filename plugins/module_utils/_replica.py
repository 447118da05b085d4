# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one streaming replica is, and what turns it into what is wanted: no files, no sessions, no clock."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import Refused

NOT_A_CONNINFO_KEY = frozenset({"password", "dbname", "replication", "application_name", "fallback_application_name"})
SETTINGS = ("primary_conninfo", "primary_slot_name")


class Content(Enum):
    """What is in the data folder."""

    EMPTY = "empty"
    INTERRUPTED = "an interrupted base backup"
    DATABASE = "a database cluster"
    OTHER = "files that are no database cluster"


class Run(Enum):
    """Whether a server runs on the data folder."""

    STOPPED = "stopped"
    UNCLEAR = "unclear"
    """postmaster.pid names a process that is not seen from here: crashed, or alive in another container."""
    STARTING = "starting"
    RUNNING = "running"


class Continuation(Enum):
    """Whether the primary can stream on from where the data folder ends."""

    POSSIBLE = "possible"
    DIVERGED = "diverged"
    REMOVED = "removed"
    """The write-ahead log in between is no longer on the primary."""
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Slot:
    """A physical replication slot on the primary."""

    name: str
    restart_lsn: int | None


@dataclass(frozen=True)
class Upstream:
    """The server to follow."""

    where: str
    system_identifier: str
    timeline: int
    position: int
    in_recovery: bool
    version: int
    slot: Slot | None = None


@dataclass(frozen=True)
class Folder:
    """The data folder on disk."""

    content: Content
    system_identifier: str = ""
    cluster_state: str = ""
    """The words of pg_controldata: "shut down", "in production" ..."""
    timeline: int = 0
    checkpoint: int = 0
    min_recovery: int = 0
    has_backup_label: bool = False
    has_standby_signal: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    """primary_conninfo and primary_slot_name of postgresql.auto.conf."""

    @property
    def was_primary(self) -> bool:
        """Whether the last server on it was a primary."""
        return self.content is Content.DATABASE and not self.has_backup_label and "recovery" not in self.cluster_state

    @property
    def crashed_primary(self) -> bool:
        """Whether the last server on it was a primary that did not shut down: where its log ends is not known."""
        return self.was_primary and self.cluster_state != "shut down"

    @property
    def end(self) -> tuple[int, int]:
        """Timeline and position from which it must be able to go on."""
        if self.was_primary:
            # The shutdown checkpoint begins here. If the primary has its first byte in its history, it has it all.
            return self.timeline, self.checkpoint + 1
        return self.timeline, max(self.checkpoint, self.min_recovery)


@dataclass(frozen=True)
class Local:
    """The server on the data folder."""

    run: Run = Run.STOPPED
    in_recovery: bool = False
    timeline: int = 0
    replayed: int | None = None
    receiver: str | None = None
    """Status in pg_stat_wal_receiver; None when no receiver runs."""
    replay_paused: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    """primary_conninfo and primary_slot_name as the running server uses them."""
    idle_slots: tuple[str, ...] = ()
    """Physical slots of this server that nobody uses: they keep its log for ever."""
    trouble: str = ""
    """Why a living server does not answer."""

    @property
    def up(self) -> bool:
        """Whether it answers queries."""
        return self.run is Run.RUNNING


@dataclass(frozen=True)
class State:
    """Everything one look saw."""

    folder: Folder
    local: Local
    upstream: Upstream | None = None
    continuation: Continuation = Continuation.UNKNOWN

    def lag(self) -> int | None:
        """Bytes between the upstream's position and what is replayed here."""
        if self.upstream is None or self.local.replayed is None:
            return None
        return max(0, self.upstream.position - self.local.replayed)


@dataclass(frozen=True)
class Desired:
    """The options that the planner needs, in their final form."""

    state: str
    data_dir: str
    conninfo: str
    """primary_conninfo as text, without a password."""
    slot: str
    max_lag: int = 16777216
    allow_rebuild: bool = False
    allow_cascade: bool = False
    assume_stopped: bool = False
    force: bool = False
    remove_data: bool = False
    managed: bool = False
    """Whether the module itself starts and stops the server."""

    @property
    def settings(self) -> dict[str, str]:
        """What the standby's configuration must say."""
        return {"primary_conninfo": self.conninfo, "primary_slot_name": self.slot}


class Step(Enum):
    """One kind of action."""

    CREATE_SLOT = "create_slot"
    DROP_SLOT = "drop_slot"
    STOP = "stop"
    EMPTY = "empty"
    REWIND = "rewind"
    BASEBACKUP = "basebackup"
    CONFIGURE = "configure"
    RECONFIGURE = "reconfigure"
    START = "start"
    RESUME = "resume"
    PAUSE = "pause"
    PROMOTE = "promote"


@dataclass(frozen=True)
class Action:
    """One step, and what a person reads about it."""

    step: Step
    text: str


def is_one_line(text: str) -> bool:
    """Whether a text can stand in a line of a UTF-8 file, as the values of configuration and password files must."""
    return not set(text) & set("\n\r\0") and not any("\ud800" <= character <= "\udfff" for character in text)


def slot_name(name: str) -> str:
    """The slot name that stands for a server: PostgreSQL allows lower case letters, digits and underscores."""
    return re.sub(r"[^a-z0-9_]", "_", name.lower())[:63]


def parse_lsn(text: str) -> int:
    """A position such as ``0/3000060`` as a number."""
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def format_lsn(position: int) -> str:
    """A position as PostgreSQL writes it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def parse_controldata(text: str) -> dict[str, str]:
    """The output of ``pg_controldata`` under the C locale, as its keys and values."""
    return {
        key.strip(): value.strip()
        for key, separator, value in (line.partition(":") for line in text.splitlines())
        if separator
    }


_SETTING = re.compile(r"^\s*(?P<name>[A-Za-z_][\w.]*)\s*(?:=\s*|\s+)(?P<value>'(?:[^'\\]|''|\\.)*'|[^\s#]+)")


def read_settings(text: str) -> dict[str, str]:
    """The replication settings in the text of a postgresql.auto.conf; the last one of a name wins."""
    found = {}
    for line in text.splitlines():
        match = _SETTING.match(line)
        if match and match["name"].lower() in SETTINGS:
            value = match["value"]
            if value.startswith("'"):
                value = re.sub(r"\\(.)", r"\1", value[1:-1].replace("''", "'"))
            found[match["name"].lower()] = value
    return found


def write_settings(text: str, settings: Mapping[str, str]) -> str:
    """The text with these settings instead of what it said about them; all other lines are kept."""
    kept = []
    for line in text.splitlines():
        match = _SETTING.match(line)
        if not (match and match["name"].lower() in settings):
            kept.append(line)
    quoted = {name: value.replace("\\", "\\\\").replace("'", "''") for name, value in settings.items()}
    return "\n".join([*kept, *(f"{name} = '{value}'" for name, value in quoted.items())]) + "\n"


def plan(desired: Desired, state: State) -> list[Action]:
    """What to do, in order; empty when nothing.

    :raises Refused: with the option that would allow it, or with what to do first.
    """
    return {
        "streaming": _plan_streaming,
        "promoted": _plan_promoted,
        "paused": _plan_paused,
        "absent": _plan_absent,
    }[desired.state](desired, state)


def _plan_streaming(desired: Desired, state: State) -> list[Action]:
    upstream = _need_upstream(state)
    folder, local = state.folder, state.local
    if upstream.in_recovery and not desired.allow_cascade:
        raise Refused(
            f"{upstream.where} is itself in recovery: it is a standby, not a primary.",
            "Name the primary in primary_conninfo, or set allow_cascade: true to follow a standby.",
        )
    _refuse_foreign(desired, state, upstream)
    if local.up and not local.in_recovery:
        raise Refused(
            f"The server on {desired.data_dir} is running as a primary.",
            "Make sure that nobody writes to it, stop it, and run the task again: it is then rewound to follow "
            f"{upstream.where}.",
            needs="stop",
        )
    slot = [] if upstream.slot else [Action(Step.CREATE_SLOT, f"create slot {desired.slot} on {upstream.where}")]
    copy = Action(Step.BASEBACKUP, f"copy {upstream.where} to {desired.data_dir}")
    configure = Action(
        Step.CONFIGURE, f"configure {desired.data_dir} to follow {upstream.where} by slot {desired.slot}"
    )
    start = [Action(Step.START, f"start the server on {desired.data_dir}")] if desired.managed else []

    if folder.content is Content.EMPTY:
        return [*slot, copy, configure, *start]
    if folder.content is Content.INTERRUPTED:
        # It has no pg_control yet: no server can ever have run on it.
        return [
            *slot,
            Action(Step.EMPTY, f"remove an interrupted copy from {desired.data_dir}"),
            copy,
            configure,
            *start,
        ]

    broken = _broken(folder, local, state.continuation, upstream)
    if broken is None:
        return [*slot, *_follow(desired, state, configure, upstream), *(start if not local.up else [])]

    halt = _halt(desired, local, broken)
    rewindable = state.continuation is not Continuation.REMOVED and folder.timeline < upstream.timeline
    if rewindable:
        rewind = Action(Step.REWIND, f"rewind {desired.data_dir} to the history of {upstream.where}: {broken}")
        return [*slot, *halt, rewind, configure, *start]
    if not desired.allow_rebuild:
        raise Refused(
            f"{desired.data_dir} cannot follow {upstream.where}: {broken}.",
            "Set allow_rebuild: true to throw its content away and copy the primary anew.",
        )
    empty = Action(Step.EMPTY, f"throw the content of {desired.data_dir} away: {broken}")
    return [*slot, *halt, empty, copy, configure, *start]


def _broken(folder: Folder, local: Local, continuation: Continuation, upstream: Upstream) -> str | None:
    """Why streaming cannot go on from here; None when it can."""
    if not local.up:
        if folder.timeline > upstream.timeline:
            return (
                f"it is on timeline {folder.timeline}, which is newer than the primary's ({upstream.timeline}), "
                "so it may be the one that took the last writes"
            )
        if folder.crashed_primary:
            return (
                f"it was a primary on timeline {folder.timeline} and did not shut down cleanly"
                if folder.timeline < upstream.timeline
                else f"it was a primary on the same timeline ({folder.timeline}) and did not shut down cleanly"
            )
    if continuation is Continuation.DIVERGED:
        return f"its history (timeline {local.timeline or folder.timeline}) has parted from the primary's"
    if continuation is Continuation.REMOVED:
        return "the write-ahead log it needs is no longer on the primary"
    return None


def _follow(desired: Desired, state: State, configure: Action, upstream: Upstream) -> list[Action]:
    """Settings and replay of a folder that can stream on."""
    actions = []
    if state.local.up:
        if dict(state.local.settings) != desired.settings:
            text = f"make the running server follow {upstream.where} by slot {desired.slot}"
            actions.append(Action(Step.RECONFIGURE, text))
        if state.local.replay_paused:
            actions.append(Action(Step.RESUME, "resume replay"))
    elif state.local.run is not Run.STARTING and (
        not state.folder.has_standby_signal or dict(state.folder.settings) != desired.settings
    ):
        actions.append(configure)
    return actions


def _halt(desired: Desired, local: Local, why: str) -> list[Action]:
    """What makes sure that no server runs on the folder while its files are replaced."""
    if local.run in (Run.RUNNING, Run.STARTING):
        if desired.managed:
            return [Action(Step.STOP, f"stop the server on {desired.data_dir}")]
        raise Refused(
            f"The server on {desired.data_dir} is running, but its files have to be replaced: {why}.",
            "Stop it and run the task again.",
            needs="stop",
        )
    if local.run is Run.UNCLEAR and not desired.assume_stopped:
        raise Refused(
            f"{desired.data_dir}/postmaster.pid names a process that is not seen from here. It has crashed, "
            f"or it runs in another container. Its files have to be replaced: {why}.",
            "Make sure that no server runs on the folder, then set assume_stopped: true.",
            needs="stop",
        )
    return []


def _plan_promoted(desired: Desired, state: State) -> list[Action]:
    if not state.local.up:
        raise Refused(
            f"The server on {desired.data_dir} is {state.local.run.value}, so it cannot be promoted.",
            "Start it as a standby first.",
            needs="start",
        )
    if not state.local.in_recovery:
        return []
    return [Action(Step.PROMOTE, f"promote the server on {desired.data_dir}")]


def not_safe_to_promote(alive: str | None, ends_with_shutdown: bool) -> list[str]:
    """What is missing for a promotion that loses nothing and leaves one primary.

    :param alive: address of the old primary when something listens there.
    :param ends_with_shutdown: whether the last record received is the clean shutdown of the old primary.
    """
    if alive is not None:
        return [f"{alive} still accepts connections"]
    if not ends_with_shutdown:
        return ["the last record received is not the shutdown of the primary, so writes may be missing here"]
    return []


def _plan_paused(desired: Desired, state: State) -> list[Action]:
    if not (state.local.up and state.local.in_recovery):
        raise Refused(
            f"The server on {desired.data_dir} is not a running standby, so its replay cannot be paused.",
            "Bring it to state: streaming first.",
        )
    return [] if state.local.replay_paused else [Action(Step.PAUSE, "pause replay")]


def _plan_absent(desired: Desired, state: State) -> list[Action]:
    upstream = _need_upstream(state)
    actions = []
    if upstream.slot is not None:
        if state.local.run in (Run.RUNNING, Run.STARTING) and state.local.in_recovery:
            if not desired.managed:
                raise Refused(
                    f"The standby on {desired.data_dir} is running and uses slot {desired.slot} of {upstream.where}.",
                    "Stop it and run the task again.",
                    needs="stop",
                )
            actions.append(Action(Step.STOP, f"stop the server on {desired.data_dir}"))
        actions.append(Action(Step.DROP_SLOT, f"drop slot {desired.slot} on {upstream.where}"))
    if desired.remove_data and state.folder.content is not Content.EMPTY:
        _refuse_foreign(desired, state, upstream)
        if state.local.run in (Run.RUNNING, Run.STARTING) and not desired.managed:
            raise Refused(
                f"The server on {desired.data_dir} is running.", "Stop it and run the task again.", needs="stop"
            )
        if (state.local.up and not state.local.in_recovery) or state.folder.was_primary:
            raise Refused(
                f"{desired.data_dir} is the data folder of a primary, not of a standby.",
                "Remove it by hand if you mean it.",
            )
        if not any(action.step is Step.STOP for action in actions):
            actions += _halt(desired, state.local, "they are to be removed")
        actions.append(Action(Step.EMPTY, f"remove the content of {desired.data_dir}"))
    return actions


def _need_upstream(state: State) -> Upstream:
    if state.upstream is None:
        raise ValueError("planning needs the upstream's state")
    return state.upstream


def _refuse_foreign(desired: Desired, state: State, upstream: Upstream) -> None:
    folder = state.folder
    if folder.content is Content.OTHER:
        raise Refused(
            f"{desired.data_dir} is not empty and holds no database cluster.",
            "Give an empty folder (below a mount point, not the mount point with its lost+found).",
        )
    if folder.content is Content.DATABASE and folder.system_identifier != upstream.system_identifier:
        raise Refused(
            f"{desired.data_dir} belongs to another database cluster: its system identifier is "
            f"{folder.system_identifier}, that of {upstream.where} is {upstream.system_identifier}.",
            "Check primary_conninfo and data_dir; if the folder is of no use, move it away.",
        )


def missing_for_streaming(desired: Desired, state: State) -> list[str]:
    """What a started standby lacks to stream as wanted; empty when nothing."""
    local = state.local
    if not local.up:
        return [f"the server is {local.run.value}{f' ({local.trouble})' if local.trouble else ''}"]
    if not local.in_recovery:
        return ["the server is a primary"]
    lacking = []
    if dict(local.settings) != desired.settings:
        lacking.append("the server does not use the new primary_conninfo and primary_slot_name")
    if local.receiver != "streaming":
        lacking.append(f"the WAL receiver is {local.receiver or 'not running'}")
    lag = state.lag()
    if lag is None:
        lacking.append("the lag is not known")
    elif lag > desired.max_lag:
        lacking.append(f"it lags {lag} bytes (max_lag is {desired.max_lag})")
    return lacking


def describe(state: State) -> dict[str, Any]:
    """The parts of a state that the diff shows."""
    return {
        "folder": state.folder.content.value,
        "server": "primary" if state.local.up and not state.local.in_recovery else state.local.run.value,
        "receiver": state.local.receiver,
        "replay_paused": state.local.replay_paused,
    }
