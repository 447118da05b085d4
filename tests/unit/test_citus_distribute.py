# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""citus_distribute without a server: options, plans by table, batches, what a failure says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.citus_ha.cluster.plugins.module_utils import _citus_distribute_run as run
from ansible_collections.citus_ha.cluster.plugins.module_utils import _lock, _versions
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_details import (
    Column,
    Details,
    Extra,
    ForeignKey,
    Key,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_server import Server
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_tables import Schema, Table
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_distribute import (
    Action,
    Desired,
    Plan,
    State,
    Statement,
    format_bytes,
    step,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_plan import plan
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_preflight import skew
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_preflight_keys import mend_key
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    CitusHaError,
    ConnectionFailed,
    InvalidInput,
    Refused,
    ServerError,
    TimedOut,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._names import Name
from ansible_collections.citus_ha.cluster.plugins.modules import citus_distribute

INT, BIGINT = 23, 20


# ---- a small world ----------------------------------------------------------------------------------


def server(**settings: str) -> Server:
    defaults = {"citus.shard_count": "32", "max_connections": "100", "max_locks_per_transaction": "64"}
    return Server("db", 170011, (14, 0), False, 0, "Citus", "c:5432", 2, {**defaults, **settings})


class World:
    """Tables and their details, put together line by line."""

    def __init__(self, **settings: str) -> None:
        self.server = server(**settings)
        self.tables: dict[Name, Table] = {}
        self.columns: dict[int, tuple[Column, ...]] = {}
        self.keys: dict[int, tuple[Key, ...]] = {}
        self.extras: dict[int, Extra] = {}
        self.foreign_keys: list[ForeignKey] = []
        self.more: dict[str, Any] = {}

    def table(self, name: str, state: str = "plain", columns: str = "id k", **options: Any) -> Table:
        types = options.pop("types", {})
        key = options.pop("key", None)
        extra = options.pop("extra", {})
        table = Table(
            oid=len(self.tables) + 1,
            schema="public",
            table=name,
            relkind=options.pop("relkind", "r"),
            persistence="p",
            is_partition=False,
            owner="app",
            owned=options.pop("owned", True),
            state=state,
            **options,
        )
        self.tables[Name(None, name)] = table
        self.columns[table.oid] = tuple(
            Column(item, number, "bigint" if types.get(item, BIGINT) == BIGINT else "integer", types.get(item, BIGINT),
                   0, True, False, False, False, True, False, False)
            for number, item in enumerate(columns.split(), 1)
        )  # fmt: skip
        if key:
            numbers = tuple(columns.split().index(item) + 1 for item in key.split())
            definition = f"PRIMARY KEY ({', '.join(key.split())})"
            self.keys[table.oid] = (
                Key(
                    table.oid,
                    "public",
                    name,
                    f"{name}_pkey",
                    "p",
                    definition,
                    numbers,
                    tuple(key.split()),
                    (),
                    False,
                    (),
                ),
            )
        base = {
            "bytes": 8192, "has_rows": False, "triggers": (), "inherits": False, "parent": None, "multi_level": False,
            "partitions": 0, "replica_identity": True, "estimated_rows": -1,
        }  # fmt: skip
        self.extras[table.oid] = Extra(**{**base, **extra})
        return table

    def link(self, source: str, target: str, columns: str = "k", to: str = "id", action: str = "a") -> None:
        first, second = self.tables[Name(None, source)], self.tables[Name(None, target)]
        definition = f"FOREIGN KEY ({columns}) REFERENCES public.{target}({to})"
        self.foreign_keys.append(
            ForeignKey(
                f"{source}_fk", first, tuple(columns.split()), second, tuple(to.split()), action, "a", definition
            )
        )

    def state(self) -> State:
        details = Details(
            columns=self.columns, keys=self.keys, extras=self.extras, foreign_keys=tuple(self.foreign_keys), **self.more
        )
        return State(self.server, self.tables, {"tenant": Schema("tenant", True, "app", False, 2)}, details)

    def plan(self, *desired: Desired) -> Plan:
        return plan(desired, self.state())


def want(name: str, state: str = "distributed", column: str | None = "k", **options: Any) -> Desired:
    colocate = options.pop("colocate_with", None)
    if isinstance(colocate, str) and colocate not in ("none", "default"):
        colocate = Name(None, colocate)
    kind = "schema" if state == "schema" else "table"
    return Desired(
        Name(None, name), state, kind, column if state == "distributed" else None, colocate_with=colocate, **options
    )


def statements(found: Plan) -> list[str]:
    assert found.findings == ()
    return [str(statement) for action in found.actions for statement in action.statements]


def findings(found: Plan) -> str:
    assert found.findings
    return "\n".join(map(str, found.findings))


# ---- what is to be done -----------------------------------------------------------------------------

STATES: dict[str, dict[str, Any]] = {
    "plain": {}, "local": {}, "reference": {"colocation_id": 2}, "single_shard": {"colocation_id": 3, "shard_count": 1},
    "distributed": {"column": "k", "colocation_id": 1, "shard_count": 32}, "other": {"colocation_id": 4},
}  # fmt: skip


@pytest.mark.parametrize(
    ("there", "wanted", "verb"),
    [
        ("plain", "distributed", "create"), ("plain", "reference", "create"), ("plain", "local", "create"),
        ("plain", "undistributed", None),
        ("local", "distributed", "create"), ("local", "reference", "create"), ("local", "local", None),
        ("local", "undistributed", "undistribute"),
        ("reference", "distributed", "convert"), ("reference", "reference", None), ("reference", "local", "convert"),
        ("reference", "undistributed", "undistribute"),
        ("distributed", "distributed", None), ("distributed", "reference", "convert"),
        ("distributed", "local", "convert"), ("distributed", "undistributed", "undistribute"),
        ("single_shard", "distributed", "convert"), ("single_shard", "undistributed", "undistribute"),
        ("other", "distributed", "convert"),
    ],
)  # fmt: skip
def test_every_change_of_state(there: str, wanted: str, verb: str | None) -> None:
    world = World()
    world.table("t", there, **STATES[there])
    entry = want("t", wanted)
    assert step(entry, world.state()) == verb
    found = world.plan(entry)
    if verb == "convert":
        assert "allow_redistribute: true" in findings(found)
    elif verb is None:
        assert (found.actions, found.findings) == ((), ())


@pytest.mark.parametrize(
    ("options", "statement"),
    [
        ({}, "SELECT create_distributed_table('public.t', 'k');"),
        ({"shard_count": 4}, "SELECT create_distributed_table('public.t', 'k', shard_count => 4);"),
        ({"colocate_with": "none"}, "SELECT create_distributed_table('public.t', 'k', colocate_with => 'none');"),
        ({"concurrently": True}, "SELECT create_distributed_table_concurrently('public.t', 'k');"),
        ({"state": "reference"}, "SELECT create_reference_table('public.t');"),
        ({"state": "local"}, "SELECT citus_add_local_table_to_metadata('public.t');"),
    ],
)
def test_statement(options: dict[str, Any], statement: str) -> None:
    world = World()
    world.table("t")
    assert statements(world.plan(want("t", **options))) == [statement]


@pytest.mark.parametrize(
    ("options", "statement"),
    [
        ({"column": "id"}, "SELECT alter_distributed_table('public.t', distribution_column => 'id');"),
        (
            {"shard_count": 4},
            "SELECT alter_distributed_table('public.t', shard_count => 4, cascade_to_colocated => false);",
        ),
        (
            {"shard_count": 4, "cascade": True},
            "SELECT alter_distributed_table('public.t', shard_count => 4, cascade_to_colocated => true);",
        ),
        (
            {"colocate_with": "other"},
            "SELECT alter_distributed_table('public.t', colocate_with => 'public.other',"
            " cascade_to_colocated => false);",
        ),
    ],
)
def test_alter(options: dict[str, Any], statement: str) -> None:
    world = World()
    world.table("t", "distributed", column="k", colocation_id=1, shard_count=32)
    world.table("other", "distributed", column="k", colocation_id=5, shard_count=32)
    assert "allow_redistribute" in findings(world.plan(want("t", **options)))
    assert statements(world.plan(want("t", allow_redistribute=True, **options))) == [statement]


def test_colocation_default_and_none_claim_nothing_afterwards() -> None:
    world = World()
    world.table("t", "distributed", column="k", colocation_id=1, shard_count=32)
    for value in (None, "default", "none"):
        assert world.plan(want("t", colocate_with=value)).actions == ()


def test_schema() -> None:
    world = World()
    assert statements(world.plan(want("tenant", "schema"))) == ["SELECT citus_schema_distribute('tenant');"]
    assert "no such schema" in findings(world.plan(want("nowhere", "schema")))


# ---- keys -------------------------------------------------------------------------------------------


def test_key_without_the_column() -> None:
    world = World()
    world.table("t", key="id")
    text = findings(world.plan(want("t")))
    assert "primary key t_pkey (id) does not include the distribution column k" in text
    assert "ALTER TABLE public.t DROP CONSTRAINT t_pkey, ADD CONSTRAINT t_pkey PRIMARY KEY (id, k);" in text
    done = world.plan(want("t", extend_keys=True))
    assert statements(done)[0].startswith("ALTER TABLE public.t DROP CONSTRAINT t_pkey")
    assert "ACCESS EXCLUSIVE" in done.actions[0].lock
    assert world.plan(want("t", column="id")).findings == ()
    assert world.plan(want("t", "reference")).findings == ()


@pytest.mark.parametrize(
    ("definition", "mended"),
    [
        ("PRIMARY KEY (id)", "PRIMARY KEY (id, k)"),
        ("PRIMARY KEY (id) INCLUDE (x)", "PRIMARY KEY (id, k) INCLUDE (x)"),
        ("UNIQUE NULLS NOT DISTINCT (a, b) DEFERRABLE", "UNIQUE NULLS NOT DISTINCT (a, b, k) DEFERRABLE"),
        ('UNIQUE ("we)ird", "(", "a""b")', 'UNIQUE ("we)ird", "(", "a""b", k)'),
    ],
)
def test_mended_constraint(definition: str, mended: str) -> None:
    key = Key(1, "s", "t", "c", "u", definition, (), (), (), False, ())
    (statement,) = mend_key(key, "k")
    assert str(statement) == f"ALTER TABLE s.t DROP CONSTRAINT c, ADD CONSTRAINT c {mended};"


def test_mended_index_and_replica_identity() -> None:
    definition = "CREATE UNIQUE INDEX i ON s.t USING btree (lower((c || ')'::text)) DESC) WHERE (c <> '('::text)"
    key = Key(1, "s", "t", "i", None, definition, (), (), (), True, ())
    assert [str(statement) for statement in mend_key(key, "order")] == [
        "DROP INDEX s.i;",
        "CREATE UNIQUE INDEX i ON s.t USING btree (lower((c || ')'::text)) DESC, \"order\") WHERE (c <> '('::text);",
        "ALTER TABLE s.t REPLICA IDENTITY USING INDEX i;",
    ]
    assert mend_key(Key(1, "s", "t", "x", "x", "EXCLUDE USING gist (r WITH &&)", (), (), (), False, ()), "k") == ()


def test_key_that_foreign_keys_rest_on_is_not_extended() -> None:
    world = World()
    table = world.table("t", key="id")
    world.keys[table.oid] = (
        Key(1, "public", "t", "t_pkey", "p", "PRIMARY KEY (id)", (1,), ("id",), (), False, ("x: fk",)),
    )
    assert "foreign keys rest on it (x: fk)" in findings(world.plan(want("t", extend_keys=True)))


# ---- foreign keys and order -------------------------------------------------------------------------


def order(found: Plan) -> list[str]:
    assert found.findings == (), findings(found)
    return [action.object.removeprefix("public.") for action in found.actions if action.verb == "create"]


def test_referenced_tables_come_first() -> None:
    world = World()
    for name in ("items", "orders", "users"):
        world.table(name)
    world.link("items", "orders", "k", "k")
    world.link("orders", "users", "k", "k")
    assert order(world.plan(want("items"), want("orders"), want("users"))) == ["users", "orders", "items"]


def test_colocation_targets_come_first() -> None:
    world = World()
    for name in ("a", "b"):
        world.table(name)
    assert order(world.plan(want("a", colocate_with="b"), want("b", colocate_with="none"))) == ["b", "a"]


def circle(*others: str) -> World:
    """Tables a and b, which refer to each other, and others."""
    world = World()
    for name in ("a", *others, "b"):
        world.table(name)
    world.link("a", "b", "k", "k")
    world.link("b", "a", "k", "k")
    return world


def test_circle_is_cut_and_mended() -> None:
    world = circle()
    found = world.plan(want("a"), want("b"))
    assert [action.verb for action in found.actions] == ["unlink", "create", "create", "link"]
    assert len(run.batches(found.actions, server(max_locks_per_transaction="1"))) == 1, "never without the foreign key"


def test_what_has_a_transaction_of_its_own_does_not_part_the_foreign_keys() -> None:
    world = circle("c")
    found = world.plan(want("a"), want("c", concurrently=True), want("b"))
    assert [action.verb for action in found.actions] == ["unlink", "create", "create", "link", "create"]
    assert [len(batch) for batch in run.batches(found.actions, world.server)] == [4, 1]


@pytest.mark.parametrize(
    ("target", "wanted", "words"),
    [
        ({"state": "plain"}, None, "state: reference"),
        ({"state": "local"}, None, "state: reference"),
        ({"state": "reference"}, None, None),
        ({"state": "distributed", "column": "id", "colocation_id": 9, "shard_count": 4}, None, "not be colocated with"),
        ({"state": "plain"}, want("p", "reference"), None),
        ({"state": "plain"}, want("p", column="id"), None),
        ({"state": "plain"}, want("p", column="k"), "does not pair the distribution columns"),
        ({"state": "plain"}, want("p", column="id", colocate_with="none"), "not be colocated with"),
        ({"state": "plain", "types": {"id": INT}}, want("p", column="id"), "of different types: bigint and integer"),
    ],
)
def test_foreign_key_to(target: dict[str, Any], wanted: Desired | None, words: str | None) -> None:
    world = World()
    world.table("t")
    world.table("p", **target)
    world.link("t", "p")
    found = world.plan(*[entry for entry in (want("t"), wanted) if entry])
    if words is None:
        assert found.findings == ()
    else:
        assert words in findings(found)


@pytest.mark.parametrize(("action", "fine"), [("a", True), ("r", True), ("c", True), ("n", False), ("d", False)])
def test_foreign_key_actions_on_the_distribution_column(action: str, fine: bool) -> None:
    world = World()
    world.table("t")
    world.table("p", "reference")
    world.link("t", "p", action=action)
    assert (world.plan(want("t")).findings == ()) is fine


def test_plain_table_that_refers_to_it() -> None:
    world = World()
    world.table("t")
    world.table("child")
    world.link("child", "t", "k", "id")
    text = findings(world.plan(want("t", column="id")))
    assert "lead from a plain table on the coordinator to a distributed table" in text
    assert "ALTER TABLE public.child DROP CONSTRAINT child_fk;" in text


def test_foreign_keys_that_an_alter_would_lose() -> None:
    world = World()
    for name in ("a", "b"):
        world.table(name, "distributed", column="k", colocation_id=1, shard_count=32)
    world.link("a", "b", "k", "k")
    entry = want("a", shard_count=4, allow_redistribute=True)
    text = findings(world.plan(entry))
    assert "drop the foreign keys" in text
    assert "ALTER TABLE public.a ADD CONSTRAINT a_fk" in text


def test_whole_group_is_changed_by_one_statement() -> None:
    world = World()
    for name in ("a", "b"):
        table = world.table(name, "distributed", column="k", colocation_id=1, shard_count=32)
        world.extras[table.oid] = replace(
            world.extras[table.oid], colocated=("public.b",) if name == "a" else ("public.a",)
        )
    options: dict[str, Any] = {"shard_count": 4, "allow_redistribute": True}
    assert len(world.plan(want("a", cascade=True, **options), want("b", cascade=True, **options)).actions) == 1
    assert len(world.plan(want("a", **options), want("b", **options)).actions) == 2


def test_connected_tables_that_are_undistributed() -> None:
    world = World()
    for name in ("a", "b"):
        world.table(name, "distributed", column="k", colocation_id=1, shard_count=32)
    world.link("a", "b", "k", "k")
    world.more.update(connected={1: ("public.b",), 2: ("public.a",)}, sizes={"public.a": 100}, free_bytes=10**9)
    gone = want("a", "undistributed"), want("b", "undistributed")
    assert "cascade: true" in findings(world.plan(gone[0]))
    assert statements(world.plan(*gone)) == ["SELECT undistribute_table('public.b', cascade_via_foreign_keys => true);"]
    alone = world.plan(replace(gone[0], cascade=True))
    assert statements(alone) == ["SELECT undistribute_table('public.a', cascade_via_foreign_keys => true);"]
    assert alone.actions[0].also == ("public.b",)
    stays = findings(world.plan(replace(gone[0], cascade=True), want("b")))
    assert "cascade: true would undistribute public.b, too, which is to be distributed" in stays
    kind = want("a", "reference", allow_redistribute=True, cascade=True)
    assert "Drop the foreign keys" in findings(world.plan(kind)), "never leave the others undistributed by the way"


def test_connected_tables_that_become_local() -> None:
    world = World()
    for name in ("a", "b"):
        world.table(name)
    world.link("a", "b", "k", "id")
    world.more.update(connected_plain={1: ("public.b",), 2: ("public.a",)})
    local = want("a", "local"), want("b", "local")
    assert "Set cascade: true" in findings(world.plan(local[0]))
    both = ["SELECT citus_add_local_table_to_metadata('public.b', cascade_via_foreign_keys => true);"]
    assert statements(world.plan(*local)) == both


def test_what_is_taken_along_is_not_forgotten_when_it_is_to_be_something_else() -> None:
    world = World()
    for name in ("r", "a", "b"):
        world.table(name)
    world.link("a", "r", "k", "id")
    world.link("b", "r", "k", "id")
    everybody = {1: "public.r", 2: "public.a", 3: "public.b"}
    world.more["connected_plain"] = {
        number: tuple(other for other in everybody.values() if other != name) for number, name in everybody.items()
    }
    found = world.plan(want("r", "reference"), want("a", "local"), want("b"))
    assert found.findings == ()
    assert [action.object for action in found.actions] == ["public.r", "public.a", "public.b"]


# ---- other findings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "entry", "words"),
    [
        ({"relkind": "v"}, {}, "a view"),
        ({"owned": False}, {}, "belongs to app"),
        ({"extra": {"triggers": ("trg",)}}, {}, "DROP TRIGGER trg ON public.t;"),
        ({"extra": {"parent": "public.p"}}, {}, "partition of public.p"),
        ({"extra": {"multi_level": True}}, {}, "partitioned again"),
        ({"extra": {"inherits": True}}, {}, "inheritance"),
        ({}, {"column": "nope"}, "no column 'nope'"),
        ({"columns": "id K"}, {"column": '"k"'}, "without quotes: 'K'"),
        ({}, {"shard_count": 0}, "between 1 and 64000"),
        ({}, {"colocate_with": "absent"}, "no table absent"),
        ({}, {"colocate_with": "t"}, "the table itself"),
        ({"extra": {"replica_identity": False}}, {"concurrently": True}, "REPLICA IDENTITY FULL"),
    ],
)
def test_finding(options: dict[str, Any], entry: dict[str, Any], words: str) -> None:
    world = World()
    world.table("t", **options)
    assert words in findings(world.plan(want("t", **entry)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"wal_level": "replica"}, "wal_level logical"),
        ({"output_plugin_libraries": "pgoutput"}, "ALTER SYSTEM SET output_plugin_libraries = pgoutput, citus;"),
        ({"citus.shard_replication_factor": "2"}, "shard_replication_factor 1"),
    ],
)
def test_concurrently_needs(settings: dict[str, str], words: str) -> None:
    world = World(**settings)
    world.table("t")
    assert words in findings(world.plan(want("t", concurrently=True)))
    assert world.plan(want("t")).findings == ()


