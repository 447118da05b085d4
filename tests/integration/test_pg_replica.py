# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""pg_replica on real servers: check, apply, again, again with check; and what it must refuse."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.citus_ha.cluster.plugins.module_utils import _replica_host
from citus_cluster import call_here
from hostile import HOSTILE, OPTION, answered, hundred
from hypothesis import given
from hypothesis import strategies as st
from in_container import call, install
from servers import DATA, Server, servers

HBA = "local all all trust\nhost all all all trust\nhost replication all all trust\n"
SETTINGS = {
    "listen_addresses": "*",
    "fsync": "off",
    "shared_buffers": "16MB",
    "wal_keep_size": "0",
    "max_wal_size": "32MB",
}


NAME = """it's "Two" \\x = $(y)"""


class Host:
    """One machine of the test: its data folder, its server, and the module on it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.name = server.name

    def initdb(self) -> None:
        sets = [argument for key, value in SETTINGS.items() for argument in ("--set", f"{key}={value}")]
        self.server.run(["initdb", "-D", DATA, "--auth=trust", "--data-checksums", "--no-sync", *sets])
        self.server.run(["sh", "-c", 'printf %s "$1" > "$2/pg_hba.conf"', "sh", HBA, DATA])

    def start(self) -> None:
        self.server.run(["pg_ctl", "-D", DATA, "-w", "-l", "/tmp/postgres.log", "start"])

    def start_later(self) -> None:
        """As a service manager does, which answers before the server is there."""
        self.server.container.exec_run(
            ["sh", "-c", f"sleep 3; pg_ctl -D {DATA} -l /tmp/postgres.log start"], user="postgres", detach=True
        )

    def stop(self, mode: str = "fast") -> None:
        self.server.run(["pg_ctl", "-D", DATA, "-w", "-m", mode, "stop"])

    def kill(self) -> None:
        """As the kernel does when memory runs out: nothing is cleaned up."""
        self.server.run(["sh", "-c", f"kill -9 $(head -1 {DATA}/postmaster.pid)"])
        time.sleep(0.5)

    def reset(self) -> None:
        self.server.container.exec_run(
            [
                "sh",
                "-c",
                f"test -e {DATA}/postmaster.pid && pg_ctl -D {DATA} -m immediate stop; find {DATA} -mindepth 1 -delete",
            ],
            user="postgres",
        )

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        return self.server.query(statement)

    def replica(self, primary: str, check: bool = False, **options: Any) -> dict[str, Any]:
        conninfo = {"host": primary, "user": "postgres"}
        options.setdefault("wait_timeout", 20)
        return call(self.server, "pg_replica", check, data_dir=DATA, primary_conninfo=conninfo, **options)

    def changed(self, primary: str, **options: Any) -> dict[str, Any]:
        """Check, then apply: the same actions both times."""
        predicted = self.replica(primary, check=True, **options)
        applied = self.replica(primary, **options)
        assert not applied.get("failed"), applied["msg"]
        assert predicted["changed"] is applied["changed"] is True
        assert predicted["actions"] == applied["actions"]
        assert predicted["diff"] == applied["diff"]
        return applied

    def unchanged(self, primary: str, **options: Any) -> dict[str, Any]:
        """Nothing to do, with and without check mode."""
        for check in (True, False):
            result = self.replica(primary, check=check, **options)
            assert not result.get("failed"), result
            assert result["changed"] is False, result
        return result

    def follow(self, primary: str, **options: Any) -> dict[str, Any]:
        """Become a streaming standby: prepare, start, verify."""
        prepared = self.replica(primary, **options)
        assert prepared.get("needs") == "start", prepared
        self.start()
        result = self.replica(primary)
        assert (result.get("changed"), result.get("receiver")) == (False, "streaming"), result
        return result

    def refused(self, primary: str, *words: str, **options: Any) -> dict[str, Any]:
        result = self.replica(primary, **options)
        assert result.get("failed") is True, result
        for word in words:
            assert word in result["msg"], result["msg"]
        return result


def write(host: Host, text: str) -> None:
    host.query(f"INSERT INTO rows VALUES ('{text}')")


def rows(host: Host) -> list[str]:
    return sorted(row[0] for row in host.query("SELECT * FROM rows"))


def eventually(look: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def machines() -> Iterator[dict[str, Host]]:
    with servers(["one", "two", "three"], initdb=False) as running:
        for server in running.values():
            install(server)
        yield {name: Host(server) for name, server in running.items()}


@pytest.fixture
def hosts(machines: dict[str, Host]) -> Iterator[dict[str, Host]]:
    """A primary "one" with a table; "two" and "three" are empty."""
    machines["one"].initdb()
    machines["one"].start()
    machines["one"].query("CREATE TABLE rows (text text)")
    yield machines
    for host in machines.values():
        host.reset()


def test_an_empty_folder_becomes_a_streaming_standby(hosts: dict[str, Host]) -> None:
    one, two = hosts["one"], hosts["two"]
    write(one, "before")
    prepared = two.changed("one", name=NAME, slot="two")
    assert prepared["needs"] == "start"
    assert prepared["queries"] == ["CREATE_REPLICATION_SLOT two PHYSICAL RESERVE_WAL"]
    assert two.unchanged("one", name=NAME, slot="two")["needs"] == "start"
    two.start_later()
    result = two.unchanged("one", name=NAME, slot="two", wait_for_start=True)
    assert (result["role"], result["receiver"], result["needs"]) == ("standby", "streaming", "none")
    assert one.query("SELECT application_name, state FROM pg_stat_replication") == [(NAME, "streaming")]
    assert one.query("SELECT slot_name::text, active, slot_type FROM pg_replication_slots") == [
        ("two", True, "physical")
    ]
    write(one, "after")
    eventually(lambda: rows(two) == ["after", "before"])


def test_check_mode_on_an_empty_folder_touches_nothing(hosts: dict[str, Host]) -> None:
    result = hosts["two"].replica("one", check=True)
    assert result["changed"] is True
    assert hosts["two"].server.run(["ls", "-A", DATA]) == ""
    assert hosts["one"].query("SELECT * FROM pg_replication_slots") == []


def test_with_pg_ctl_one_call_is_enough(hosts: dict[str, Host]) -> None:
    result = hosts["two"].changed("one", manage_service="pg_ctl")
    assert (result["receiver"], result["needs"]) == ("streaming", "none")
    hosts["two"].unchanged("one", manage_service="pg_ctl")


def test_follows_a_new_primary_without_a_restart(hosts: dict[str, Host]) -> None:
    one, two, three = hosts["one"], hosts["two"], hosts["three"]
    two.follow("one")
    three.follow("one")
    write(one, "a")
    eventually(lambda: rows(two) == rows(three) == ["a"])
    one.stop()
    promoted = two.changed("one", state="promoted")
    assert promoted["role"] == "primary"
    two.unchanged("one", state="promoted")
    followed = three.changed("two")
    assert [action.split()[0] for action in followed["actions"]] == ["create", "make"]
    assert followed["timeline"] == 2
    write(two, "b")
    eventually(lambda: rows(three) == ["a", "b"])
    three.unchanged("two")


def test_an_old_primary_that_shut_down_cleanly_needs_no_rewind(hosts: dict[str, Host]) -> None:
    one, two = hosts["one"], hosts["two"]
    two.follow("one")
    write(one, "a")
    one.stop()
    two.changed("one", state="promoted")
    write(two, "b")
    prepared = one.changed("two")
    assert not any("rewind" in action for action in prepared["actions"]), prepared
    one.start()
    result = one.unchanged("two")
    assert rows(one) == ["a", "b"]
    assert result["idle_slots"] == ["two"]
    assert "slots that nobody uses: two" in str(result["warnings"])


@pytest.mark.parametrize("crashed", [False, True], ids=["stopped", "crashed"])
def test_a_diverged_old_primary_is_rewound(hosts: dict[str, Host], crashed: bool) -> None:
    one, two = hosts["one"], hosts["two"]
    two.follow("one")
    write(one, "both")
    eventually(lambda: rows(two) == ["both"])
    two.changed("one", state="promoted", force=True)
    write(one, "lost")
    write(two, "kept")
    refused = one.refused("two", "running as a primary", "stop it")
    assert refused["needs"] == "stop"
    if crashed:
        one.kill()
        one.refused("two", "postmaster.pid", "assume_stopped: true")
    else:
        one.stop()
    one.refused("two", "could not be rewound", "allow_rebuild: true", rewind_user="nobody", assume_stopped=crashed)
    # Copied anew when it cannot be rewound and that is allowed
    options = {"rewind_user": "nobody", "allow_rebuild": True} if crashed else {}
    prepared = one.changed("two", assume_stopped=crashed, **options)
    assert any("rewind" in action for action in prepared["actions"])
    assert ("Copied anew" in str(prepared.get("warnings"))) is crashed
    one.start()
    one.unchanged("two")
    assert rows(one) == ["both", "kept"]


def test_a_diverged_running_standby_has_to_be_stopped_first(hosts: dict[str, Host]) -> None:
    one, two, three = hosts["one"], hosts["two"], hosts["three"]
    two.follow("one")
    three.follow("one")
    two.changed("one", state="promoted", force=True)
    write(one, "lost")
    eventually(lambda: rows(three) == ["lost"])
    write(two, "kept")
    assert three.refused("two", "running", "parted")["needs"] == "stop"
    rewound = three.changed("two", manage_service="pg_ctl")
    assert any("rewind" in action for action in rewound["actions"])
    assert rows(three) == ["kept"]


def test_rebuilds_only_when_allowed(hosts: dict[str, Host]) -> None:
    one, two = hosts["one"], hosts["two"]
    two.follow("one")
    two.stop()
    one.query("SELECT pg_drop_replication_slot('two')")
    for _segment in range(3):
        one.query("CREATE TABLE IF NOT EXISTS more (n int); INSERT INTO more SELECT generate_series(1, 1000)")
        one.query("SELECT pg_switch_wal()")
    one.query("CHECKPOINT")
    two.refused("one", "no longer on the primary", "allow_rebuild: true")
    write(one, "a")
    two.changed("one", allow_rebuild=True)
    two.start()
    two.unchanged("one", allow_rebuild=True)
    assert rows(two) == ["a"]


def test_another_database_cluster_is_never_touched(hosts: dict[str, Host]) -> None:
    two = hosts["two"]
    two.initdb()
    two.refused("one", "another database cluster", "system identifier", allow_rebuild=True)
    two.start()
    two.refused("one", "another database cluster", allow_rebuild=True)
    assert two.query("SELECT 1") == [(1,)]


def test_other_files_are_never_touched(hosts: dict[str, Host]) -> None:
    hosts["two"].server.run(["touch", f"{DATA}/precious"])
    hosts["two"].refused("one", "no database cluster", allow_rebuild=True)
    assert hosts["two"].server.run(["ls", DATA]) == "precious\n"


def test_an_interrupted_copy_is_begun_anew(hosts: dict[str, Host]) -> None:
    two = hosts["two"]
    two.server.run(["sh", "-c", f"mkdir {DATA}/base && touch {DATA}/backup_label {DATA}/PG_VERSION"])
    two.follow("one")


def test_a_standby_of_a_standby(hosts: dict[str, Host]) -> None:
    hosts["two"].follow("one")
    hosts["three"].refused("two", "itself in recovery", "allow_cascade: true")
    prepared = hosts["three"].changed("two", allow_cascade=True)
    assert prepared["needs"] == "start"
    hosts["three"].start()
    write(hosts["one"], "a")
    hosts["three"].unchanged("two", allow_cascade=True)
    eventually(lambda: rows(hosts["three"]) == ["a"])


def test_the_copy_can_come_from_a_standby(hosts: dict[str, Host]) -> None:
    hosts["two"].follow("one")
    hosts["three"].follow("one", basebackup_conninfo={"host": "two"}, max_rate="100M")


def test_a_planned_promotion_loses_nothing(hosts: dict[str, Host]) -> None:
    one, two = hosts["one"], hosts["two"]
    two.follow("one")
    two.refused("one", "still accepts connections", "force: true", state="promoted")
    one.kill()
    two.refused("one", "writes may be missing", "force: true", state="promoted")
    assert two.query("SELECT pg_is_in_recovery()") == [(True,)]
    assert two.changed("one", state="promoted", force=True)["role"] == "primary"


def test_pause_and_resume(hosts: dict[str, Host]) -> None:
    one, two = hosts["one"], hosts["two"]
    two.follow("one")
    two.changed("one", state="paused")
    two.unchanged("one", state="paused")
    write(one, "a")
    assert rows(two) == []
    two.changed("one")
    eventually(lambda: rows(two) == ["a"])


def test_absent_drops_the_slot_and_keeps_the_data(hosts: dict[str, Host]) -> None:
    one, two = hosts["one"], hosts["two"]
    two.follow("one")
    assert two.refused("one", "Stop it", state="absent")["needs"] == "stop"
    two.stop()
    two.changed("one", state="absent")
    assert one.query("SELECT * FROM pg_replication_slots") == []
    assert "PG_VERSION" in two.server.run(["ls", DATA])
    two.unchanged("one", state="absent")
    two.changed("one", state="absent", remove_data=True)
    two.unchanged("one", state="absent", remove_data=True)
    assert two.server.run(["ls", "-A", DATA]) == ""


def test_absent_never_removes_a_primary(hosts: dict[str, Host]) -> None:
    two = hosts["two"]
    two.follow("one")
    two.changed("one", state="promoted", force=True)
    two.stop()
    two.refused("one", "data folder of a primary", state="absent", remove_data=True)


def test_a_password_goes_into_the_passfile_only(hosts: dict[str, Host]) -> None:
    one, two = hosts["one"], hosts["two"]
    one.query("CREATE ROLE replicator REPLICATION LOGIN PASSWORD 'a:secret\\word'")
    one.server.run(
        [
            "sh",
            "-c",
            f"echo 'host replication replicator all scram-sha-256' | cat - {DATA}/pg_hba.conf > /tmp/hba"
            f" && cp /tmp/hba {DATA}/pg_hba.conf",
        ]
    )
    one.query("SELECT pg_reload_conf()")
    conninfo = {"host": "one", "user": "replicator", "passfile": "/tmp/passfile"}

    def replica(**options: Any) -> dict[str, Any]:
        return call(
            two.server,
            "pg_replica",
            data_dir=DATA,
            primary_conninfo=conninfo,
            primary_password="a:secret\\word",
            wait_timeout=20,
            **options,
        )

    result = replica()
    assert result.get("failed") is not True, result
    two.start()
    result = replica()
    assert result["changed"] is False, result
    assert result["receiver"] == "streaming"
    assert two.server.run(["stat", "-c", "%a", "/tmp/passfile"]).strip() == "600"
    assert "secret" not in two.server.run(["cat", f"{DATA}/postgresql.auto.conf"])


def test_a_role_without_the_right(hosts: dict[str, Host]) -> None:
    hosts["one"].query("CREATE ROLE plain LOGIN")
    result = call(
        hosts["two"].server,
        "pg_replica",
        data_dir=DATA,
        primary_conninfo={"host": "one", "user": "plain"},
        wait_timeout=5,
    )
    assert result["failed"] is True
    assert "as plain" in result["msg"]
    assert "REPLICATION" in result["msg"]


def test_nobody_answers(hosts: dict[str, Host]) -> None:
    hosts["two"].refused("three", "Could not open a replication connection to three:5432")


def test_a_server_that_is_too_old(hosts: dict[str, Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_replica_host, "MINIMUM_VERSION", 990000)
    result = call_here(
        "pg_replica",
        data_dir=str(tmp_path / "data"),
        primary_conninfo={"host": hosts["one"].server.address, "user": "postgres"},
    )
    assert "runs PostgreSQL 17; pg_replica needs 99 or newer" in result["msg"]


def test_a_copy_that_is_cut_is_begun_anew(hosts: dict[str, Host]) -> None:
    """The limit on its rate makes the copy last; the primary ends the session that sends it."""
    one, two = hosts["one"], hosts["two"]
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_basebackup WHERE backup_streamed > 0"
    killer = threading.Thread(target=eventually, args=(lambda: bool(one.query(cut)), 60))
    killer.start()
    result = two.refused("one", "pg_basebackup ended with", "it begins the copy anew", max_rate="1M")
    killer.join()
    assert result["program"] == "pg_basebackup"
    two.follow("one")


def test_a_second_run_says_that_another_one_works(hosts: dict[str, Host]) -> None:
    hosts["two"].server.container.exec_run(["flock", DATA, "sleep", "6"], user="postgres", detach=True)
    eventually(lambda: hosts["two"].server.run(["sh", "-c", f"flock -n {DATA} true || echo busy"]) == "busy\n")
    hosts["two"].refused("one", "Another run of pg_replica", wait_timeout=0)
    assert hosts["two"].replica("one", wait_timeout=30)["needs"] == "start"


@hundred
@given(
    options=st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("name", "slot", "rewind_user", "bin_dir", "config_file", "max_rate"), OPTION),
            "data_dir": OPTION,
            "primary_conninfo": st.dictionaries(
                st.sampled_from(["host", "user", "port", "passfile", "password"]) | HOSTILE, HOSTILE, max_size=3
            ),
            "basebackup_conninfo": st.dictionaries(st.sampled_from(["host", "user"]) | HOSTILE, HOSTILE, max_size=2),
            "primary_password": OPTION,
            "state": st.sampled_from(["streaming", "promoted", "paused", "absent"]),
        },
    )
)
def test_hostile_input(hosts: dict[str, Host], tmp_path: Path, options: dict[str, Any]) -> None:
    """Refused, in check mode: no traceback, and nothing new on the primary."""
    one = hosts["one"]
    given = {
        "data_dir": str(tmp_path / "data"),
        "primary_conninfo": {"host": one.server.address, "user": "postgres"},
        "connect_timeout": 2,
        "wait_timeout": 1,
        **options,
    }
    answered(call_here("pg_replica", check=True, **given))
    assert one.query("SELECT count(*) FROM pg_replication_slots") == [(0,)]
    assert list(tmp_path.iterdir()) == []
