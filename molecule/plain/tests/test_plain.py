# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The topology without Patroni as a client sees it; on machines too (scenario plain_vm)."""

from __future__ import annotations

from client import ask, eventually, is_kept, psql


def test_the_pooler_leads_to_the_primary() -> None:
    assert eventually(lambda: ask("SELECT pg_is_in_recovery(), current_user")) == [(False, "app")]


def test_the_standby_streams_from_a_slot_of_its_own() -> None:
    state = "SELECT active FROM pg_replication_slots WHERE slot_name = 'molecule_coordinator_2'"
    assert eventually(lambda: psql("molecule-coordinator-1", state) == "t")
    assert eventually(lambda: psql("molecule-coordinator-2", "SELECT pg_is_in_recovery()") == "t")


def test_both_groups_are_registered() -> None:
    registered = "SELECT count(DISTINCT groupid) FROM pg_dist_node WHERE noderole = 'primary' AND isactive"
    assert eventually(lambda: ask(registered)) == [(2,)]


def test_the_standalone_server_has_no_citus() -> None:
    extensions = "SELECT count(*) FROM pg_extension WHERE extname = 'citus'"
    assert psql("molecule-postgres-1", extensions, database="app") == "0"


def test_what_was_written_survives_the_failure() -> None:
    is_kept()