@pytest.mark.parametrize(
    ("free", "force", "fits"), [(None, False, False), (None, True, True), (16383, False, False), (16384, False, True)]
)
def test_undistribute_only_what_fits(free: int | None, force: bool, fits: bool) -> None:
    """Twice the size: the rows and their WAL."""
    world = World()
    world.table("t", "distributed", column="k", colocation_id=1, shard_count=32)
    world.more["free_bytes"] = free
    found = world.plan(want("t", "undistributed", force=force))
    assert (found.findings == ()) is fits


def test_the_force_of_another_table_is_asked_of_nobody() -> None:
    world = World()
    world.table("t", "distributed", column="k", colocation_id=1, shard_count=32)
    world.table("new")
    world.more["free_bytes"] = 0
    assert world.plan(want("t", "undistributed", force=True), want("new")).findings == ()
    assert world.plan(want("t", "undistributed"), want("new", force=True)).findings


def test_all_findings_at_once() -> None:
    world = World()
    world.table("t", key="id", owned=False, extra={"triggers": ("x",)})
    found = world.plan(want("t"), want("absent"), want("nowhere", "schema"))
    assert len(found.findings) == 5
    with pytest.raises(Refused) as caught:
        run.refuse(found, "db")
    assert "5 things stand in the way; nothing was changed" in str(caught.value)
    assert len(caught.value.details["findings"]) == 5


