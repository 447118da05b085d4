# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""The plans of citus_node by table: no server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_nodes import (
    Action,
    Catalog,
    Desired,
    Holdings,
    Node,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_nodes_absent import (
    plan_absent,
    plan_disabled,
    plan_drained,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_nodes_apply import predict
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_nodes_present import (
    check_desired,
    plan_patroni,
    plan_present,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_nodes_settled import (
    missing_after_present,
    missing_under_patroni,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_server import (
    Server,
    library_version,
    require_coordinator,
    require_superuser,
    require_versions,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import CitusHaError, InvalidInput, Refused
from hypothesis import given, settings
from hypothesis import strategies as st

COORDINATOR = Node(1, "c1", 5432, 0, "primary", should_have_shards=False)
WORKER1 = Node(2, "w1", 5432, 1, "primary")
STANDBY1 = Node(3, "w1b", 5432, 1, "secondary", has_metadata=False, metadata_synced=False)
WORKER2 = Node(4, "w2", 5432, 2, "primary")
NODES = (COORDINATOR, WORKER1, STANDBY1, WORKER2)
CATALOG = Catalog(NODES)
FULL = Holdings(distributed=4, distributed_bytes=4096, only_distributed=4, tables=("events",))


def kinds(actions: list[Action]) -> list[str]:
    return [action.kind for action in actions]


def primary_in(nodes: tuple[Node, ...], group: int) -> str:
    found = Catalog(nodes).primary_of(group)
    assert found is not None
    return found.name


# ---- present -----------------------------------------------------------------------------------

UNCHANGED: list[list[Desired]] = [
    [Desired("c1", group=0), Desired("w1", group=1), Desired("w1b", group=1, role="secondary"), Desired("w2")],
    [Desired("w1", role="primary")],
    [Desired("w1b")],
    [Desired("c1", should_have_shards=False), Desired("w1", should_have_shards=True)],
    [Desired("w1", previous_name="old-name")],
    [Desired("w1b", should_have_shards=False)],  # only a primary has the property
    [],
]


@pytest.mark.parametrize("desired", UNCHANGED)
def test_nothing_to_do(desired: list[Desired]) -> None:
    assert plan_present(desired, CATALOG) == []


PRESENT: list[tuple[list[Desired], list[str]]] = [
    ([Desired("w3", group=3)], ["add"]),
    ([Desired("w3")], ["add"]),
    ([Desired("w3", should_have_shards=True)], ["add"]),
    ([Desired("w3", should_have_shards=False)], ["add", "set_should_have_shards"]),
    ([Desired("w3", metadata_synced=False)], ["add", "stop_metadata_sync"]),
    ([Desired("w2b", group=2, role="secondary")], ["add"]),
    ([Desired("c9", group=0)], ["set_coordinator_host"]),
    ([Desired("c9", group=0, should_have_shards=True)], ["set_coordinator_host", "set_should_have_shards"]),
    ([Desired("w9", group=1, previous_name="w1")], ["update_address"]),
    ([Desired("w1", port=5433, previous_port=5432)], ["update_address"]),
    ([Desired("w1", metadata_synced=False)], ["stop_metadata_sync"]),
    ([Desired("w1", should_have_shards=False)], ["set_should_have_shards"]),
    ([Desired("w1b", role="primary")], ["update_address"] * 3),
    ([Desired("w1b", role="primary"), Desired("w1", role="secondary")], ["update_address"] * 3),
]


@pytest.mark.parametrize(("desired", "expected"), PRESENT)
def test_present(desired: list[Desired], expected: list[str]) -> None:
    actions = plan_present(desired, CATALOG)
    assert kinds(actions) == expected
    after = predict(NODES, actions)
    assert plan_present(desired, Catalog(after)) == [], "what a plan makes of the catalog satisfies the plan"


def test_a_cluster_from_nothing_comes_in_an_order_that_works() -> None:
    desired = [
        Desired("w1b", group=1, role="secondary"),
        Desired("w2", group=2),
        Desired("w1", group=1),
        Desired("c1", group=0),
    ]
    actions = plan_present(desired, Catalog(()))
    assert [(action.kind, action.name) for action in actions] == [
        ("set_coordinator_host", "c1"),
        ("add", "w1"),
        ("add", "w2"),
        ("add", "w1b"),
    ]


def test_free_group_numbers() -> None:
    actions = plan_present([Desired("x"), Desired("y"), Desired("z", group=7)], CATALOG)
    assert {action.name: action.values["group"] for action in actions} == {"x": 8, "y": 9, "z": 7}


def test_inactive_and_unsynced_nodes_are_brought_back() -> None:
    inactive = Catalog((COORDINATOR, replace(WORKER1, is_active=False)))
    assert kinds(plan_present([Desired("w1")], inactive)) == ["activate"]
    unsynced = Catalog((COORDINATOR, replace(WORKER1, has_metadata=False, metadata_synced=False)))
    assert kinds(plan_present([Desired("w1")], unsynced)) == ["start_metadata_sync"]
    assert plan_present([Desired("w1", metadata_synced=False)], unsynced) == []
    inactive = Catalog((COORDINATOR, replace(WORKER1, is_active=False, has_metadata=False)))
    assert kinds(plan_present([Desired("w1")], inactive)) == ["activate"], "activating syncs as well"


def test_exchange_of_addresses_parks_one() -> None:
    actions = plan_present([Desired("w1b", role="primary")], CATALOG)
    seen = {node.address for node in NODES}
    for action in actions:
        target = (action.values["new_name"], action.values["new_port"])
        assert target not in seen, "Citus refuses an address that is taken"
        seen.remove((action.name, action.port))
        seen.add(target)
    after = {node.node_id: node.name for node in predict(NODES, actions)}
    assert (after[2], after[3]) == ("w1b", "w1")


def test_two_moves_at_once() -> None:
    nodes = tuple(Node(number, f"n{number}", 5432, number, "primary") for number in (1, 2, 3))
    desired = [Desired("n4", group=3, previous_name="n3"), Desired("n5", group=1, previous_name="n1")]
    after = predict(nodes, plan_present(desired, Catalog(nodes)))
    assert [primary_in(after, group) for group in (1, 2, 3)] == ["n5", "n2", "n4"]


REFUSED: list[tuple[list[Desired], str]] = [
    ([Desired("w9", group=1)], "previous_name: w1"),
    ([Desired("w1", group=2)], "cannot change a node's group"),
    ([Desired("w1", cluster="other")], "belongs to cluster default"),
    ([Desired("c9", group=0, cluster="other")], "belongs to cluster default"),
    ([Desired("w9", role="secondary")], "Set group to that of its primary"),
    ([Desired("w1", role="secondary")], "leave the group without one"),
    ([Desired("w9", group=2, previous_name="w1")], "cannot change a node's group"),
    ([Desired("c1", group=0), Desired("c2", group=0)], "both c1:5432 and c2:5432 would be the primary of group 0"),
    ([Desired("w1", group=1), Desired("w9", group=1)], "both w1:5432 and w9:5432 would be the primary of group 1"),
    ([Desired("w8", group=8), Desired("w9", group=8)], "both w8:5432 and w9:5432 would be the primary of group 8"),
    ([Desired("w9", role="secondary", previous_name="w1")], "then the role"),
]


@pytest.mark.parametrize(("desired", "message"), REFUSED)
def test_refused(desired: list[Desired], message: str) -> None:
    with pytest.raises(CitusHaError, match=message):
        plan_present(desired, CATALOG)


CONTRADICTIONS: list[tuple[list[Desired], str]] = [
    ([Desired("a"), Desired("a")], "named twice"),
    ([Desired("a", group=1, role="primary"), Desired("b", group=1, role="primary")], "one primary"),
    ([Desired("")], "1 to 255"),
    ([Desired("x" * 256)], "1 to 255"),
    ([Desired("a\x00b")], "null character"),
    ([Desired("a", port=0)], "1 to 65535"),
    ([Desired("a", port=65536)], "1 to 65535"),
    ([Desired("a", group=-1)], "Group 0 is the coordinator"),
    ([Desired("a", previous_name="b"), Desired("b")], "previous address of a:5432"),
    ([Desired("a", previous_name="c"), Desired("b", previous_name="c")], "Only one can be that node"),
    ([Desired("a", group=2**31)], "Group 0 is the coordinator"),
]


@pytest.mark.parametrize(("desired", "message"), CONTRADICTIONS)
def test_contradictions(desired: list[Desired], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_desired(desired)


names = st.text(min_size=0, max_size=300)
entries = st.builds(
    Desired,
    name=st.one_of(names, st.sampled_from(["c1", "w1", "w1b", "w2"])),
    port=st.sampled_from([0, 1, 5432, 5433, 65535, 65536, -1]),
    group=st.one_of(st.none(), st.integers(-2, 2**31)),
    role=st.sampled_from([None, "primary", "secondary"]),
    cluster=st.sampled_from(["default", "'; DROP TABLE pg_dist_node; --"]),
    should_have_shards=st.sampled_from([None, True, False]),
    metadata_synced=st.sampled_from([None, True, False]),
    previous_name=st.one_of(st.none(), st.sampled_from(["w1", "w1b", "w2"]), names),
    previous_port=st.sampled_from([None, 5432, 0]),
)


@settings(max_examples=100)
@given(st.lists(entries, max_size=4))
def test_any_input_gives_a_plan_or_an_answer(desired: list[Desired]) -> None:
    """100 inputs nobody would write: a plan whose result needs no further plan, or a refusal that says why."""
    try:
        check_desired(desired)
        actions = plan_present(desired, CATALOG)
    except CitusHaError as error:
        said = str(error)
    else:
        said = ""
    assert said or all(entry.name for entry in desired)
    if said:
        return
    after = predict(NODES, actions)
    addresses = [node.address for node in after]
    assert len(addresses) == len(set(addresses))
    assert {node.node_id for node in NODES} <= {node.node_id for node in after}, "present removes nothing"
    assert plan_present(desired, Catalog(after)) == [], "what a plan makes of the catalog satisfies the plan"


# ---- Patroni -----------------------------------------------------------------------------------

MISSING: list[tuple[list[Desired], tuple[Node, ...], list[str]]] = [
    ([Desired("w1", group=1), Desired("w1b", group=1)], NODES, []),
    ([Desired("w3", group=3)], NODES, ["w3:5432 is not registered", "group 3 has no primary"]),
    ([Desired("w1", port=6000)], NODES, ["w1:6000 is registered with port 5432 instead"]),
    ([Desired("w1", group=2)], NODES, ["w1:5432 is in group 1, not 2"]),
    ([Desired("w1", role="secondary")], NODES, ["w1:5432 is a primary, not a secondary"]),
    (
        [Desired("w2", group=2)],
        (COORDINATOR, replace(WORKER2, name="w2-demoted")),
        ["w2:5432 is being switched over (registered as w2-demoted:5432)"],
    ),
    ([Desired("w2")], (replace(WORKER2, is_active=False),), ["w2:5432 is not active"]),
    ([Desired("w2")], (replace(WORKER2, has_metadata=False),), ["w2:5432 has no copy of Citus' metadata"]),
    ([Desired("w2")], (replace(WORKER2, metadata_synced=False),), ["w2:5432 waits for Citus' metadata"]),
    # The secondary is there; its group's primary still waits.
    (
        [Desired("w1b")],
        (replace(WORKER1, metadata_synced=False), STANDBY1),
        ["w1:5432 waits for Citus' metadata"],
    ),
]


@pytest.mark.parametrize(("desired", "nodes", "expected"), MISSING)
def test_missing_under_patroni(desired: list[Desired], nodes: tuple[Node, ...], expected: list[str]) -> None:
    assert missing_under_patroni(desired, nodes) == expected


def test_under_patroni_only_the_property_is_set() -> None:
    # The standby is the leader by now: the property is that of the group, wherever its primary is.
    desired = [Desired("w1b", group=1, should_have_shards=False), Desired("w9", group=9), Desired("c1")]
    actions = plan_patroni(desired, CATALOG)
    assert [(action.kind, action.name) for action in actions] == [("set_should_have_shards", "w1")]
    with pytest.raises(InvalidInput, match="different should_have_shards"):
        plan_patroni([*desired, Desired("w1", should_have_shards=True)], CATALOG)


def test_missing_after_present() -> None:
    nodes = (replace(WORKER1, metadata_synced=False), STANDBY1, replace(WORKER2, is_active=False))
    assert missing_after_present([Desired("w1"), Desired("w1b"), Desired("w2")], nodes) == [
        "w1:5432 waits for Citus' metadata",
        "w2:5432 is not active",
    ]
    assert missing_after_present([Desired("w1", metadata_synced=False)], nodes) == []


# ---- drained, disabled, absent -----------------------------------------------------------------


def test_drained() -> None:
    catalog = Catalog(NODES, {1: FULL, 2: FULL})
    assert kinds(plan_drained([Desired("w1")], catalog)) == ["set_should_have_shards", "drain"]
    assert plan_drained([Desired("w1b")], catalog) == [], "a secondary has nothing of its own"
    with pytest.raises(Refused, match=r"w1b:5432 is a secondary now.*from its primary, w1:5432"):
        plan_drained([Desired("w1b")], catalog, patroni=True)
    whole = plan_drained([Desired("w1b"), Desired("w1")], catalog, patroni=True)
    assert [(action.kind, action.name) for action in whole] == [("set_should_have_shards", "w1"), ("drain", "w1")]
    assert plan_drained([Desired("w1b")], Catalog(NODES), patroni=True) == [], "the group has no shards"
    interrupted = Catalog((COORDINATOR, replace(WORKER1, should_have_shards=False), WORKER2), {1: FULL})
    assert kinds(plan_drained([Desired("w1")], interrupted)) == ["drain"]
    done = Catalog((COORDINATOR, replace(WORKER1, should_have_shards=False), WORKER2), {1: Holdings()})
    assert plan_drained([Desired("w1")], done) == []
    with pytest.raises(Refused, match="nowhere to go"):
        plan_drained([Desired("w1"), Desired("w2")], catalog)
    with pytest.raises(InvalidInput, match="Registered nodes: c1:5432, w1:5432"):
        plan_drained([Desired("w7")], catalog)


ABSENT: list[tuple[list[str], Holdings, bool, list[str]]] = [
    (["w2"], Holdings(), False, ["remove"]),
    (["nobody"], FULL, False, []),
    (["w1", "w1b"], Holdings(), False, ["remove", "remove"]),
    (["w1b"], FULL, False, ["remove"]),
    (["w2"], FULL, True, ["set_should_have_shards", "drain", "remove"]),
    (["w2"], Holdings(only_reference=1), True, ["replicate_reference_tables", "remove"]),
]


@pytest.mark.parametrize(("names_", "holdings", "drain", "expected"), ABSENT)
def test_absent(names_: list[str], holdings: Holdings, drain: bool, expected: list[str]) -> None:
    catalog = Catalog(NODES, {1: holdings, 2: holdings})
    actions = plan_absent([Desired(name) for name in names_], catalog, drain, patroni=False)
    assert kinds(actions) == expected
    if names_ == ["w1", "w1b"]:
        assert [action.name for action in actions] == ["w1b", "w1"], "secondaries first"


def test_nothing_is_moved_to_a_node_that_leaves_too() -> None:
    third = Node(5, "w3", 5432, 3, "primary")
    catalog = Catalog((*NODES, third), {2: FULL})
    actions = plan_absent([Desired("w2"), Desired("w3")], catalog, drain=True, patroni=False)
    assert [(action.kind, action.name) for action in actions] == [
        ("set_should_have_shards", "w2"),
        ("set_should_have_shards", "w3"),
        ("drain", "w2"),
        ("remove", "w2"),
        ("remove", "w3"),
    ]
    with pytest.raises(Refused, match="nowhere to go"):
        plan_absent(
            [Desired("w2"), Desired("w3")], Catalog((COORDINATOR, WORKER2, third), {2: FULL}), drain=True, patroni=False
        )


ABSENT_REFUSED: list[tuple[list[str], Holdings, bool, str]] = [
    (["w2"], FULL, False, "Set drain: true"),
    (["w2"], Holdings(only_reference=2), False, "the only copy of 2 reference tables"),
    (["w2", "w1", "w1b", "c1"], Holdings(only_reference=2), True, "no other active node"),
    (["w1"], Holdings(), False, "Name all nodes of the group"),
    (["w2"], Holdings(only_local=1), True, "Undistribute or drop them"),
]


@pytest.mark.parametrize(("names_", "holdings", "drain", "message"), ABSENT_REFUSED)
def test_absent_refused(names_: list[str], holdings: Holdings, drain: bool, message: str) -> None:
    catalog = Catalog(NODES, {2: holdings})
    with pytest.raises(Refused, match=message):
        plan_absent([Desired(name) for name in names_], catalog, drain, patroni=False)


def test_absent_under_patroni_keeps_the_order() -> None:
    running = Catalog(NODES, {}, answering=frozenset({("w2", 5432)}))
    with pytest.raises(Refused, match=r"state: drained; stop Patroni .*patronictl remove"):
        plan_absent([Desired("w2")], running, drain=True, patroni=True)
    assert kinds(plan_absent([Desired("w2")], Catalog(NODES), drain=False, patroni=True)) == ["remove"]


def test_disabled() -> None:
    assert kinds(plan_disabled([Desired("w2"), Desired("w1b")], CATALOG)) == ["disable", "disable"]
    gone = Catalog((COORDINATOR, replace(WORKER2, is_active=False)))
    assert plan_disabled([Desired("w2")], gone) == []
    with pytest.raises(Refused, match="only copy of 4 shards"):
        plan_disabled([Desired("w2")], Catalog(NODES, {2: FULL}))
    with pytest.raises(Refused, match="is the coordinator"):
        plan_disabled([Desired("c1")], CATALOG)


# ---- the server --------------------------------------------------------------------------------


def server(**options: Any) -> Server:
    values: dict[str, Any] = {
        "where": "host:5432/app as postgres",
        "database": "app",
        "postgresql_version": "17.11",
        "postgresql_number": 170011,
        "citus_version": "14.0.1",
        "interface": (14, 0),
        "is_standin": False,
        "in_recovery": False,
        "upstream": "",
        "is_superuser": True,
        "user": "postgres",
        "group": 0,
        "coordinator": "c1:5432",
    }
    return Server(**{**values, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"citus_version": ""}, "CREATE EXTENSION citus"),
        ({"group": 2}, "is a worker .Citus group 2.* which this worker knows as c1:5432"),
        ({"group": 2, "coordinator": ""}, "Run the task against the coordinator .Citus group 0."),
        ({"in_recovery": True, "upstream": "c2:5432"}, "streams to it from c2:5432"),
        ({"in_recovery": True}, "Run the task against the coordinator's primary"),
    ],
)
def test_where_it_runs(options: dict[str, Any], message: str) -> None:
    require_coordinator(server())
    with pytest.raises(InvalidInput, match=message):
        require_coordinator(server(**options))


def test_rights_and_versions() -> None:
    require_superuser(server(), "change nodes")
    with pytest.raises(Refused, match=r"Role app .* may not change nodes"):
        require_superuser(server(is_superuser=False, user="app"), "change nodes")
    require_versions(server(), "citus_node", ["state=drained"])
    with pytest.raises(InvalidInput, match=r"state=drained needs Citus 11\.2; this server has 11\.1"):
        require_versions(server(interface=(11, 1)), "citus_node", ["state=drained"])
    with pytest.raises(InvalidInput, match="needs PostgreSQL 14; this server has 13"):
        require_versions(server(postgresql_number=130004), "citus_node", [])
    assert library_version("Citus 14.0.1 on x86_64", "14.0-1") == "14.0.1"
    assert library_version("Citus 14.1devel on x86_64", "14.1-1") == "14.1"
    assert library_version("stand-in", "14.0-1") == "14.0-1"
