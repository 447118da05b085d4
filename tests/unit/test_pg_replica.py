# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""The rules of pg_replica by table: no server, no file but temporary ones."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg2.extensions
import pytest
from ansible_collections.citus_ha.cluster.plugins.module_utils import _replica as rules
from ansible_collections.citus_ha.cluster.plugins.module_utils import _replica_host as host
from ansible_collections.citus_ha.cluster.plugins.module_utils import _replica_patroni
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    InvalidInput,
    Refused,
    ServerError,
    TimedOut,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_cluster import Cluster, Member
from ansible_collections.citus_ha.cluster.plugins.module_utils._replica import Content, Continuation, Run
from hypothesis import given
from hypothesis import strategies as st

SETTINGS = {"primary_conninfo": "host=one application_name=two", "primary_slot_name": "two"}
UPSTREAM = rules.Upstream("one:5432", "7000", 2, 0x3000000, False, 170011, rules.Slot("two", 0x2000000))
STANDBY_FOLDER = rules.Folder(
    Content.DATABASE, "7000", "in archive recovery", 2, 0x2000028, 0x2000100, False, True, SETTINGS
)
OLD_PRIMARY = replace(STANDBY_FOLDER, cluster_state="shut down", timeline=1, has_standby_signal=False, settings={})
RUNNING = rules.Local(Run.RUNNING, True, 2, 0x3000000, "streaming", False, SETTINGS)


def desired(**options: Any) -> rules.Desired:
    return rules.Desired(
        **{
            "state": "streaming",
            "data_dir": "/data",
            "conninfo": SETTINGS["primary_conninfo"],
            "slot": "two",
            **options,
        }
    )


def state(folder: rules.Folder = STANDBY_FOLDER, local: rules.Local | None = None, **options: Any) -> rules.State:
    return rules.State(folder, local or rules.Local(), **{"upstream": UPSTREAM, **options})


def steps(wanted: rules.Desired, seen: rules.State) -> str:
    return " ".join(action.step.value for action in rules.plan(wanted, seen))


NO_SLOT = replace(UPSTREAM, slot=None)
EMPTY = rules.Folder(Content.EMPTY)
DIVERGED = Continuation.DIVERGED
REMOVED = Continuation.REMOVED
REBUILD = {"allow_rebuild": True}
PG_CTL = {"managed": True}