@pytest.mark.parametrize(
    ("distinct", "top", "rows", "sampled", "words"),
    [
        (None, None, 1000, None, None),
        (None, None, 1000, 3, "about 3 different values"),
        (None, None, 20, 3, None),
        (3.0, 0.3, 1000, None, "29 shards stay empty"),
        (-1.0, None, 1000, None, None),
        (-0.5, 0.3, 1000, None, "30% of the rows"),
        (500.0, 0.01, 1000, None, None),
    ],
)
def test_skew(distinct: float | None, top: float | None, rows: int, sampled: int | None, words: str | None) -> None:
    column = Column("k", 1, "bigint", BIGINT, 0, True, False, False, False, True, False, False, distinct, 0.0, top)
    warning = skew(column, "public.t", 32, rows, sampled)
    assert warning is None if words is None else words in (warning or "")


# ---- options ----------------------------------------------------------------------------------------


def options(**given: Any) -> dict[str, Any]:
    validated = ArgumentSpecValidator(run.argument_spec()).validate(given)
    assert not validated.error_messages, validated.error_messages
    return dict(validated.validated_parameters)


def test_entries_inherit_the_options_of_the_task() -> None:
    first, second, third = run.desired_from(
        options(column="k", shard_count=4, cascade=True, tables=[
            {"name": "a"}, {"name": "b", "column": "x", "cascade": False}, {"name": "c", "state": "reference"},
        ])
    )  # fmt: skip
    assert (first.column, first.shard_count, first.cascade) == ("k", 4, True)
    assert (second.column, second.shard_count, second.cascade) == ("x", 4, False)
    assert (third.column, third.shard_count, third.cascade) == (None, None, True)


