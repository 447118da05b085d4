# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""What citus_info makes of rows, by table: no server."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.citus_ha.cluster.plugins.module_utils import _citus_info as info
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_nodes import Node
from hypothesis import given
from hypothesis import strategies as st

NODES = (
    Node(1, "c", 5432, 0, "primary", should_have_shards=False),
    Node(2, "w1", 5432, 1, "primary"),
    Node(3, "w1b", 5432, 1, "secondary", has_metadata=False, metadata_synced=False),
    Node(4, "w2", 5432, 2, "primary"),
)


def waits(*edges: tuple[int, int]) -> list[dict[str, Any]]:
    return [{"waiting_gpid": waiting, "blocking_gpid": blocking} for waiting, blocking in edges]


@pytest.mark.parametrize(
    ("edges", "circles"),
    [
        ([], []),
        ([(1, 2), (2, 3)], []),
        ([(1, 2), (2, 1)], [[1, 2]]),
        ([(3, 1), (1, 2), (2, 3)], [[1, 2, 3]]),
        ([(9, 1), (1, 2), (2, 1)], [[1, 2]]),
        ([(1, 2), (2, 1), (3, 4), (4, 3)], [[1, 2], [3, 4]]),
        ([(1, 1)], [[1]]),
    ],
)
def test_deadlocks(edges: list[tuple[int, int]], circles: list[list[int]]) -> None:
    assert info.find_deadlocks(waits(*edges)) == circles


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_a_deadlock_is_a_circle(edges: list[tuple[int, int]]) -> None:
    for circle in info.find_deadlocks(waits(*edges)):
        for position, session in enumerate(circle):
            assert (session, circle[(position + 1) % len(circle)]) in edges


def test_sizes_are_the_same_from_sums_and_from_shards() -> None:
    kinds = {10: "distributed", 20: "reference"}
    shards = [
        {"table_id": 10, "groups": [1], "bytes": 100},
        {"table_id": 10, "groups": [2], "bytes": None},
        {"table_id": 10, "groups": [2], "bytes": 50},
        {"table_id": 20, "groups": [0, 1, 2], "bytes": 8},
    ]
    sums = [
        {"table_id": 10, "group": 1, "shards": 1, "bytes": 100},
        {"table_id": 10, "group": 2, "shards": 2, "bytes": 50},
        *({"table_id": 20, "group": group, "shards": 1, "bytes": 8} for group in (0, 1, 2)),
    ]
    for rows in (shards, sums):
        sizes = info.Sizes(rows, kinds)
        assert dict(sizes.table_bytes) == {10: 150, 20: 24}
        nodes = {node["name"]: node for node in info.nodes_as_dicts(NODES, sizes)}
        assert (nodes["w2"]["shard_count"], nodes["w2"]["bytes"], nodes["w2"]["reference_bytes"]) == (2, 50, 8)
        assert nodes["w1b"]["bytes"] == nodes["w1"]["bytes"] == 100
        assert (nodes["c"]["shard_count"], nodes["c"]["reference_bytes"]) == (0, 8)
        groups = info.groups_as_dicts(NODES, sizes)
        assert [(group["group"], group["kind"], group["secondaries"]) for group in groups] == [
            (0, "coordinator", []),
            (1, "worker", ["w1b:5432"]),
            (2, "worker", []),
        ]


def answer(node_id: int, **said: Any) -> dict[str, Any]:
    return {"node_id": node_id, "said": said, "error": None}


DOWN = {"node_id": 4, "said": {}, "error": "connection refused"}


def test_prepared_transactions_tell_what_their_initiator_decided() -> None:
    def held(*gids: str) -> dict[str, Any]:
        return {"prepared": [{"gid": gid, "age_seconds": 1} for gid in gids], "decided": []}

    coordinator = answer(1, prepared_transactions={"prepared": [], "decided": ["citus_0_1_1_1"]})
    worker = answer(2, prepared_transactions=held("citus_0_1_1_1", "citus_0_2_2_2", "citus_2_3_3_3", "citus_odd"))
    found = info.prepared_as_dicts([coordinator, worker, DOWN], NODES)
    assert {row["gid"]: (row["initiator_group"], row["decision"]) for row in found} == {
        "citus_0_1_1_1": (0, "commit"),
        "citus_0_2_2_2": (0, "open"),
        "citus_2_3_3_3": (2, "unknown"),  # its initiator is down
        "citus_odd": (None, "unknown"),
    }


def test_drift_names_node_and_catalog() -> None:
    truth = answer(1, drift={"nodes": [4, "aaa"], "shards": [32, "bbb"]})
    same = answer(2, drift={"nodes": [4, "aaa"], "shards": [32, "bbb"]})
    other = answer(4, drift={"nodes": [3, "ccc"], "shards": [32, "bbb"]})
    assert info.drift_as_dicts([truth, same], NODES) == []
    assert info.drift_as_dicts([truth, same, other], NODES) == [
        {"node_id": 4, "name": "w2", "port": 5432, "catalog": "nodes", "rows": 3, "coordinator_rows": 4}
    ]
    assert info.drift_as_dicts([truth, DOWN], NODES) == [], "a node that does not answer is not said to differ"


def test_health_has_every_pair_and_the_standbys_that_may_lead_next() -> None:
    told = [["c", 5432, True], ["w1", 5432, True], ["w1b", 5432, True], ["w2", 5432, False]]
    matrix = info.health_as_dicts([answer(1, health=told), answer(2, health=told), DOWN], NODES)
    assert len(matrix) == 12
    assert {row["ok"] for row in matrix if row["to_name"] == "w1b"} == {True, None}
    assert {(row["from_name"], row["to_name"]): row["ok"] for row in matrix if row["to_name"] == "w2"} == {
        ("c", "w2"): False,
        ("w1", "w2"): False,
        ("w2", "w2"): None,
    }


def test_versions_of_a_node_that_is_down() -> None:
    up = {"postgresql_version": "17.11", "citus_version": "14.0.1", "citus_text": "Citus 14.0.1 stand-in"}
    rows = info.versions_as_dicts([answer(2, versions=up), DOWN], NODES)
    assert [(row["name"], row["citus_version"], row["is_standin"], row["error"]) for row in rows] == [
        ("w1", "14.0.1", True, None),
        ("w2", None, False, "connection refused"),
    ]


def test_shards_of_extensions_and_unknown_groups() -> None:
    tables = [{"table_id": 10, "name": "public.events", "type": "distributed", "colocation_id": 1}]
    shard = {"shard_id": 5, "min_value": "0", "max_value": "9", "bytes": 1}
    rows = [{**shard, "table_id": 10, "groups": [1, 9]}, {**shard, "table_id": 11, "groups": [1]}]
    (found,) = info.shards_as_dicts(rows, tables, NODES)
    assert found["placements"] == ["w1:5432", "group 9"]