@pytest.mark.parametrize(
    ("options", "seen", "expected"),
    [
        ({}, state(EMPTY), "basebackup configure"),
        ({}, state(EMPTY, upstream=NO_SLOT), "create_slot basebackup configure"),
        (PG_CTL, state(EMPTY), "basebackup configure start"),
        ({}, state(rules.Folder(Content.INTERRUPTED)), "empty basebackup configure"),
        # prepared before, not started yet
        ({}, state(), ""),
        (PG_CTL, state(), "start"),
        ({}, state(replace(STANDBY_FOLDER, settings={})), "configure"),
        ({}, state(replace(STANDBY_FOLDER, has_standby_signal=False)), "configure"),
        # running
        ({}, state(local=RUNNING), ""),
        ({}, state(local=RUNNING, upstream=NO_SLOT), "create_slot"),
        ({}, state(local=replace(RUNNING, settings={})), "reconfigure"),
        ({}, state(local=replace(RUNNING, replay_paused=True)), "resume"),
        ({}, state(local=replace(RUNNING, receiver=None)), ""),
        ({}, state(replace(STANDBY_FOLDER, settings={}), rules.Local(Run.STARTING)), ""),
        # an old primary
        ({}, state(OLD_PRIMARY, continuation=Continuation.POSSIBLE), "configure"),
        ({}, state(OLD_PRIMARY, continuation=DIVERGED), "rewind configure"),
        (PG_CTL, state(OLD_PRIMARY, continuation=DIVERGED), "rewind configure start"),
        ({}, state(replace(OLD_PRIMARY, cluster_state="in production")), "rewind configure"),
        (
            {"assume_stopped": True},
            state(OLD_PRIMARY, rules.Local(Run.UNCLEAR), continuation=DIVERGED),
            "rewind configure",
        ),
        # only anew
        (REBUILD, state(continuation=REMOVED), "empty basebackup configure"),
        (REBUILD, state(continuation=DIVERGED), "empty basebackup configure"),
        (REBUILD, state(replace(OLD_PRIMARY, timeline=3)), "empty basebackup configure"),
        (REBUILD, state(replace(OLD_PRIMARY, timeline=2, cluster_state="in production")), "empty basebackup configure"),
        (
            {**REBUILD, **PG_CTL},
            state(local=replace(RUNNING, receiver=None), continuation=REMOVED),
            "stop empty basebackup configure start",
        ),
        # a fresh base backup of a primary says "in production" too
        ({}, state(replace(STANDBY_FOLDER, cluster_state="in production", has_backup_label=True)), ""),
        ({"allow_cascade": True}, state(EMPTY, upstream=replace(UPSTREAM, in_recovery=True)), "basebackup configure"),
        # other states
        ({"state": "promoted"}, state(local=RUNNING, upstream=None), "promote"),
        ({"state": "promoted"}, state(local=replace(RUNNING, in_recovery=False), upstream=None), ""),
        ({"state": "paused"}, state(local=RUNNING), "pause"),
        ({"state": "paused"}, state(local=replace(RUNNING, replay_paused=True)), ""),
        ({"state": "absent"}, state(), "drop_slot"),
        ({"state": "absent"}, state(upstream=NO_SLOT), ""),
        ({"state": "absent", "remove_data": True}, state(), "drop_slot empty"),
        ({"state": "absent", "remove_data": True}, state(EMPTY, upstream=NO_SLOT), ""),
        ({"state": "absent", "remove_data": True, **PG_CTL}, state(local=RUNNING), "stop drop_slot empty"),
        ({"state": "absent", "remove_data": True, **PG_CTL}, state(local=RUNNING, upstream=NO_SLOT), "stop empty"),
    ],
)
def test_plan(options: dict[str, Any], seen: rules.State, expected: str) -> None:
    assert steps(desired(**options), seen) == expected


@pytest.mark.parametrize(
    ("options", "seen", "words"),
    [
        ({}, state(EMPTY, upstream=replace(UPSTREAM, in_recovery=True)), "allow_cascade: true"),
        ({}, state(replace(STANDBY_FOLDER, system_identifier="1")), "another database cluster.* is 1, .* is 7000"),
        (REBUILD, state(replace(STANDBY_FOLDER, system_identifier="1"), RUNNING), "another database cluster"),
        (REBUILD, state(rules.Folder(Content.OTHER)), "is not empty and holds no database cluster"),
        ({**REBUILD, **PG_CTL}, state(local=replace(RUNNING, in_recovery=False)), "running as a primary"),
        ({}, state(continuation=REMOVED), "no longer on the primary.*allow_rebuild: true"),
        ({}, state(continuation=DIVERGED), "has parted.*allow_rebuild: true"),
        ({}, state(replace(OLD_PRIMARY, timeline=3)), "timeline 3, which is newer.*allow_rebuild: true"),
        (
            {},
            state(replace(OLD_PRIMARY, timeline=2, cluster_state="in production")),
            "same timeline.*allow_rebuild: true",
        ),
        (REBUILD, state(local=replace(RUNNING, receiver=None), continuation=REMOVED), "is running.*Stop it"),
        ({}, state(OLD_PRIMARY, rules.Local(Run.UNCLEAR), continuation=DIVERGED), "assume_stopped: true"),
        (REBUILD, state(OLD_PRIMARY, rules.Local(Run.UNCLEAR), continuation=REMOVED), "assume_stopped: true"),
        ({"state": "promoted"}, state(), "is stopped, so it cannot be promoted"),
        ({"state": "paused"}, state(), "not a running standby"),
        ({"state": "absent"}, state(local=RUNNING), "uses slot two .*Stop it"),
        ({"state": "absent", "remove_data": True}, state(local=RUNNING, upstream=NO_SLOT), "is running"),
        ({"state": "absent", "remove_data": True}, state(OLD_PRIMARY), "data folder of a primary"),
        ({"state": "absent", "remove_data": True}, state(local=rules.Local(Run.UNCLEAR)), "assume_stopped: true"),
        ({"state": "absent", "remove_data": True}, state(replace(STANDBY_FOLDER, system_identifier="1")), "another"),
    ],
)
def test_refusals_say_what_to_do(options: dict[str, Any], seen: rules.State, words: str) -> None:
    with pytest.raises(Refused, match=words):
        rules.plan(desired(**options), seen)