def test_every_wrong_entry_is_named_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        run.desired_from(
            options(tables=[{"name": "a b", "column": "k"}, {"name": "x"}, {"name": "a"}, {"name": "A", "column": "k"}])
        )
    for words in ("tables[0].name", "tables[1].name", "needs a column"):
        assert words in str(caught.value)
    with pytest.raises(InvalidInput, match="twice"):
        run.desired_from(options(column="k", tables=[{"name": "a"}, {"name": "A"}]))
    with pytest.raises(InvalidInput, match="column, concurrently mean nothing for state reference"):
        run.desired_from(options(name="a", state="reference", column="k", concurrently=True))
    with pytest.raises(InvalidInput, match="a schema has no state"):
        run.desired_from(options(name="s", kind="schema", state="reference"))


def test_documentation_agrees_with_the_argument_spec() -> None:
    documented = yaml.safe_load(citus_distribute.DOCUMENTATION)["options"]
    spec = run.argument_spec()
    assert documented.keys() == spec.keys()
    for name, option in spec.items():
        for key in ("type", "default", "choices", "required", "elements"):
            assert documented[name].get(key) == option.get(key), (name, key)
    inner = spec["tables"]["options"]
    assert documented["tables"]["suboptions"].keys() == inner.keys()
    for name, option in inner.items():
        for key in ("type", "choices", "required"):
            assert documented["tables"]["suboptions"][name].get(key) == option.get(key), (name, key)


