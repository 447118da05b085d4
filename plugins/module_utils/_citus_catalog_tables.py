# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables and schemas as Citus knows them: one query, however many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_server import Server
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session
from ansible_collections.citus_ha.cluster.plugins.module_utils._names import Name, display


@dataclass(frozen=True)
class Table:
    """A relation and what Citus knows of it."""

    oid: int
    schema: str
    table: str
    relkind: str
    persistence: str
    is_partition: bool
    owner: str
    #: The session's role may do what the owner may.
    owned: bool
    #: plain, local, reference, distributed, single_shard, tenant (in a distributed schema) or other (append, range).
    state: str
    column: str | None = None
    colocation_id: int | None = None
    shard_count: int | None = None
    #: Citus made it a local table by itself, because of a foreign key with a reference table.
    autoconverted: bool = False

    @property
    def name(self) -> Name:
        """The qualified name."""
        return Name(self.schema, self.table)

    def __str__(self) -> str:
        return f"{display(self.schema)}.{display(self.table)}"


@dataclass(frozen=True)
class Schema:
    """A schema and whether it is distributed."""

    name: str
    owned: bool
    owner: str
    distributed: bool
    tables: int
    #: Tables in it that Citus distributes in another way, and so are in the way.
    blocking: tuple[str, ...] = ()


# The pieces that the SQL interface has only from some version on are chosen from fixed texts.
_COLUMN = {
    True: "column_to_column_name(p.logicalrelid::oid, p.partkey)",
    False: "p.partkey",
}
_TENANT = {
    True: "EXISTS (SELECT FROM pg_dist_schema AS s WHERE s.schemaid = c.relnamespace)",
    False: "false",
}
_TABLES = """
WITH wanted AS (
    SELECT ord, to_regclass(CASE WHEN schema IS NULL THEN quote_ident(name)
                                 ELSE quote_ident(schema) || '.' || quote_ident(name) END)::oid AS oid
      FROM unnest(%(schemas)s::text[], %(names)s::text[]) WITH ORDINALITY AS w (schema, name, ord)
)
SELECT w.ord, c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS table, c.relkind::text AS relkind,
       c.relpersistence::text AS persistence, c.relispartition AS is_partition,
       pg_get_userbyid(c.relowner)::text AS owner, pg_has_role(c.relowner, 'USAGE') AS owned,
       p.partmethod::text AS method, p.repmodel::text AS model, p.colocationid::bigint AS colocation_id,
       coalesce((to_jsonb(p) ->> 'autoconverted')::boolean, false) AS autoconverted,
       {column} AS column, g.shardcount AS shard_count, {tenant} AS tenant
  FROM wanted AS w
  JOIN pg_class AS c ON c.oid = w.oid
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_dist_partition AS p ON p.logicalrelid::oid = c.oid
  LEFT JOIN pg_dist_colocation AS g ON g.colocationid = p.colocationid
"""

_SCHEMAS = """
SELECT n.nspname::text AS name, pg_get_userbyid(n.nspowner)::text AS owner, pg_has_role(n.nspowner, 'USAGE') AS owned,
       EXISTS (SELECT FROM pg_dist_schema AS s WHERE s.schemaid = n.oid) AS distributed,
       (SELECT count(*) FROM pg_class AS c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p')) AS tables,
       ARRAY(SELECT c.relname::text FROM pg_dist_partition AS p JOIN pg_class AS c ON c.oid = p.logicalrelid::oid
              WHERE c.relnamespace = n.oid AND NOT (p.partmethod = 'n' AND p.colocationid = 0)
              ORDER BY 1) AS citus_tables
  FROM pg_namespace AS n
 WHERE n.nspname = ANY (%s)
"""


def _state(row: Mapping[str, Any]) -> str:
    """The kind of table, by the rules of Citus's own view ``citus_tables``."""
    method, model = row["method"], row["model"]
    if method is None:
        return "plain"
    if method == "h":
        return "distributed"
    if method != "n":
        return "other"
    if model == "t":
        return "reference"
    if not row["colocation_id"]:
        return "local"
    return "tenant" if row["tenant"] else "single_shard"


def read_tables(session: Session, server: Server, names: Sequence[Name]) -> dict[Name, Table]:
    """The tables of these names that exist, in one query."""
    if not names:
        return {}
    query = _TABLES.replace("{column}", _COLUMN["column_to_column_name" in server.has]).replace(
        "{tenant}", _TENANT["pg_dist_schema" in server.has]
    )
    rows = session.query(query, {"schemas": [name.schema for name in names], "names": [name.table for name in names]})
    tables = {}
    for row in rows:
        state = _state(row)
        tables[names[row["ord"] - 1]] = Table(
            oid=row["oid"],
            schema=row["schema"],
            table=row["table"],
            relkind=row["relkind"],
            persistence=row["persistence"],
            is_partition=row["is_partition"],
            owner=row["owner"],
            owned=row["owned"],
            state=state,
            column=row["column"] if state == "distributed" else None,
            colocation_id=row["colocation_id"] or None,
            shard_count=row["shard_count"] if state in ("distributed", "single_shard", "tenant") else None,
            autoconverted=row["autoconverted"],
        )
    return tables


def read_schemas(session: Session, names: Sequence[str]) -> dict[str, Schema]:
    """The schemas of these names that exist, in one query (none when there are no names)."""
    if not names:
        return {}
    return {
        row["name"]: Schema(
            name=row["name"],
            owned=row["owned"],
            owner=row["owner"],
            distributed=row["distributed"],
            tables=row["tables"],
            blocking=() if row["distributed"] else tuple(row["citus_tables"]),
        )
        for row in session.query(_SCHEMAS, (list(names),))
    }
