# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The cluster as a client sees it, before and after a failure of each kind of node; on machines too (scenario vm)."""

from __future__ import annotations

from client import ask, eventually, is_kept, psql


def test_the_pooler_leads_to_the_leader() -> None:
    assert eventually(lambda: ask("SELECT pg_is_in_recovery(), current_user")) == [(False, "app")]


def test_both_groups_are_registered() -> None:
    registered = "SELECT count(DISTINCT groupid) FROM pg_dist_node WHERE noderole = 'primary' AND isactive"
    assert eventually(lambda: ask(registered)) == [(2,)]


def test_what_is_distributed_is_on_the_workers() -> None:
    ask("CREATE TABLE IF NOT EXISTS items (id bigint PRIMARY KEY)")
    if ask("SELECT 1 FROM pg_dist_partition WHERE logicalrelid = 'items'::regclass") == []:
        ask("SELECT create_distributed_table('items', 'id')")
    # The coordinator goes to a worker by itself: one that was killed and came back takes writes a moment later.
    eventually(lambda: ask("INSERT INTO items SELECT generate_series(1, 100) ON CONFLICT DO NOTHING") == [])
    assert ask("SELECT count(*) FROM items") == [(100,)]
    spread = "SELECT count(DISTINCT groupid) FROM pg_dist_placement WHERE groupid > 0"
    assert ask(spread) == [(1,)]


def test_the_standalone_server_has_no_citus() -> None:
    extensions = "SELECT count(*) FROM pg_extension WHERE extname = 'citus'"
    assert psql("molecule-postgres-1", extensions, database="app") == "0"


def test_what_was_written_survives_the_failure() -> None:
    is_kept()