def test_examples_are_valid_tasks() -> None:
    for task in yaml.safe_load(citus_distribute.EXAMPLES):
        given = dict(task["citus_ha.cluster.citus_distribute"])
        given.pop("login_db")
        if "{{" in given.get("name", ""):
            given["name"] = "tenant_a"
        assert run.desired_from(options(**given))


# ---- versions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version"),
    [("14.0-1", (14, 0)), ("Citus 12.1.5 on x86", (12, 1)), ("13", (13, 0)), ("stand-in", (0, 0)), ("", (0, 0))],
)
def test_version(text: str, version: tuple[int, int]) -> None:
    assert _versions.parse_version(text) == version


def test_every_option_that_is_too_new_is_named_with_both_versions() -> None:
    used = ["state=schema", "concurrently", "state=local"]
    assert _versions.too_old("citus_distribute", used, (14, 0), 170000) == []
    found = _versions.too_old("citus_distribute", used, (11, 0), 140000)
    assert found == [
        "The option state=schema needs Citus 12.0; this server has 11.0.",
        "The option concurrently needs Citus 11.1; this server has 11.0.",
    ]
    with pytest.raises(InvalidInput, match="needs PostgreSQL 14; this server has 13"):
        _versions.require("citus_distribute", [], (14, 0), 130000)