@pytest.mark.parametrize(
    ("local", "words"),
    [
        (RUNNING, None),
        (rules.Local(), "the server is stopped"),
        (replace(RUNNING, in_recovery=False), "is a primary"),
        (replace(RUNNING, receiver="catchup"), "receiver is catchup"),
        (replace(RUNNING, receiver=None), "receiver is not running"),
        (replace(RUNNING, replayed=UPSTREAM.position - 101), "lags 101 bytes"),
        (replace(RUNNING, replayed=None), "lag is not known"),
        (replace(RUNNING, settings={}), "does not use the new"),
    ],
)
def test_what_a_standby_lacks(local: rules.Local, words: str | None) -> None:
    lacking = rules.missing_for_streaming(desired(max_lag=100), state(local=local))
    assert (words is None) == (lacking == [])
    if words is not None:
        assert words in "; ".join(lacking)


@pytest.mark.parametrize(
    ("alive", "ends_with_shutdown", "words"),
    [
        (None, True, None),
        ("one:5432", True, "still accepts connections"),
        (None, False, "writes may be missing"),
    ],
)
def test_what_makes_a_promotion_unsafe(alive: str | None, ends_with_shutdown: bool, words: str | None) -> None:
    lacking = rules.not_safe_to_promote(alive, ends_with_shutdown)
    assert (words is None) == (lacking == [])
    if words is not None:
        assert words in lacking[0]


def test_where_a_folder_ends() -> None:
    assert OLD_PRIMARY.end == (1, 0x2000029), "inside of its shutdown checkpoint"
    assert STANDBY_FOLDER.end == (2, 0x2000100)


@given(st.integers(0, 2**64 - 1))
def test_positions(position: int) -> None:
    assert rules.parse_lsn(rules.format_lsn(position)) == position


@pytest.mark.parametrize(
    ("name", "slot"),
    [("worker1-2", "worker1_2"), ("DB2.example.org", "db2_example_org"), ("ü x", "__x"), ("a" * 99, "a" * 63)],
)
def test_slot_names(name: str, slot: str) -> None:
    assert rules.slot_name(name) == slot


AUTO_CONF = """# Do not edit this file manually!
work_mem = '8MB'
primary_conninfo = 'host=old password=''it''''s'''
PRIMARY_SLOT_NAME = 'old'
primary_slot_name = 'newer'
"""


def test_settings_of_postgresql_auto_conf() -> None:
    assert rules.read_settings(AUTO_CONF) == {
        "primary_conninfo": "host=old password='it''s'",
        "primary_slot_name": "newer",
    }
    after = rules.write_settings(AUTO_CONF, SETTINGS)
    assert after.startswith("# Do not edit this file manually!\nwork_mem = '8MB'\n")
    assert rules.read_settings(after) == SETTINGS
    assert "old" not in after


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=30))
def test_any_value_survives_the_file(value: str) -> None:
    settings = {"primary_conninfo": value, "primary_slot_name": "two"}
    assert rules.read_settings(rules.write_settings(AUTO_CONF, settings)) == settings


def test_controldata() -> None:
    control = rules.parse_controldata(
        "Database system identifier:           7000\nLatest checkpoint location:           0/2000028\n"
        "pg_control last modified:             Sun 22 Nov 2026 10:42:46 AM UTC\n\n"
    )
    assert control["Database system identifier"] == "7000"
    assert control["Latest checkpoint location"] == "0/2000028"


