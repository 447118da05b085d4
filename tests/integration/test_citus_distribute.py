# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""citus_distribute against real servers: check, apply, again, again with check, compared with the catalogs by SQL."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.citus_ha.cluster.plugins.module_utils._lock import CLUSTER_METADATA, LOCK_CLASS
from citus_cluster import Cluster, citus_cluster
from hostile import HOSTILE, answered, hundred
from hypothesis import given
from hypothesis import strategies as st

COLLECTIONS = Path(__file__).resolve().parents[2] / ".collections"

MODULE = "citus_distribute"

# What PostgreSQL 17.11 and later let be an output plugin; older servers have no such setting.
SETTINGS = {"max_locks_per_transaction": "256", "citus.shard_count": "8"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with citus_cluster(settings=SETTINGS) as running:
        if running.sql("SELECT 1 FROM pg_settings WHERE name = 'output_plugin_libraries'") and not running.is_standin:
            for name in running.servers:
                running.sql("ALTER SYSTEM SET output_plugin_libraries = pgoutput, citus", server=name)
                running.sql("SELECT pg_reload_conf()", server=name)
        for role in ("app", "guest"):
            running.sql(f"CREATE ROLE {role} LOGIN")
        running.sql("GRANT CREATE ON SCHEMA public TO app")
        yield running


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> None:
    """Every test starts with an empty schema public and no other schema of its own."""
    if "cluster" not in request.fixturenames:
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    cluster.sql("DROP SCHEMA IF EXISTS s CASCADE")
    cluster.sql("DROP SCHEMA IF EXISTS tenant CASCADE")
    for schema, table in cluster.sql(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition"
        " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')"
    ):
        kind = cluster.sql("SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", [f'{schema}."{q(table)}"'])
        if kind:
            word = {"v": "VIEW", "m": "MATERIALIZED VIEW", "f": "FOREIGN TABLE"}.get(kind[0][0], "TABLE")
            cluster.sql(f'DROP {word} {schema}."{q(table)}" CASCADE')
    cluster.sql("CREATE SCHEMA s")
    cluster.sql("GRANT ALL ON SCHEMA s TO app")
    cluster.sql("GRANT USAGE ON SCHEMA s TO guest")


def q(identifier: str) -> str:
    """Ready to stand between double quotes."""
    return identifier.replace('"', '""').replace("%", "%%")


def real_only(cluster: Cluster, what: str) -> None:
    """Leave out what the stand-in cannot do, and say so."""
    if cluster.is_standin:
        reason = f"the stand-in has no {what}; proven on real Citus"
        print(f"Left out: {reason}")
        pytest.skip(reason)


def kinds(cluster: Cluster) -> dict[str, tuple[str, str | None, int | None]]:
    """Table -> (state, distribution column, shards) as the catalogs have it."""
    rows = cluster.sql(
        "SELECT logicalrelid::regclass::text, partmethod::text, repmodel::text, colocationid,"
        " column_to_column_name(logicalrelid, partkey),"
        " (SELECT count(*) FROM pg_dist_shard s WHERE s.logicalrelid = p.logicalrelid) FROM pg_dist_partition p"
    )
    found = {}
    for name, method, model, group, column, shards in rows:
        if method == "h":
            found[name] = ("distributed", column, shards)
        elif model == "t":
            found[name] = ("reference", None, None)
        else:
            found[name] = ("local" if not group else "single", None, None)
    return found


def groups(cluster: Cluster, *names: str) -> list[int]:
    """Colocation groups of the tables."""
    return [
        cluster.sql("SELECT colocationid FROM pg_dist_partition WHERE logicalrelid = %s::regclass", [name])[0][0]
        for name in names
    ]


# ---- every state and option, four times -------------------------------------------------------------


def test_example_of_the_readme(cluster: Cluster) -> None:
    """The naive key is refused with the statement that mends it; that statement, and extend_keys, do."""
    cluster.sql("CREATE TABLE events (id serial PRIMARY KEY, user_id integer NOT NULL, kind text)")
    cluster.sql("INSERT INTO events (user_id, kind) SELECT i % 3, 'x' FROM generate_series(1, 6) i")
    result = cluster.call(MODULE, name="events", column="user_id")
    assert result["failed"]
    assert "primary key events_pkey (id) does not include the distribution column user_id" in result["msg"]
    (statement,) = result["findings"][0]["statements"]
    assert statement == (
        "ALTER TABLE public.events DROP CONSTRAINT events_pkey, ADD CONSTRAINT events_pkey PRIMARY KEY (id, user_id);"
    )
    predicted, applied = cluster.four_times(MODULE, name="events", column="user_id", extend_keys=True)
    assert predicted["diff"] == applied["diff"]
    assert applied["queries"] == [statement, "SELECT create_distributed_table('public.events', 'user_id');"]
    assert applied["transactions"] == 1
    assert kinds(cluster) == {"events": ("distributed", "user_id", 8)}
    assert cluster.sql("SELECT count(*) FROM events") == [(6,)]
    (row,) = applied["tables"]
    assert row["name"] == "public.events"
    assert (row["state"], row["column"], row["shard_count"]) == ("distributed", "user_id", 8)
    assert {**predicted["tables"][0], "colocation_id": None} == {**row, "colocation_id": None}


def test_mending_statement_of_the_message_works(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.t (a int PRIMARY KEY, b int NOT NULL, c text UNIQUE, EXCLUDE USING btree (c WITH =))")
    cluster.sql("CREATE UNIQUE INDEX t_low ON s.t (lower(c)) WHERE a > 3")
    result = cluster.call(MODULE, name="s.t", column="b", check=True)
    assert len(result["findings"]) == 4
    for finding in result["findings"]:
        for statement in finding["statements"]:
            cluster.sql(statement.replace("%", "%%"))
    cluster.four_times(MODULE, name="s.t", column="b")


def test_extend_keys_keeps_what_the_keys_were(cluster: Cluster) -> None:
    real_only(cluster, "keys on the table itself once it is distributed (they are on the shards)")
    cluster.sql(
        "CREATE TABLE s.t (a int, b int NOT NULL, c text, d int,"
        " CONSTRAINT pk PRIMARY KEY (a) INCLUDE (d),"
        " CONSTRAINT u UNIQUE NULLS NOT DISTINCT (c, d) DEFERRABLE INITIALLY DEFERRED)"
    )
    cluster.sql("CREATE UNIQUE INDEX ix ON s.t USING btree (lower(c || ')') DESC NULLS LAST) WHERE c <> '('")
    cluster.sql("ALTER TABLE s.t REPLICA IDENTITY USING INDEX pk")
    cluster.four_times(MODULE, name="s.t", column="b", extend_keys=True)
    definitions = dict(
        cluster.sql("SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 's.t'::regclass")
    )
    assert definitions["pk"] == "PRIMARY KEY (a, b) INCLUDE (d)"
    assert definitions["u"] == "UNIQUE NULLS NOT DISTINCT (c, d, b) DEFERRABLE INITIALLY DEFERRED"
    (index,) = cluster.sql("SELECT pg_get_indexdef('s.ix'::regclass)")
    assert "(lower((c || ')'::text)) DESC NULLS LAST, b) WHERE" in index[0]
    assert cluster.sql("SELECT relreplident FROM pg_class WHERE oid = 's.t'::regclass") == [("i",)]


def test_reference(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.countries (code text PRIMARY KEY)")
    cluster.four_times(MODULE, name="s.countries", state="reference")
    assert kinds(cluster) == {"s.countries": ("reference", None, None)}


def test_local_and_adopting_what_citus_added_itself(cluster: Cluster) -> None:
    real_only(cluster, "local tables that Citus adds itself")
    cluster.sql("CREATE TABLE s.r (id int PRIMARY KEY)")
    cluster.sql("CREATE TABLE s.l (id int PRIMARY KEY, r int REFERENCES s.r)")
    cluster.ok(MODULE, name="s.r", state="reference")
    assert kinds(cluster)["s.l"][0] == "local"
    # Citus added it because of the foreign key: as a plain table it is as it should be.
    assert cluster.ok(MODULE, name="s.l", state="undistributed")["changed"] is False
    cluster.four_times(MODULE, name="s.l", state="local")
    assert cluster.sql("SELECT autoconverted FROM pg_dist_partition WHERE logicalrelid = 's.l'::regclass") == [(False,)]


def test_local(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.l (id int PRIMARY KEY)")
    cluster.four_times(MODULE, name="s.l", state="local")
    assert kinds(cluster) == {"s.l": ("local", None, None)}
    cluster.four_times(MODULE, name="s.l", state="undistributed")
    assert kinds(cluster) == {}
    cluster.four_times(MODULE, name="s.l", state="local")
    cluster.four_times(MODULE, name="s.l", column="id")
    assert kinds(cluster) == {"s.l": ("distributed", "id", 8)}


def test_shard_count_and_colocation(cluster: Cluster) -> None:
    for name in ("a", "b", "c"):
        cluster.sql(f"CREATE TABLE s.{name} (id bigint PRIMARY KEY)")
    cluster.four_times(MODULE, name="s.a", column="id", shard_count=4, colocate_with="none")
    assert kinds(cluster)["s.a"] == ("distributed", "id", 4)
    cluster.four_times(MODULE, name="s.b", column="id", colocate_with="s.a")
    assert kinds(cluster)["s.b"] == ("distributed", "id", 4)
    cluster.four_times(MODULE, name="s.c", column="id", colocate_with="none", shard_count=4)
    a, b, c = groups(cluster, "s.a", "s.b", "s.c")
    assert a == b != c


def test_a_table_called_none(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.a (id bigint PRIMARY KEY); CREATE TABLE s.none (id bigint PRIMARY KEY)")
    cluster.ok(MODULE, name="s.none", column="id", shard_count=4, colocate_with="none")
    cluster.ok(MODULE, name="s.a", column="id", colocate_with="s.none")
    first, second = groups(cluster, "s.a", "s.none")
    assert first == second


def test_undistribute(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.t (id bigint PRIMARY KEY, v text)")
    cluster.sql("INSERT INTO s.t SELECT i, 'x' FROM generate_series(1, 1000) i")
    cluster.ok(MODULE, name="s.t", column="id")
    force = cluster.is_standin  # it does not tell how much disk is free
    predicted, _applied = cluster.four_times(MODULE, name="s.t", state="undistributed", force=force)
    assert predicted["plan"][0]["rows"] == 1000
    assert predicted["plan"][0]["bytes"] > 0
    assert "1000 rows" in predicted["diff"]["after"]
    assert kinds(cluster) == {}
    assert cluster.sql("SELECT count(*) FROM s.t") == [(1000,)]


def test_undistribute_only_what_fits(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.citus_ha.cluster.plugins.module_utils import _citus_catalog_details

    cluster.sql("CREATE TABLE s.t (id bigint PRIMARY KEY, v text)")
    cluster.sql("INSERT INTO s.t SELECT i, 'x' FROM generate_series(1, 100) i")
    cluster.ok(MODULE, name="s.t", column="id")
    for free, words in (("SELECT 1000::bigint", "1000 bytes are free"), ("SELECT NULL::bigint", "does not tell")):
        monkeypatch.setattr(_citus_catalog_details, "_FREE", free)
        message = cluster.refused(MODULE, name="s.t", state="undistributed")
        assert "force: true" in message
        if not cluster.is_standin:
            assert words in message
        assert kinds(cluster) == {"s.t": ("distributed", "id", 8)}
    cluster.four_times(MODULE, name="s.t", state="undistributed", force=True)


def test_changing_the_column(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.t (a int, b int, PRIMARY KEY (a, b))")
    cluster.sql("INSERT INTO s.t SELECT i, i FROM generate_series(1, 500) i")
    cluster.ok(MODULE, name="s.t", column="a")
    result = cluster.call(MODULE, name="s.t", column="b")
    assert "allow_redistribute: true" in result["msg"]
    assert "500 rows" in result["msg"]
    assert "blocks writes" in result["msg"]
    assert result["plan"][0]["action"] == "alter"
    cluster.four_times(MODULE, name="s.t", column="b", allow_redistribute=True)
    assert kinds(cluster) == {"s.t": ("distributed", "b", 8)}
    assert cluster.sql("SELECT count(*) FROM s.t") == [(500,)]


def test_changing_the_shard_count_of_a_group(cluster: Cluster) -> None:
    real_only(cluster, "alter_distributed_table() of tables with foreign keys")
    for name in ("a", "b"):
        cluster.sql(f"CREATE TABLE s.{name} (id bigint PRIMARY KEY)")
    cluster.sql("ALTER TABLE s.b ADD FOREIGN KEY (id) REFERENCES s.a")
    cluster.ok(MODULE, tables=[{"name": "s.b", "column": "id"}, {"name": "s.a", "column": "id"}])
    message = cluster.refused(MODULE, name="s.b", column="id", shard_count=4, allow_redistribute=True)
    assert "drop the foreign keys" in message
    assert "ADD CONSTRAINT b_id_fkey FOREIGN KEY (id) REFERENCES s.a(id);" in message
    predicted, _applied = cluster.four_times(
        MODULE,
        tables=[{"name": "s.b"}, {"name": "s.a"}],
        column="id",
        shard_count=4,
        allow_redistribute=True,
        cascade=True,
    )
    assert len(predicted["plan"]) == 1, "one statement changes the whole group"
    assert kinds(cluster) == {"s.a": ("distributed", "id", 4), "s.b": ("distributed", "id", 4)}
    assert cluster.sql("SELECT conname FROM pg_constraint WHERE conrelid = 's.b'::regclass AND contype = 'f'")


def test_changing_the_shard_count_alone(cluster: Cluster) -> None:
    for name in ("a", "b"):
        cluster.sql(f"CREATE TABLE s.{name} (id bigint PRIMARY KEY)")
    cluster.ok(MODULE, tables=[{"name": "s.a"}, {"name": "s.b"}], column="id")
    cluster.four_times(MODULE, name="s.b", column="id", shard_count=4, allow_redistribute=True)
    assert kinds(cluster) == {"s.a": ("distributed", "id", 8), "s.b": ("distributed", "id", 4)}


def test_changing_the_colocation(cluster: Cluster) -> None:
    for name in ("a", "b"):
        cluster.sql(f"CREATE TABLE s.{name} (id bigint PRIMARY KEY)")
        cluster.ok(MODULE, name=f"s.{name}", column="id", shard_count=4, colocate_with="none")
    assert "allow_redistribute" in cluster.refused(MODULE, name="s.b", column="id", colocate_with="s.a")
    cluster.four_times(MODULE, name="s.b", column="id", colocate_with="s.a", allow_redistribute=True)
    first, second = groups(cluster, "s.a", "s.b")
    assert first == second


def test_changing_the_kind(cluster: Cluster) -> None:
    real_only(cluster, "reference tables made from what was distributed in one transaction")
    cluster.sql("CREATE TABLE s.t (id bigint PRIMARY KEY)")
    cluster.sql("INSERT INTO s.t SELECT generate_series(1, 100)")
    force = cluster.is_standin
    cluster.ok(MODULE, name="s.t", column="id")
    assert "allow_redistribute" in cluster.refused(MODULE, name="s.t", state="reference", force=force)
    for options in ({"state": "reference"}, {"state": "local"}, {"state": "reference"}, {"column": "id"}):
        cluster.four_times(MODULE, name="s.t", allow_redistribute=True, force=force, **options)
        assert cluster.sql("SELECT count(*) FROM s.t") == [(100,)]
    assert kinds(cluster) == {"s.t": ("distributed", "id", 8)}


def test_schema(cluster: Cluster) -> None:
    real_only(cluster, "schema-based sharding")
    cluster.sql("CREATE SCHEMA tenant")
    cluster.sql("CREATE TABLE tenant.a (id int PRIMARY KEY); CREATE TABLE tenant.b (id int REFERENCES tenant.a)")
    cluster.four_times(MODULE, name="tenant", state="schema")
    assert cluster.sql("SELECT count(*) FROM pg_dist_schema") == [(1,)]
    message = cluster.refused(MODULE, name="tenant.a", column="id", allow_redistribute=True)
    assert "distributed schema tenant" in message
    cluster.four_times(MODULE, name="tenant", kind="schema", state="undistributed")
    assert cluster.sql("SELECT count(*) FROM pg_dist_schema") == [(0,)]
    assert "public" in cluster.refused(MODULE, name="public", state="schema")
    assert "no such schema" in cluster.refused(MODULE, name="nowhere", state="schema")


def test_concurrently(cluster: Cluster) -> None:
    real_only(cluster, "create_distributed_table_concurrently")
    cluster.sql("CREATE TABLE s.t (id bigint PRIMARY KEY)")
    cluster.sql("INSERT INTO s.t SELECT generate_series(1, 1000)")
    _predicted, applied = cluster.four_times(MODULE, name="s.t", column="id", concurrently=True)
    assert "create_distributed_table_concurrently" in applied["queries"][0]
    assert kinds(cluster) == {"s.t": ("distributed", "id", 8)}
    assert cluster.sql("SELECT count(*) FROM s.t") == [(1000,)]


def test_concurrently_needs_a_replica_identity(cluster: Cluster) -> None:
    real_only(cluster, "create_distributed_table_concurrently")
    cluster.sql("CREATE TABLE s.t (id bigint)")
    result = cluster.call(MODULE, name="s.t", column="id", concurrently=True)
    assert result["findings"][0]["statements"] == ["ALTER TABLE s.t REPLICA IDENTITY FULL;"]
    cluster.four_times(MODULE, name="s.t", column="id", concurrently=True, force=True)


def test_interrupted_concurrently_is_resumed(cluster: Cluster) -> None:
    """A plain table and one that an interrupted run left as a local table are both finished by the next run."""
    real_only(cluster, "create_distributed_table_concurrently")
    cluster.sql("CREATE TABLE s.a (id int PRIMARY KEY); CREATE TABLE s.b (id int PRIMARY KEY)")
    cluster.sql("SELECT citus_add_local_table_to_metadata('s.a')")
    _predicted, applied = cluster.four_times(
        MODULE, tables=[{"name": "s.a"}, {"name": "s.b"}], column="id", concurrently=True
    )
    assert applied["transactions"] == 2
    assert {state for state, _column, _shards in kinds(cluster).values()} == {"distributed"}


# ---- lists, foreign keys, order ---------------------------------------------------------------------


def shop(cluster: Cluster) -> None:
    cluster.sql(
        "CREATE TABLE s.countries (code text PRIMARY KEY);"
        "CREATE TABLE s.customers (id bigint PRIMARY KEY, country text REFERENCES s.countries);"
        "CREATE TABLE s.orders (id bigint, customer_id bigint REFERENCES s.customers, PRIMARY KEY (customer_id, id));"
        "CREATE TABLE s.items (customer_id bigint, order_id bigint, n int, PRIMARY KEY (customer_id, order_id, n),"
        " FOREIGN KEY (customer_id, order_id) REFERENCES s.orders (customer_id, id))"
    )


def foreign_keys(cluster: Cluster) -> list[str]:
    """The foreign keys of the test's schema, as the server writes them."""
    return [
        row[0]
        for row in cluster.sql(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f' AND conparentid = 0"
            " AND connamespace = 's'::regnamespace AND conrelid::regclass::text !~ '_[0-9]+$' ORDER BY 1"
        )
    ]


SHOP = [
    {"name": "s.items", "column": "customer_id"},
    {"name": "s.orders", "column": "customer_id", "colocate_with": "s.customers"},
    {"name": "s.customers", "column": "id"},
    {"name": "s.countries", "state": "reference"},
]


def test_list_is_ordered_by_its_foreign_keys(cluster: Cluster) -> None:
    real_only(cluster, "foreign keys added between distributed tables")
    shop(cluster)
    before = foreign_keys(cluster)
    predicted, applied = cluster.four_times(MODULE, tables=SHOP)
    created = [row["name"] for row in predicted["plan"] if row["action"] == "create"]
    assert created.index("s.countries") == 0
    assert created.index("s.customers") < created.index("s.orders"), "colocate_with says so"
    assert [row["name"] for row in applied["tables"]] == [entry["name"] for entry in SHOP]
    assert applied["transactions"] == 1
    assert len(set(groups(cluster, "s.customers", "s.orders", "s.items"))) == 1
    assert foreign_keys(cluster) == before
    _predicted, back = cluster.four_times(
        MODULE, tables=[{"name": entry["name"]} for entry in SHOP], state="undistributed", force=cluster.is_standin
    )
    assert kinds(cluster) == {}
    if not cluster.is_standin:
        assert len(back["queries"]) == 1, "all of them are named, so one cascading statement does it"


def test_foreign_key_to_a_table_that_is_not_in_the_list(cluster: Cluster) -> None:
    shop(cluster)
    result = cluster.call(MODULE, tables=SHOP[:3], check=True)
    assert len(result["findings"]) == 1
    assert "countries" in result["msg"]
    assert "state: reference" in result["msg"]
    assert "ALTER TABLE s.customers DROP CONSTRAINT customers_country_fkey;" in result["msg"]


def test_circle_of_foreign_keys(cluster: Cluster) -> None:
    """Neither can be first: one foreign key is lifted and put back in the same transaction."""
    real_only(cluster, "foreign keys added between distributed tables")
    cluster.sql("CREATE TABLE s.a (id int PRIMARY KEY); CREATE TABLE s.b (id int PRIMARY KEY REFERENCES s.a)")
    cluster.sql("ALTER TABLE s.a ADD CONSTRAINT back FOREIGN KEY (id) REFERENCES s.b NOT VALID")
    predicted, _applied = cluster.four_times(MODULE, tables=[{"name": "s.a"}, {"name": "s.b"}], column="id")
    assert [row["action"] for row in predicted["plan"]] == ["unlink", "create", "create", "link"]
    assert foreign_keys(cluster) == [
        "FOREIGN KEY (id) REFERENCES s.a(id)",
        "FOREIGN KEY (id) REFERENCES s.b(id) NOT VALID",
    ]


def test_tables_that_became_local_because_of_a_reference_table(cluster: Cluster) -> None:
    """What naive statements cannot do in any order: Citus made all of them local tables because of one reference."""
    real_only(cluster, "local tables that Citus adds itself")
    shop(cluster)
    before = foreign_keys(cluster)
    cluster.ok(MODULE, name="s.countries", state="reference")
    cluster.four_times(MODULE, tables=SHOP)
    assert foreign_keys(cluster) == before
    assert len(set(groups(cluster, "s.customers", "s.orders", "s.items"))) == 1


def test_colocation_in_a_circle(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.a (id int PRIMARY KEY); CREATE TABLE s.b (id int PRIMARY KEY)")
    tables = [{"name": "s.a", "colocate_with": "s.b"}, {"name": "s.b", "colocate_with": "s.a"}]
    assert "circle" in cluster.refused(MODULE, tables=tables, column="id")


def test_undistributing_one_of_several_connected_tables(cluster: Cluster) -> None:
    real_only(cluster, "cascading undistribute_table()")
    shop(cluster)
    cluster.ok(MODULE, tables=SHOP)
    message = cluster.refused(MODULE, name="s.orders", state="undistributed")
    assert "cascade: true" in message
    assert "s.customers" in message
    predicted, _applied = cluster.four_times(MODULE, name="s.orders", state="undistributed", cascade=True)
    assert predicted["plan"][0]["also_changes"] == ["s.countries", "s.customers", "s.items"]
    assert kinds(cluster) == {}


def test_all_findings_at_once(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.a (id int PRIMARY KEY, k int, UNIQUE (k))")
    cluster.sql("CREATE TABLE s.b (id text PRIMARY KEY, j json)")
    cluster.sql("CREATE VIEW s.v AS SELECT 1 AS id")
    result = cluster.call(
        MODULE,
        tables=[
            {"name": "s.a", "column": "id"},
            {"name": "s.b", "column": "id", "colocate_with": "s.a"},
            {"name": "s.v", "column": "id"},
            {"name": "s.missing", "column": "id"},
            {"name": '"S".b', "column": "id"},
        ],
    )
    about = [finding["name"] for finding in result["findings"]]
    assert sorted(about) == ['"S".b', "s.a", "s.b", "s.missing", "s.v"]
    assert "5 things stand in the way; nothing was changed" in result["msg"]
    assert kinds(cluster) == {}


def test_all_or_nothing(cluster: Cluster) -> None:
    """A failure that no preflight sees (a row that breaks in flight) rolls the whole list back."""
    cluster.sql("CREATE TABLE s.a (id int PRIMARY KEY); CREATE TABLE s.b (id int)")
    cluster.sql("INSERT INTO s.b VALUES (1), (1)")
    # A duplicate under a unique index that says it is valid: what a corrupt index looks like.
    cluster.sql("CREATE INDEX b_id ON s.b (id)")
    cluster.sql("ALTER TABLE s.b ADD CHECK (id > 1) NOT VALID")
    result = cluster.call(MODULE, tables=[{"name": "s.a"}, {"name": "s.b"}], column="id")
    if not result.get("failed"):
        pytest.skip("this server copies rows without checking them again")
    assert result["finished"] == []
    assert result["not_done"] == ["s.a", "s.b"]
    assert "rolled back" in result["msg"]
    assert kinds(cluster) == {}


def test_resumable_in_batches(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more tables than the server can hold locks for, a failure leaves the finished batches, and says which."""
    from ansible_collections.citus_ha.cluster.plugins.module_utils import _citus_distribute_run as run

    monkeypatch.setattr(run, "batches", lambda actions, server: [[action] for action in actions])
    cluster.sql("CREATE TABLE s.a (id int PRIMARY KEY); CREATE TABLE s.b (id int); CREATE TABLE s.c (id int)")
    cluster.sql("INSERT INTO s.b VALUES (1)")
    cluster.sql("ALTER TABLE s.b ADD CHECK (id > 1) NOT VALID")
    tables = [{"name": f"s.{name}"} for name in "abc"]
    result = cluster.call(MODULE, tables=tables, column="id")
    if not result.get("failed"):
        pytest.skip("this server copies rows without checking them again")
    assert result["finished"] == ["s.a"]
    assert result["not_done"] == ["s.b", "s.c"]
    assert len(result["queries"]) == 1
    cluster.sql("UPDATE s.b SET id = 2")
    applied = cluster.ok(MODULE, tables=tables, column="id")
    assert [row["name"] for row in applied["plan"]] == ["s.b", "s.c"]


# ---- what Citus says and what the preflight says ----------------------------------------------------

TYPES = (
    "int", "bigint", "smallint", "text", "varchar(10)", "char(3)", "bpchar", "name", "uuid", "timestamptz", "timestamp",
    "date", "time", "timetz", "interval", "bool", "bytea", "oid", "numeric", "numeric(10, 2)", "numeric(3, -2)", "real",
    "float8", "inet", "cidr", "macaddr", "macaddr8", "jsonb", "int[]", "text[]", "int4range", "int4multirange", "xid8",
    "pg_lsn", "json", "xml", "point", "box", "line", "polygon", "money", "bit(3)", "varbit", "tsvector", "tsquery",
    "s.en", "s.dom", "s.comp", 'text COLLATE "C"', "text COLLATE s.loose", "regclass", "xid", "tid", "json[]",
    "refcursor", "jsonpath", "pg_snapshot", '"char"',
)  # fmt: skip


def test_same_verdict_as_citus_on_column_types(cluster: Cluster) -> None:
    real_only(cluster, "verdict of its own on column types")
    cluster.sql("CREATE TYPE s.en AS ENUM ('a')")
    cluster.sql("CREATE DOMAIN s.dom AS text")
    cluster.sql("CREATE TYPE s.comp AS (a int, b text)")
    cluster.sql("CREATE COLLATION s.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    wrong = []
    for number, name in enumerate(TYPES):
        cluster.sql(f"CREATE TABLE s.t{number} (c {name})")
        citus = verdict(cluster, f"SELECT create_distributed_table('s.t{number}', 'c')")
        ours = cluster.call(MODULE, name=f"s.t{number}", column="c", check=True)
        if bool(ours.get("failed")) == (citus is None):
            wrong.append((name, citus, ours.get("msg")))
    assert wrong == []


def verdict(cluster: Cluster, *statements: str) -> str | None:
    """Citus's refusal of the statements, which are rolled back; None when it takes them."""
    connection = cluster.coordinator.connect(dbname="app")
    try:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
            for statement in statements:
                cursor.execute(statement)
            cursor.execute("ROLLBACK")
    except psycopg2.Error as error:
        return str(error).strip().splitlines()[0]
    finally:
        connection.close()
    return None


C = "SELECT create_distributed_table('s.t', 'c')"
R = "SELECT create_reference_table('s.t')"
L = "SELECT citus_add_local_table_to_metadata('s.t')"
P = "CREATE TABLE s.p (id int PRIMARY KEY); "
SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "plain": ("CREATE TABLE s.t (c int)", C, {}),
    "generated": ("CREATE TABLE s.t (a int, c int GENERATED ALWAYS AS (a) STORED)", C, {}),
    "system column": ("CREATE TABLE s.t (a int)", "SELECT create_distributed_table('s.t', 'ctid')", {"column": "ctid"}),
    "no such column": ("CREATE TABLE s.t (a int)", C, {}),
    "dropped column": ("CREATE TABLE s.t (a int, c int); ALTER TABLE s.t DROP c", C, {}),
    "identity": ("CREATE TABLE s.t (c bigint GENERATED ALWAYS AS IDENTITY)", C, {}),
    "identity int": ("CREATE TABLE s.t (c int, i int GENERATED ALWAYS AS IDENTITY)", C, {}),
    "serial": ("CREATE TABLE s.t (c serial)", C, {}),
    "nulls": ("CREATE TABLE s.t (c int); INSERT INTO s.t VALUES (NULL)", C, {}),
    "unlogged": ("CREATE UNLOGGED TABLE s.t (c int)", C, {}),
    "key": ("CREATE TABLE s.t (c int, i int PRIMARY KEY)", C, {}),
    "key with it": ("CREATE TABLE s.t (c int, i int, PRIMARY KEY (i, c))", C, {}),
    "key included only": ("CREATE TABLE s.t (c int, i int, PRIMARY KEY (i) INCLUDE (c))", C, {}),
    "unique": ("CREATE TABLE s.t (c int, i int UNIQUE)", C, {}),
    "unique index": ("CREATE TABLE s.t (c int, i int); CREATE UNIQUE INDEX ON s.t (i)", C, {}),
    "unique expression": ("CREATE TABLE s.t (c int); CREATE UNIQUE INDEX ON s.t (abs(c))", C, {}),
    "unique expression with it": ("CREATE TABLE s.t (c int); CREATE UNIQUE INDEX ON s.t (abs(c), c)", C, {}),
    "exclusion": ("CREATE TABLE s.t (c int, r int4range, EXCLUDE USING gist (r WITH &&))", C, {}),
    "exclusion with it": ("CREATE TABLE s.t (c int, i int, EXCLUDE USING btree (i WITH =, c WITH =))", C, {}),
    "exclusion by range": ("CREATE TABLE s.t (c int4range, EXCLUDE USING gist (c WITH &&))", C, {}),
    "exclusion equal range": ("CREATE TABLE s.t (c int4range, EXCLUDE USING gist (c WITH =))", C, {}),
    "key, reference": ("CREATE TABLE s.t (c int, i int PRIMARY KEY)", R, {"state": "reference"}),
    "partitioned": (
        "CREATE TABLE s.t (c int, d int) PARTITION BY RANGE (d); CREATE TABLE s.t1 PARTITION OF s.t DEFAULT",
        C,
        {},
    ),
    "partitioned twice": (
        "CREATE TABLE s.t (c int, d int) PARTITION BY RANGE (d);"
        "CREATE TABLE s.t1 PARTITION OF s.t DEFAULT PARTITION BY RANGE (c)",
        C,
        {},
    ),
    "partitioned thrice": (
        "CREATE TABLE s.t (c int, d int) PARTITION BY RANGE (d);"
        "CREATE TABLE s.t1 PARTITION OF s.t DEFAULT PARTITION BY RANGE (c);"
        "CREATE TABLE s.t2 PARTITION OF s.t1 DEFAULT",
        C,
        {},
    ),
    "partition's own key": (
        "CREATE TABLE s.t (c int, d int) PARTITION BY RANGE (d); CREATE TABLE s.t1 PARTITION OF s.t DEFAULT;"
        "CREATE UNIQUE INDEX ON s.t1 (d)",
        C,
        {},
    ),
    "partitioned, reference": ("CREATE TABLE s.t (c int) PARTITION BY RANGE (c)", R, {"state": "reference"}),
    "partitioned, local": ("CREATE TABLE s.t (c int) PARTITION BY RANGE (c)", L, {"state": "local"}),
    "partition": ("CREATE TABLE s.x (c int) PARTITION BY RANGE (c); CREATE TABLE s.t PARTITION OF s.x DEFAULT", C, {}),
    "partition, reference": (
        "CREATE TABLE s.x (c int) PARTITION BY RANGE (c); CREATE TABLE s.t PARTITION OF s.x DEFAULT",
        R,
        {"state": "reference"},
    ),
    "partition, local": (
        "CREATE TABLE s.x (c int) PARTITION BY RANGE (c); CREATE TABLE s.t PARTITION OF s.x DEFAULT",
        L,
        {"state": "local"},
    ),
    "inherits": ("CREATE TABLE s.x (c int); CREATE TABLE s.t () INHERITS (s.x)", C, {}),
    "inherited": ("CREATE TABLE s.t (c int); CREATE TABLE s.x () INHERITS (s.t)", C, {}),
    "inherits, local": ("CREATE TABLE s.x (c int); CREATE TABLE s.t () INHERITS (s.x)", L, {"state": "local"}),
    "trigger": (
        "CREATE TABLE s.t (c int); CREATE FUNCTION s.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER g BEFORE INSERT ON s.t FOR EACH ROW EXECUTE FUNCTION s.f()",
        C,
        {},
    ),
    "trigger, reference": (
        "CREATE TABLE s.t (c int); CREATE FUNCTION s.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER g BEFORE INSERT ON s.t FOR EACH ROW EXECUTE FUNCTION s.f()",
        R,
        {"state": "reference"},
    ),
    "trigger, local": (
        "CREATE TABLE s.t (c int); CREATE FUNCTION s.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER g BEFORE INSERT ON s.t FOR EACH ROW EXECUTE FUNCTION s.f()",
        L,
        {"state": "local"},
    ),
    "policy": ("CREATE TABLE s.t (c int); CREATE POLICY p ON s.t USING (c > 0)", C, {}),
    "rule": ("CREATE TABLE s.t (c int); CREATE RULE r AS ON DELETE TO s.t DO INSTEAD NOTHING", C, {}),
    "view": ("CREATE VIEW s.t AS SELECT 1 AS c", C, {}),
    "materialized view": ("CREATE MATERIALIZED VIEW s.t AS SELECT 1 AS c", C, {}),
    "sequence": ("CREATE SEQUENCE s.t", C, {}),
    "view on it": ("CREATE TABLE s.t (c int); CREATE VIEW s.v AS SELECT * FROM s.t", C, {}),
    "to plain": (P + "CREATE TABLE s.t (c int REFERENCES s.p)", C, {}),
    "to reference": (P + "SELECT create_reference_table('s.p'); CREATE TABLE s.t (c int REFERENCES s.p)", C, {}),
    "to distributed": (
        P + "SELECT create_distributed_table('s.p', 'id'); CREATE TABLE s.t (c int REFERENCES s.p)",
        C,
        {},
    ),
    "to distributed by another type": (
        "CREATE TABLE s.p (id bigint PRIMARY KEY); SELECT create_distributed_table('s.p', 'id');"
        "CREATE TABLE s.t (c int REFERENCES s.p)",
        C,
        {},
    ),
    "to distributed, other column": (
        P + "SELECT create_distributed_table('s.p', 'id'); CREATE TABLE s.t (c int, x int REFERENCES s.p)",
        C,
        {},
    ),
    "to distributed, other group": (
        P + "SELECT create_distributed_table('s.p', 'id', shard_count => 4); CREATE TABLE s.t (c int REFERENCES s.p)",
        C,
        {},
    ),
    "set null on the column": (
        P + "SELECT create_reference_table('s.p'); CREATE TABLE s.t (c int REFERENCES s.p ON DELETE SET NULL)",
        C,
        {},
    ),
    "set null on another": (
        P + "SELECT create_reference_table('s.p'); CREATE TABLE s.t (c int, x int REFERENCES s.p ON DELETE SET NULL)",
        C,
        {},
    ),
    "cascade on the column": (
        P + "SELECT create_reference_table('s.p'); CREATE TABLE s.t (c int REFERENCES s.p ON DELETE CASCADE)",
        C,
        {},
    ),
    "update cascade": (
        P + "SELECT create_reference_table('s.p'); CREATE TABLE s.t (c int REFERENCES s.p ON UPDATE CASCADE)",
        C,
        {},
    ),
    "set default of a sequence": (
        P + "CREATE TABLE s.t (c int, x serial REFERENCES s.p ON DELETE SET DEFAULT)",
        R,
        {"state": "reference"},
    ),
    "from plain": ("CREATE TABLE s.t (c int PRIMARY KEY); CREATE TABLE s.p (id int REFERENCES s.t)", C, {}),
    "from plain to reference": (
        "CREATE TABLE s.t (c int PRIMARY KEY); CREATE TABLE s.p (id int REFERENCES s.t)",
        R,
        {"state": "reference"},
    ),
    "from plain to local": (
        "CREATE TABLE s.t (c int PRIMARY KEY); CREATE TABLE s.p (id int REFERENCES s.t)",
        L,
        {"state": "local"},
    ),
    "reference to plain": (P + "CREATE TABLE s.t (c int REFERENCES s.p)", R, {"state": "reference"}),
    "reference to plain, set null": (
        P + "CREATE TABLE s.t (c int REFERENCES s.p ON DELETE SET NULL)",
        R,
        {"state": "reference"},
    ),
    "reference to distributed": (
        P + "SELECT create_distributed_table('s.p', 'id'); CREATE TABLE s.t (c int REFERENCES s.p)",
        R,
        {"state": "reference"},
    ),
    "itself": ("CREATE TABLE s.t (c int PRIMARY KEY, x int REFERENCES s.t)", C, {}),
    "itself by the column": ("CREATE TABLE s.t (c int PRIMARY KEY REFERENCES s.t)", C, {}),
    "itself by more": (
        "CREATE TABLE s.t (c int, i int, p int, PRIMARY KEY (c, i), FOREIGN KEY (c, p) REFERENCES s.t)",
        C,
        {},
    ),
    "itself, reference": ("CREATE TABLE s.t (c int PRIMARY KEY, x int REFERENCES s.t)", R, {"state": "reference"}),
    "itself, local": ("CREATE TABLE s.t (c int PRIMARY KEY, x int REFERENCES s.t)", L, {"state": "local"}),
    "colocated": (
        P + "SELECT create_distributed_table('s.p', 'id', shard_count => 4); CREATE TABLE s.t (c int)",
        "SELECT create_distributed_table('s.t', 'c', colocate_with => 's.p')",
        {"colocate_with": "s.p"},
    ),
    "colocated, another type": (
        P + "SELECT create_distributed_table('s.p', 'id', shard_count => 4); CREATE TABLE s.t (c bigint)",
        "SELECT create_distributed_table('s.t', 'c', colocate_with => 's.p')",
        {"colocate_with": "s.p"},
    ),
    "colocated, another length": (
        "CREATE TABLE s.p (id varchar(5)); SELECT create_distributed_table('s.p', 'id');"
        "CREATE TABLE s.t (c varchar(9))",
        "SELECT create_distributed_table('s.t', 'c', colocate_with => 's.p')",
        {"colocate_with": "s.p"},
    ),
    "colocated, another collation": (
        "CREATE TABLE s.p (id text); SELECT create_distributed_table('s.p', 'id');"
        'CREATE TABLE s.t (c text COLLATE "C")',
        "SELECT create_distributed_table('s.t', 'c', colocate_with => 's.p')",
        {"colocate_with": "s.p"},
    ),
    "colocated with a plain table": (
        P + "CREATE TABLE s.t (c int)",
        "SELECT create_distributed_table('s.t', 'c', colocate_with => 's.p')",
        {"colocate_with": "s.p"},
    ),
    "colocated with a reference table": (
        P + "SELECT create_reference_table('s.p'); CREATE TABLE s.t (c int)",
        "SELECT create_distributed_table('s.t', 'c', colocate_with => 's.p')",
        {"colocate_with": "s.p"},
    ),
    "colocated with nothing": (
        "CREATE TABLE s.t (c int)",
        "SELECT create_distributed_table('s.t', 'c', colocate_with => 's.p')",
        {"colocate_with": "s.p"},
    ),
    "too many shards": (
        "CREATE TABLE s.t (c int)",
        "SELECT create_distributed_table('s.t', 'c', shard_count => 64001)",
        {"shard_count": 64001},
    ),
    "no shards": (
        "CREATE TABLE s.t (c int)",
        "SELECT create_distributed_table('s.t', 'c', shard_count => 0)",
        {"shard_count": 0},
    ),
}  # fmt: skip


# Citus takes this one and leaves a foreign key of a plain table that looks for its rows where they are no more.
STRICTER = {"from plain"}


@pytest.mark.parametrize("shape", SHAPES)
def test_same_verdict_as_citus(cluster: Cluster, shape: str) -> None:
    """The preflight refuses what Citus refuses (and, with a reason, little else), and what it lets pass works."""
    real_only(cluster, "verdict of its own on unsupported tables")
    setup, statement, options = SHAPES[shape]
    for part in setup.split("; ") if "LANGUAGE" not in setup else [setup]:
        cluster.sql(part)
    citus = verdict(cluster, statement)
    options = {"column": "c", **options} if options.get("state", "distributed") == "distributed" else options
    ours = cluster.call(MODULE, name="s.t", check=True, **options)
    if shape in STRICTER:
        assert citus is None
        assert ours["failed"]
        return
    assert bool(ours.get("failed")) == (citus is not None), (citus, ours.get("msg"))
    if citus is None:
        cluster.four_times(MODULE, name="s.t", **options)
    else:
        print(f"Citus: {citus}\nPreflight: {ours['msg']}")


# ---- names and hostile input ------------------------------------------------------------------------

NAMES = (
    "Order Lines",
    'quo"te',
    "quo'te",
    "per%cent",
    "brace{0}",
    "dot.ted",
    "semi;colon -- x",
    "back\\slash",
    "straße_日本",
    "select",
    "none",
    "n" * 63,
    "日" * 21,
    "x" * 60 + "'%\"",
)


@pytest.mark.parametrize("name", NAMES)
def test_names(cluster: Cluster, name: str) -> None:
    """Table, key and column of this name: refused for the key, mended, distributed by it, undistributed."""
    column = name[:-1] + "c" if len(name.encode()) == 63 else name + "c"
    key = "k" + name[1:]
    cluster.sql(f'CREATE TABLE s."{q(name)}" (id int, "{q(column)}" int, CONSTRAINT "{q(key)}" PRIMARY KEY (id))', [])
    written = 's."' + name.replace('"', '""') + '"'
    result = cluster.call(MODULE, name=written, column=column)
    assert result["failed"]
    assert "does not include the distribution column" in result["msg"]
    cluster.four_times(MODULE, name=written, column=column, extend_keys=True)
    ((stored, by),) = cluster.sql(
        "SELECT c.relname, column_to_column_name(c.oid, p.partkey) FROM pg_dist_partition p"
        " JOIN pg_class c ON c.oid = p.logicalrelid WHERE partmethod = 'h'"
    )
    assert (stored, by) == (name, column)
    cluster.four_times(MODULE, name=written, state="undistributed", force=True)


@hundred
@given(name=HOSTILE, column=HOSTILE, colocate=st.none() | HOSTILE, shards=st.none() | st.integers())
def test_hostile_input(cluster: Cluster, name: str, column: str, colocate: str | None, shards: int | None) -> None:
    """Whatever is written: a clear refusal, no traceback, and the server as it was."""
    cluster.sql("CREATE TABLE IF NOT EXISTS s.victim (id int PRIMARY KEY)")
    count = "SELECT count(*) FROM pg_class WHERE relnamespace = 's'::regnamespace"
    before = cluster.sql(count)
    options: dict[str, Any] = {"colocate_with": colocate} if colocate is not None else {}
    if shards is not None:
        options["shard_count"] = shards
    for entry in ({"name": name, "column": column}, {"name": "s.victim", "column": column}):
        result = cluster.call(MODULE, tables=[{**entry, **options}])
        assert not answered(result), result
    assert cluster.sql(count) == before
    assert kinds(cluster) == {}


# ---- who, where, when -------------------------------------------------------------------------------


def test_user_without_rights(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.mine (id int PRIMARY KEY)")
    cluster.sql("GRANT SELECT ON s.mine TO guest")
    result = cluster.call(MODULE, name="s.mine", column="id", login_user="guest")
    assert "belongs to postgres" in result["msg"]
    assert "login_user" in result["msg"]
    assert kinds(cluster) == {}
    cluster.sql("CREATE SCHEMA hidden")
    try:
        message = cluster.refused(MODULE, name="hidden.t", column="id", login_user="guest")
        assert "hidden" in message
    finally:
        cluster.sql("DROP SCHEMA hidden")


def test_application_role_distributes_its_own_table(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.t (id int PRIMARY KEY, k int NOT NULL); ALTER TABLE s.t OWNER TO app")
    cluster.four_times(MODULE, name="s.t", column="k", extend_keys=True, login_user="app")


def test_refuses_a_worker(cluster: Cluster) -> None:
    message = cluster.refused(MODULE, name="s.t", column="id", server="worker1")
    assert "Citus group 1" in message
    assert "The coordinator it knows is coordinator:5432" in message
    assert "login_host" in message


def test_refuses_a_standby(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer of a server in recovery is put in its mouth: that it is one is all that counts."""
    from ansible_collections.citus_ha.cluster.plugins.module_utils import _citus_catalog_server as server

    monkeypatch.setattr(server, "_FACTS", server._FACTS.replace("pg_is_in_recovery()", "true"))
    assert "standby (in recovery)" in cluster.refused(MODULE, name="s.t", column="id", check=True)


def test_refuses_a_database_without_citus(cluster: Cluster) -> None:
    message = cluster.refused(MODULE, name="t", column="id", login_db="postgres")
    assert "no Citus extension" in message
    assert "login_db" in message


def test_refuses_a_server_that_is_too_old(cluster: Cluster) -> None:
    """Both versions are in the message; the catalogs of a copy of the database say that they are old."""
    cluster.sql("CREATE DATABASE old", dbname="postgres")
    try:
        cluster.sql("CREATE EXTENSION citus", dbname="old")
        cluster.sql("UPDATE pg_extension SET extversion = '11.0-4' WHERE extname = 'citus'", dbname="old")
        message = cluster.refused(MODULE, name="t", state="schema", login_db="old", check=True)
        assert "The option state=schema needs Citus 12.0; this server has 11.0." in message
        message = cluster.refused(MODULE, name="t", column="c", concurrently=True, login_db="old", check=True)
        assert "The option concurrently needs Citus 11.1; this server has 11.0." in message
        cluster.sql("UPDATE pg_extension SET extversion = '9.5-1' WHERE extname = 'citus'", dbname="old")
        message = cluster.refused(MODULE, name="t", column="c", login_db="old", check=True)
        assert "needs Citus 11.0; this server has 9.5." in message
    finally:
        cluster.sql("DROP DATABASE old WITH (FORCE)", dbname="postgres")


def test_wrong_address(cluster: Cluster) -> None:
    message = cluster.refused(MODULE, name="t", column="c", login_port=1, connect_timeout=2)
    assert "Could not connect to" in message
    assert "login_port" in message


def test_two_runs_at_once(cluster: Cluster) -> None:
    """The second waits until the first is done, or says who it waits for."""
    cluster.sql("CREATE TABLE s.t (id int PRIMARY KEY)")
    first = cluster.coordinator.connect(dbname="app", application_name="first run")
    try:
        with first.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s, %s)", (LOCK_CLASS, CLUSTER_METADATA))
        message = cluster.refused(MODULE, name="s.t", column="id", wait_for_other_run=0)
        assert 'application "first run"' in message
        assert "role postgres" in message
        assert "wait_for_other_run" in message
        assert cluster.ok(MODULE, name="s.t", column="id", check=True)["changed"], "check mode takes no lock"
        timer = threading.Timer(1.0, first.close)
        timer.start()
        started = time.monotonic()
        assert cluster.ok(MODULE, name="s.t", column="id", wait_for_other_run=30)["changed"]
        assert 0.5 < time.monotonic() - started < 20
        timer.join()
    finally:
        first.close()
    assert cluster.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s", [LOCK_CLASS]) == [
        (0,)
    ]


def test_two_real_runs_at_once(cluster: Cluster) -> None:
    """Both want the same table: one distributes it, the other finds it done."""
    cluster.sql("CREATE TABLE s.t (id int PRIMARY KEY)")
    command = (
        "import sys; sys.path.insert(0, sys.argv[1]); from ansible.module_utils.testing import patch_module_args\n"
        "from ansible_collections.citus_ha.cluster.plugins.modules import citus_distribute\n"
        "with patch_module_args(dict(login_host=sys.argv[2], login_db='app', name='s.t', column='id')):\n"
        "    citus_distribute.main()\n"
    )
    arguments = [sys.executable, "-c", command, str(COLLECTIONS), cluster.coordinator.address]
    runs = [subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _run in range(2)]
    results = [json.loads(run.communicate(timeout=120)[0]) for run in runs]
    assert sorted(result["changed"] for result in results) == [False, True], results


@pytest.mark.parametrize("after", ["BEGIN", "create_distributed_table('s.b'", "COMMIT"])
def test_connection_cut_in_the_middle(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    """The session is terminated before a statement: a clear failure, nothing half done; the next run does it all."""
    from ansible_collections.citus_ha.cluster.plugins.module_utils import _connection

    for name in "ab":
        cluster.sql(f"CREATE TABLE s.{name} (id int PRIMARY KEY)")
    real = _connection.Session._run

    def run(self: Any, statement: Any, values: Any, fetch: bool) -> Any:
        if killed:  # a closed connection cannot put values into a text
            return real(self, statement, values, fetch)
        text = self._text(statement) if not values else self._connection.cursor().mogrify(statement, values).decode()
        if after in text:
            killed.append(self._connection.info.backend_pid)
            cluster.sql("SELECT pg_terminate_backend(%s, 5000)", killed)
        return real(self, statement, values, fetch)

    killed: list[int] = []
    monkeypatch.setattr(_connection.Session, "_run", run)
    tables = [{"name": "s.a"}, {"name": "s.b"}]
    result = cluster.call(MODULE, tables=tables, column="id")
    assert result["failed"]
    assert "connection to" in result["msg"]
    assert "Run the task again" in result["msg"]
    assert result["finished"] == []
    assert result["not_done"] == ["s.a", "s.b"]
    assert kinds(cluster) == {}
    cluster.four_times(MODULE, tables=tables, column="id")


def test_skew_and_nulls_are_seen(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE s.t (id int, k int); INSERT INTO s.t SELECT i, i % 3 FROM generate_series(1, 1000) i")
    for _look in range(2):  # without statistics, and with them
        result = cluster.ok(MODULE, name="s.t", column="k", check=True)
        assert "different values for 8 shards" in str(result["warnings"]), result
        cluster.sql("ANALYZE s.t")
    cluster.sql("INSERT INTO s.t SELECT i, i FROM generate_series(1, 1000) i; ANALYZE s.t")
    cluster.sql("INSERT INTO s.t SELECT i, 7 FROM generate_series(1, 2000) i; ANALYZE s.t")
    result = cluster.ok(MODULE, name="s.t", column="k", check=True)
    assert "of the rows" in str(result["warnings"]), result
    cluster.sql("INSERT INTO s.t VALUES (1, NULL)")
    assert "holds NULLs" in cluster.refused(MODULE, name="s.t", column="k", check=True)


def test_big_tables_are_estimated(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    real_only(cluster, "run_command_on_shards()")
    from ansible_collections.citus_ha.cluster.plugins.module_utils import _citus_catalog_measure

    cluster.sql('CREATE TABLE s."t\'s" (id int PRIMARY KEY); INSERT INTO s."t\'s" SELECT generate_series(1, 1000)')
    cluster.sql('ANALYZE s."t\'s"')
    monkeypatch.setattr(_citus_catalog_measure, "EXACT_BYTES", 0)
    result = cluster.ok(MODULE, name='s."t\'s"', column="id", check=True)
    assert result["plan"][0]["rows"] == 1000
    cluster.ok(MODULE, name='s."t\'s"', column="id")
    cluster.sql('ANALYZE s."t\'s"')
    result = cluster.ok(MODULE, name='s."t\'s"', state="undistributed", check=True)
    assert result["plan"][0]["rows"] == 1000


def test_number_of_queries_is_constant(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many for 60 tables as for 2, with nothing to do, and in check mode with everything to do."""
    from ansible_collections.citus_ha.cluster.plugins.module_utils import _connection

    real = _connection.Session._run
    sent: list[int] = []

    def run(self: Any, statement: Any, values: Any, fetch: bool) -> Any:
        sent.append(1)
        return real(self, statement, values, fetch)

    monkeypatch.setattr(_connection.Session, "_run", run)
    cluster.sql("SELECT 1" + "".join(f"; CREATE TABLE s.t{i} (id int PRIMARY KEY)" for i in range(60)))
    counts = []
    for many in (2, 60):
        tables = [{"name": f"s.t{i}"} for i in range(many)]
        sent.clear()
        cluster.ok(MODULE, tables=tables, column="id", check=True)
        counts.append(len(sent))
        cluster.ok(MODULE, tables=tables, column="id")
        sent.clear()
        cluster.ok(MODULE, tables=tables, column="id")
        counts.append(len(sent))
    print(f"queries: {counts}")
    assert counts[:2] == counts[2:]
    assert counts[1] <= 8