# ---- batches and failures ---------------------------------------------------------------------------


def action(name: str, **options: Any) -> Action:
    return Action(name, "create", "", "", (Statement("SELECT f(%s)", values=(name,)),), "", **options)


@pytest.mark.parametrize(
    ("actions", "grouped"),
    [
        ([], []),
        ([action("a"), action("b")], [["a", "b"]]),
        ([action("a"), action("b", transactional=False), action("c", transactional=False)], [["a"], ["b"], ["c"]]),
        ([action("a", transactional=False), action("b"), action("c")], [["a"], ["b", "c"]]),
        ([action("a", locks=3000), action("b", locks=3000), action("c", locks=100)], [["a"], ["b", "c"]]),
        ([action("a", locks=99999)], [["a"]]),
        ([action("a", locks=3000, joined=True), action("b", locks=3000)], [["a", "b"]]),
    ],
)
def test_batches(actions: list[Action], grouped: list[list[str]]) -> None:
    """The lock table has room for 64 * 100; half of it is used."""
    assert [[item.object for item in batch] for batch in run.batches(actions, server())] == grouped


class FakeSession:
    """Takes statements, and fails at the one that names ``breaks``."""

    where = "db"

    def __init__(self, breaks: str, error: Exception) -> None:
        self.breaks = breaks
        self.error = error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        yield

    def query(self, statement: Any, values: Any = None) -> list[dict[str, Any]]:
        return []

    def execute(self, statement: Any, values: Any = None) -> None:
        if values == (self.breaks,):
            raise self.error


