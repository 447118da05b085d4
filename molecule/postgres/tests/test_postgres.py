# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""A group of two as its standby, its leader and a client on the node see it."""

from __future__ import annotations

from client import eventually, kept, node, psql

GROUP = ("molecule-coordinator-1", "molecule-coordinator-2")


def leader() -> str:
    """The one member that is not in recovery."""
    leaders = [name for name in GROUP if psql(name, "SELECT pg_is_in_recovery()") == "f"]
    assert len(leaders) == 1, leaders
    return leaders[0]


def standby() -> str:
    """The other one."""
    return next(name for name in GROUP if name != leader())


def test_one_member_leads_and_the_other_streams_synchronously() -> None:
    state = "SELECT state, sync_state FROM pg_stat_replication"
    assert eventually(lambda: psql(leader(), state) == "streaming|sync")


def test_what_the_leader_is_told_the_standby_knows_and_both_keep() -> None:
    def write(token: str) -> None:
        psql(leader(), f"CREATE TABLE kept AS SELECT '{token}' AS token", "app")

    token = kept(write)
    for member in (leader, standby):
        assert eventually(lambda which=member: psql(which(), "SELECT token FROM kept", "app")) == token


def test_the_superuser_does_not_get_in_over_the_network() -> None:
    target = f"host={leader()} user=postgres dbname=postgres connect_timeout=5"
    for sslmode, said in (("require", "pg_hba.conf rejects connection"), ("disable", "no pg_hba.conf entry")):
        tried = node("molecule-postgres-1").run(f"psql -w '{target} sslmode={sslmode}' -c 'SELECT 1'")
        assert tried.rc != 0 and said in tried.stderr, tried.stderr


def test_a_server_alone_serves_too() -> None:
    assert (
        psql("molecule-postgres-1", "SELECT pg_is_in_recovery(), count(*) FROM pg_roles WHERE rolname = 'app'") == "f|1"
    )
