# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The distributed database as a client sees it."""

from __future__ import annotations

from client import ask, eventually, is_kept


def test_every_node_is_registered() -> None:
    registered = "SELECT count(*) FROM pg_dist_node WHERE noderole = 'primary' AND isactive AND metadatasynced"
    assert eventually(lambda: ask(registered)) == [(3,)]


def test_a_table_is_spread_over_both_workers() -> None:
    ask("CREATE TABLE IF NOT EXISTS items (id bigint PRIMARY KEY)")
    if ask("SELECT 1 FROM pg_dist_partition WHERE logicalrelid = 'items'::regclass") == []:
        ask("SELECT create_distributed_table('items', 'id')")
    # The coordinator goes to a worker by itself: one that was killed and came back takes writes a moment later.
    eventually(lambda: ask("INSERT INTO items SELECT generate_series(1, 100) ON CONFLICT DO NOTHING") == [])
    assert eventually(lambda: ask("SELECT count(*), sum(id) FROM items")) == [(100, 5050)]
    assert ask("SELECT count(DISTINCT groupid) FROM pg_dist_placement WHERE groupid > 0") == [(2,)]


def test_what_was_written_survives_the_failure() -> None:
    is_kept()