REJECTED = ServerError("db rejected: SELECT f(%s)", sqlstate="XX000", server_message="no such thing")
CUT = ConnectionFailed("The connection to db broke", "Run the task again: it looks at what is already done.")


@pytest.mark.parametrize(
    ("breaks", "error", "transactional", "words"),
    [
        (
            "b",
            REJECTED,
            True,
            "db rejected: SELECT f('b'); The server said: no such thing Its transaction was rolled back.",
        ),
        ("b", REJECTED, False, "may be left as a local table"),
        ("b", CUT, True, "unless the connection broke during its COMMIT"),
        ("b", CUT, True, "Run the task again"),
    ],
)
def test_failure_says_what_is_finished(breaks: str, error: CitusHaError, transactional: bool, words: str) -> None:
    grouped = [[action("a")], [action("b", transactional=transactional)], [action("c")]]
    with pytest.raises(type(error)) as caught:
        run.apply(FakeSession(breaks, error), grouped)  # type: ignore[arg-type]
    message = str(caught.value)
    assert words in message
    assert "Finished before: a. Not done: b, c." in message
    assert caught.value.details["finished"] == ["a"]
    assert caught.value.details["not_done"] == ["b", "c"]
    assert caught.value.details["queries"] == ["SELECT f('a');"]


def test_diff_reads_like_a_plan() -> None:
    world = World()
    table = world.table("t", "distributed", column="k", colocation_id=1, shard_count=32, extra={"bytes": 3 * 1024**3})
    world.more["rows"] = {table.oid: 7000}
    found = world.plan(want("t", column="id", allow_redistribute=True))
    assert run.diff(found.actions) == {
        "before_header": "tables as they are",
        "after_header": "tables as planned",
        "before": "public.t: distributed by k, 32 shards\n",
        "after": "public.t: distributed by id, 32 shards\n"
        "    SELECT alter_distributed_table('public.t', distribution_column => 'id');\n"
        "    copies 7000 rows, 3.0 GB; blocks writes to the table while its rows are copied (EXCLUSIVE);"
        " reading goes on until the end\n",
    }


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 kB"), (24576, "24 kB"), (5 * 1024**4, "5.0 TB")],
)
def test_bytes(size: int, text: str) -> None:
    assert format_bytes(size) == text