# ---- the machine ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({}, "has no host"),
        ({"host": "one", "password": "x"}, "must not contain password"),
        ({"host": "one", "dbname": "x"}, "must not contain dbname"),
        ({"host": "one", "no_such_key": "x"}, "not valid"),
        ({"host": "one", "\0": ""}, "is no name of a connection parameter"),
        ({"host": "one", 1: "x"}, "is no name of a connection parameter"),
        ({"host": "one\nshared_preload_libraries = 'x'"}, "cannot stand in a configuration file"),
        ({"host": "one", "user": "a\0"}, "the value of user"),
    ],
)
def test_a_primary_conninfo_that_is_none(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        host.make_conninfo(parts, "two")


def test_primary_conninfo() -> None:
    left = host.make_conninfo({"user": "o'neil", "port": 5433, "host": "one", "sslmode": None}, "two")
    assert left == r"host=one port=5433 user=o\'neil application_name=two"
    assert host.same_conninfo(left, r"application_name = two  user=o\'neil host='one' port=5433")
    assert not host.same_conninfo(left, "host=one")
    assert host.same_conninfo("no conninfo", "no conninfo")


@given(st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_name_stays_one_value(name: str) -> None:
    parts = psycopg2.extensions.parse_dsn(host.make_conninfo({"host": name, "user": name}, name))
    assert parts == {"host": name, "user": name, "application_name": name}
    assert set(rules.slot_name(name)) <= set("abcdefghijklmnopqrstuvwxyz0123456789_")


def test_two_runs_wait_for_each_other(tmp_path: Path) -> None:
    folder = host.DataFolder(str(tmp_path / "new"), programs())
    with folder.lock(1), pytest.raises(TimedOut, match="Another run of pg_replica"), folder.lock(0):
        pass
    with folder.lock(0):
        pass


def test_the_passfile_keeps_other_entries() -> None:
    once = host.passfile_with("other:5432:*:x:y\n", "fd00::1", "5432", "repl", "a:b\\c")
    assert once == "fd00\\:\\:1:5432:*:repl:a\\:b\\\\c\nother:5432:*:x:y\n"
    assert host.passfile_with(once, "fd00::1", "5432", "repl", "a:b\\c") == once


def programs(answer: tuple[int, str, str] = (0, "", "")) -> host.Programs:
    return host.Programs(lambda *_args, **_options: answer, "/bin", None)


@pytest.mark.parametrize(
    ("files", "content"),
    [
        ([], Content.EMPTY),
        (["lost+found"], Content.OTHER),
        (["backup_label", "base"], Content.INTERRUPTED),
        (["PG_VERSION"], Content.INTERRUPTED),
    ],
)
def test_what_is_in_a_folder(tmp_path: Path, files: list[str], content: Content) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert host.DataFolder(str(tmp_path), programs()).observe().content is content


def test_whether_a_server_runs(tmp_path: Path) -> None:
    folder = host.DataFolder(str(tmp_path), programs())
    assert folder.process() is Run.STOPPED
    pid_file = tmp_path / "postmaster.pid"
    pid_file.write_text("")
    assert folder.process() is Run.UNCLEAR
    pid_file.write_text(f"{os.getpid()}\n{tmp_path}\n")
    assert folder.process() in (Run.UNCLEAR, Run.STOPPED), "this process works elsewhere"
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        assert folder.process() is Run.STARTING
    finally:
        os.chdir(before)


def test_emptying_keeps_the_folder_and_refuses_links(tmp_path: Path) -> None:
    folder = host.DataFolder(str(tmp_path), programs())
    (tmp_path / "global").mkdir()
    (tmp_path / "global" / "pg_control").touch()
    (tmp_path / "PG_VERSION").write_text("17\n")
    assert host.folder_version(str(tmp_path)) == 17
    (tmp_path / "pg_wal").symlink_to("/tmp")
    with pytest.raises(Refused, match=r"pg_wal is a link to /tmp"):
        folder.empty()
    assert (tmp_path / "global" / "pg_control").exists()
    (tmp_path / "pg_wal").unlink()
    folder.empty()
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_fails_or_is_missing() -> None:
    with pytest.raises(ServerError, match=r"sh ended with 1: a \| b\. Do this"):
        programs((1, "", "a\nb\n")).call("sh", [], "Do this.")
    with pytest.raises(InvalidInput, match=r"pg_none was not found in /bin.*bin_dir"):
        programs().path("pg_none")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("", False),
        ("rmgr: XLOG len (rec/tot): 114/114, tx: 0, lsn: 0/03, prev 0/02, desc: CHECKPOINT_SHUTDOWN redo 0/3;\n", True),
        ("rmgr: XLOG lsn: 0/03, desc: CHECKPOINT_SHUTDOWN redo\nrmgr: Heap lsn: 0/04, desc: INSERT off\n", False),
        ("rmgr: XLOG lsn: 0/03, desc: CHECKPOINT_ONLINE redo\n", False),
    ],
)
def test_the_last_record(output: str, expected: bool) -> None:
    run = host.Programs(lambda *_args, **_options: (1, output, "error: invalid record length"), "/bin", None)
    run.path = lambda name: name  # type: ignore[method-assign]
    assert host.ends_with_shutdown(run, "/data", 1, 0x3000100, 2**24) is expected