# ---- the lock ---------------------------------------------------------------------------------------


class LockSession:
    """Answers as a server where the lock becomes free after some tries."""

    where = "db"
    closed = False

    def __init__(self, free_after: int) -> None:
        self.tries = 0
        self.free_after = free_after
        self.unlocked = 0

    def query(self, statement: Any, values: Any = None) -> list[dict[str, Any]]:
        self.tries += 1
        return [{"held": self.tries > self.free_after, "holder": "process 7 of role app"}]

    def value(self, statement: Any, values: Any = None) -> Any:
        self.unlocked += 1


def test_lock_waits_and_lets_go() -> None:
    session = LockSession(2)
    with _lock.exclusive(session, 60, clock=lambda: 0.0, sleep=lambda seconds: None):  # type: ignore[arg-type]
        assert session.unlocked == 0
    assert (session.tries, session.unlocked) == (3, 1)
    with pytest.raises(RuntimeError), _lock.exclusive(session, 0):  # type: ignore[arg-type]
        raise RuntimeError
    assert session.unlocked == 2


def test_lock_says_who_holds_it() -> None:
    session = LockSession(99)
    with pytest.raises(TimedOut) as caught, _lock.exclusive(session, 0):  # type: ignore[arg-type]
        pass
    assert "the lock is held by process 7 of role app" in str(caught.value)
    assert "wait_for_other_run" in str(caught.value)
    assert session.unlocked == 0