# ---- under Patroni -------------------------------------------------------------------------------


def group(state: str = "streaming", role: str = "replica", paused: bool = False) -> Cluster:
    leader = "replica" if role == "leader" else "leader"
    members = (
        Member("one", leader, "running", "http://one:8008"),
        Member("two", role, state, "http://two:8008", lag=0),
    )
    return Cluster(members, "shop", paused)


@pytest.mark.parametrize(
    ("options", "seen", "action"),
    [
        ({}, group(), None),
        ({}, group("running"), None),
        ({"allow_rebuild": True}, group(), None),
        ({"allow_rebuild": True}, group("creating replica"), None),
        ({"allow_rebuild": True}, group("starting"), None),
        ({"allow_rebuild": True}, group("start failed"), "reinitialize"),
        ({"allow_rebuild": True}, group("running"), "reinitialize"),
        ({"allow_rebuild": True, "force": True}, group("streaming"), "reinitialize"),
        ({"allow_rebuild": True, "force": True}, group("creating replica"), None),
        ({"force": True}, group("streaming"), None),
        ({"state": "promoted"}, group(), "switchover"),
        ({"state": "promoted", "force": True}, group(), "failover"),
        ({"state": "promoted"}, group("running", "leader"), None),
        ({"state": "paused"}, group(), "pause"),
        ({"state": "paused"}, group(paused=True), None),
        ({"state": "absent"}, Cluster(()), None),
    ],
)
def test_plan_under_patroni(options: dict[str, Any], seen: Cluster, action: str | None) -> None:
    params = {"state": "streaming", "allow_rebuild": False, "force": False, **options}
    assert _replica_patroni.plan(params, "two", seen) == action


@pytest.mark.parametrize(
    ("states", "action"),
    [
        (["streaming"], None),
        (["starting", "running", "streaming"], None),
        (["running", "streaming"], None),
        (["starting"], "reinitialize"),
        (["starting", "start failed", "starting"], "reinitialize"),
        (["running"], "reinitialize"),
    ],
)
def test_a_member_that_gets_no_further_is_rebuilt(states: list[str], action: str | None) -> None:
    params = {"state": "streaming", "allow_rebuild": True, "force": False, "wait_timeout": 0.6}
    seen, first = iter([*states[1:], *[states[-1]] * 99]), states[0]
    client = cast(Any, SimpleNamespace(cluster=lambda: group(next(seen))))
    assert _replica_patroni._give_it_time(client, params, "two", group(first))[1] == action


@pytest.mark.parametrize(
    ("options", "seen", "words"),
    [
        ({}, group("running", "leader"), "is the leader .*state: promoted"),
        ({}, Cluster((), "shop"), "has no member two"),
        ({"state": "absent"}, group(), "still in the group shop.*Stop Patroni"),
    ],
)
def test_refusals_under_patroni(options: dict[str, Any], seen: Cluster, words: str) -> None:
    params = {"state": "streaming", "allow_rebuild": False, "force": False, **options}
    with pytest.raises(Refused, match=words):
        _replica_patroni.plan(params, "two", seen)
