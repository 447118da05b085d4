# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Columns, keys, foreign keys and sizes of tables that are to change: eight queries, however many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_server import Server
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_tables import Table, read_tables
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session
from ansible_collections.citus_ha.cluster.plugins.module_utils._names import Name


@dataclass(frozen=True)
class Column:
    """A column of a table that is to change."""

    name: str
    number: int
    type: str
    type_oid: int
    collation: int
    deterministic: bool
    generated: bool
    identity: bool
    not_null: bool
    #: The type has what Citus needs of it: a hash, and an order.
    hashable: bool
    #: The default comes from a sequence.
    sequence: bool
    negative_scale: bool
    #: From the statistics: absolute number when positive, share of the rows when negative; None without ANALYZE.
    n_distinct: float | None = None
    null_fraction: float | None = None
    top_fraction: float | None = None


@dataclass(frozen=True)
class Key:
    """A unique index or an exclusion constraint."""

    relation: int
    #: The table it is on as it is written in SQL: a partition may have keys of its own.
    schema: str
    table: str
    name: str
    #: p, u, x for constraints, None for an index without one.
    constraint: str | None
    #: Text after ``ADD CONSTRAINT name``, or the whole ``CREATE UNIQUE INDEX``.
    definition: str
    #: Numbers of the columns that Citus counts as included (with an equality operator, if it is an exclusion).
    columns: tuple[int, ...]
    names: tuple[str, ...]
    #: Columns that are only carried along (INCLUDE).
    included: tuple[str, ...]
    replica_identity: bool
    #: Foreign keys that rest on it, as ``schema.table: name``.
    dependants: tuple[str, ...]


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key from or to a table that is to change."""

    name: str
    source: Table
    source_columns: tuple[str, ...]
    target: Table
    target_columns: tuple[str, ...]
    on_delete: str
    on_update: str
    #: The constraint's text, to add it again.
    definition: str


@dataclass(frozen=True)
class Extra:
    """What else stands in the way of a change, and what the change costs."""

    bytes: int
    has_rows: bool
    triggers: tuple[str, ...]
    #: In an inheritance relation that is not partitioning.
    inherits: bool
    #: Name of the table that this is a partition of.
    parent: str | None
    #: Partitioned, and one of its partitions is partitioned again.
    multi_level: bool
    partitions: int
    replica_identity: bool
    #: What the statistics on the coordinator say; -1 when they say nothing.
    estimated_rows: int
    #: Other tables of its colocation group, the first fifty.
    colocated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Details:
    """Everything about the tables that are to change; keyed by the tables' oids."""

    columns: Mapping[int, tuple[Column, ...]] = field(default_factory=dict)
    keys: Mapping[int, tuple[Key, ...]] = field(default_factory=dict)
    foreign_keys: tuple[ForeignKey, ...] = ()
    extras: Mapping[int, Extra] = field(default_factory=dict)
    #: Smallest colocation group for a (type's oid, collation's oid, shard count): what Citus takes by default.
    groups: Mapping[tuple[Any, ...], int] = field(default_factory=dict)
    #: Tables that foreign keys connect with a table, directly or through others; where cascading was asked about.
    connected: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    #: Those of them that Citus does not know.
    connected_plain: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    #: Bytes of the tables in :attr:`connected`, by name.
    sizes: Mapping[str, int] = field(default_factory=dict)
    #: Rows per table, exact or estimated; only where they are counted.
    rows: Mapping[int, int] = field(default_factory=dict)
    #: Tables whose distribution column to be holds NULLs.
    nulls: frozenset[int] = frozenset()
    #: Different values among the first rows, for tables without statistics.
    sampled: Mapping[int, int] = field(default_factory=dict)
    #: Free bytes on the coordinator's data folder; None when the server does not tell.
    free_bytes: int | None = None


_COLUMNS = """
SELECT a.attrelid::bigint AS relation, a.attname::text AS name, a.attnum::int AS number,
       format_type(a.atttypid, a.atttypmod) AS type, a.atttypid::bigint AS type_oid,
       a.attcollation::bigint AS collation,
       coalesce((SELECT collisdeterministic FROM pg_collation WHERE oid = a.attcollation), true) AS deterministic,
       a.attgenerated <> '' AS generated, a.attidentity <> '' AS identity, a.attnotnull AS not_null,
       a.atttypid = 'numeric'::regtype AND a.atttypmod >= 4 AND ((a.atttypmod - 4) & 1024) <> 0 AS negative_scale,
       CASE WHEN b.typtype IN ('e', 'r', 'm', 'c') THEN true
            WHEN b.typcategory = 'A' THEN true
            ELSE 2 = (SELECT count(DISTINCT m.amname) FROM pg_opclass AS o JOIN pg_am AS m ON m.oid = o.opcmethod
                          WHERE m.amname IN ('btree', 'hash') AND o.opcdefault
                            AND (o.opcintype = b.oid
                                 OR EXISTS (SELECT FROM pg_cast AS k WHERE k.castsource = b.oid
                                               AND k.casttarget = o.opcintype AND k.castmethod = 'b'
                                               AND k.castcontext = 'i')))
       END AS hashable,
       coalesce((SELECT pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%%' FROM pg_attrdef AS d
                  WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum), false) AS sequence,
       s.n_distinct::float8 AS n_distinct, s.null_frac::float8 AS null_fraction,
       s.most_common_freqs[1]::float8 AS top_fraction
  FROM pg_attribute AS a
  JOIN pg_class AS c ON c.oid = a.attrelid
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_type AS t ON t.oid = a.atttypid
  JOIN pg_type AS b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
  LEFT JOIN pg_stats AS s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname
                         AND s.inherited = (c.relkind = 'p')
 WHERE a.attrelid = ANY (%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum
"""

# Partitions are looked at too: what they have by inheritance belongs to the parent, the rest is their own.
_KEYS = """
WITH wanted AS (
    SELECT root, coalesce(t.relid::oid, root) AS relation
      FROM unnest(%(oids)s::oid[]) AS r (root) LEFT JOIN LATERAL pg_partition_tree(root) AS t ON true
)
SELECT w.root::bigint AS root, w.relation::bigint AS relation, n.nspname::text AS schema, c.relname::text AS table,
       coalesce(k.conname, x.relname)::text AS name, k.contype::text AS constraint,
       coalesce(pg_get_constraintdef(k.oid), pg_get_indexdef(i.indexrelid)) AS definition,
       i.indisreplident AS replica_identity,
       ARRAY(SELECT i.indkey[p - 1]::int FROM generate_series(1, i.indnkeyatts) AS p
              WHERE k.contype IS DISTINCT FROM 'x'
                 OR EXISTS (SELECT FROM pg_amop AS o JOIN pg_am AS m ON m.oid = o.amopmethod
                             WHERE o.amopopr = k.conexclop[p]
                               AND ((m.amname = 'btree' AND o.amopstrategy = 3)
                                    OR (m.amname = 'hash' AND o.amopstrategy = 1)))) AS columns,
       ARRAY(SELECT a.attname::text FROM generate_series(1, i.indnkeyatts) AS p
               JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[p - 1]
              ORDER BY p) AS names,
       ARRAY(SELECT a.attname::text FROM generate_series(i.indnkeyatts + 1, i.indnatts) AS p
               JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[p - 1]
              ORDER BY p) AS included,
       ARRAY(SELECT format('%%s: %%I', f.conrelid::regclass, f.conname) FROM pg_constraint AS f
              WHERE f.contype = 'f' AND f.conindid = i.indexrelid AND f.conparentid = 0 ORDER BY 1) AS dependants
  FROM wanted AS w
  JOIN pg_index AS i ON i.indrelid = w.relation
  JOIN pg_class AS x ON x.oid = i.indexrelid
  JOIN pg_class AS c ON c.oid = i.indrelid
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_constraint AS k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
 WHERE (i.indisunique OR i.indisexclusion)
   AND NOT EXISTS (SELECT FROM pg_inherits AS h WHERE h.inhrelid = i.indexrelid)
 ORDER BY w.root, c.relname, i.indisprimary DESC, 5
"""

_FOREIGN_KEYS = """
SELECT f.conname::text AS name, f.confdeltype::text AS on_delete, f.confupdtype::text AS on_update,
       pg_get_constraintdef(f.oid) AS definition,
       sn.nspname::text AS source_schema, sc.relname::text AS source_table,
       tn.nspname::text AS target_schema, tc.relname::text AS target_table,
       ARRAY(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY AS k (number, ord)
               JOIN pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = k.number
              ORDER BY k.ord) AS source_columns,
       ARRAY(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY AS k (number, ord)
               JOIN pg_attribute AS a ON a.attrelid = f.confrelid AND a.attnum = k.number
              ORDER BY k.ord) AS target_columns
  FROM pg_constraint AS f
  JOIN pg_class AS sc ON sc.oid = f.conrelid JOIN pg_namespace AS sn ON sn.oid = sc.relnamespace
  JOIN pg_class AS tc ON tc.oid = f.confrelid JOIN pg_namespace AS tn ON tn.oid = tc.relnamespace
 WHERE f.contype = 'f' AND f.conparentid = 0
   AND (f.conrelid = ANY (%(oids)s::oid[]) OR f.confrelid = ANY (%(oids)s::oid[]))
 ORDER BY 5, 6, 1
"""

_SIZE = {
    True: "CASE WHEN p.logicalrelid IS NULL OR NOT has_table_privilege(c.oid, 'SELECT') THEN l.size"
    " ELSE coalesce(citus_total_relation_size(c.oid::regclass, false), 0) END",
    False: "l.size",
}
_EXTRAS = """
SELECT c.oid::bigint AS oid, {size} AS bytes, l.tuples AS estimated_rows,
       CASE WHEN p.logicalrelid IS NULL THEN l.heap > 0 ELSE true END AS has_rows,
       ARRAY(SELECT tgname::text FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal ORDER BY 1) AS triggers,
       EXISTS (SELECT FROM pg_inherits AS h JOIN pg_class AS o ON o.oid = h.inhparent
                WHERE (h.inhrelid = c.oid OR h.inhparent = c.oid) AND o.relkind = 'r') AS inherits,
       (SELECT h.inhparent::regclass::text FROM pg_inherits AS h
         WHERE h.inhrelid = c.oid AND c.relispartition) AS parent,
       l.multi_level, l.partitions,
       c.relreplident IN ('f', 'i') OR EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary)
           AS replica_identity,
       ARRAY(SELECT format('%%I.%%I', qn.nspname, qc.relname) FROM pg_dist_partition AS q
               JOIN pg_class AS qc ON qc.oid = q.logicalrelid::oid JOIN pg_namespace AS qn ON qn.oid = qc.relnamespace
              WHERE p.colocationid > 0 AND q.colocationid = p.colocationid AND q.logicalrelid <> p.logicalrelid
              ORDER BY 1 LIMIT 50) AS colocated
  FROM pg_class AS c
  LEFT JOIN pg_dist_partition AS p ON p.logicalrelid::oid = c.oid
 CROSS JOIN LATERAL (
       SELECT coalesce(sum(nullif(s.reltuples, -1)) FILTER (WHERE s.relkind <> 'p'), -1)::bigint AS tuples,
              coalesce(sum(pg_total_relation_size(coalesce(t.relid, c.oid::regclass))), 0)::bigint AS size,
              coalesce(sum(pg_relation_size(coalesce(t.relid, c.oid::regclass))), 0)::bigint AS heap,
              coalesce(bool_or(t.level > 0 AND s.relkind = 'p'), false) AS multi_level,
              greatest(count(t.relid) - 1, 0) AS partitions
         FROM (VALUES (0)) AS one (x) LEFT JOIN pg_partition_tree(c.oid::regclass) AS t ON true
         LEFT JOIN pg_class AS s ON s.oid = coalesce(t.relid::oid, c.oid)) AS l
 WHERE c.oid = ANY (%(oids)s::oid[])
"""

_GROUPS = """
SELECT g.distributioncolumntype::bigint AS type_oid, g.distributioncolumncollation::bigint AS collation,
       g.shardcount AS shards, min(g.colocationid)::bigint AS id
  FROM pg_dist_colocation AS g
 WHERE g.distributioncolumntype <> 0 AND {not_tenant}
 GROUP BY 1, 2, 3
"""
_NOT_TENANT = {
    True: "NOT EXISTS (SELECT FROM pg_dist_schema AS s WHERE s.colocationid = g.colocationid)",
    False: "true",
}

_CONNECTED = """
WITH RECURSIVE edge (a, b) AS (
    SELECT conrelid, confrelid FROM pg_constraint WHERE contype = 'f' AND conparentid = 0
    UNION
    SELECT confrelid, conrelid FROM pg_constraint WHERE contype = 'f' AND conparentid = 0
), reach (root, oid) AS (
    SELECT o, o FROM unnest(%(oids)s::oid[]) AS o
    UNION
    SELECT r.root, e.b FROM reach AS r JOIN edge AS e ON e.a = r.oid
)
SELECT root::bigint AS root, array_agg(c.oid::bigint ORDER BY n.nspname, c.relname) AS oids,
       array_agg(n.nspname::text ORDER BY n.nspname, c.relname) AS schemas,
       array_agg(c.relname::text ORDER BY n.nspname, c.relname) AS tables,
       array_agg(p.logicalrelid IS NULL ORDER BY n.nspname, c.relname) AS plain
  FROM reach JOIN pg_class AS c ON c.oid = reach.oid JOIN pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_dist_partition AS p ON p.logicalrelid::oid = c.oid
 WHERE reach.oid <> reach.root
 GROUP BY root
"""

_FREE = "SELECT available_disk_size FROM citus_local_disk_space_stats()"


def read_details(
    session: Session, server: Server, tables: Sequence[Table], want_free: bool = False, want_connected: bool = False
) -> Details:
    """What the preflight needs of the tables that are to change: at most eight queries."""
    if not tables:
        return Details()
    oids = {"oids": [table.oid for table in tables]}
    columns: dict[int, list[Column]] = {}
    for row in session.query(_COLUMNS, oids):
        columns.setdefault(row.pop("relation"), []).append(Column(**row))
    keys: dict[int, list[Key]] = {}
    for row in session.query(_KEYS, oids):
        root = row.pop("root")
        row.update({part: tuple(row[part]) for part in ("columns", "names", "included", "dependants")})
        keys.setdefault(root, []).append(Key(**row))
    foreign_rows = session.query(_FOREIGN_KEYS, oids)
    known = {table.name: table for table in tables}
    others = {
        Name(row[f"{side}_schema"], row[f"{side}_table"]) for row in foreign_rows for side in ("source", "target")
    } - set(known)
    known.update(read_tables(session, server, sorted(others, key=str)))
    foreign_keys = tuple(
        ForeignKey(
            name=row["name"],
            source=known[Name(row["source_schema"], row["source_table"])],
            source_columns=tuple(row["source_columns"]),
            target=known[Name(row["target_schema"], row["target_table"])],
            target_columns=tuple(row["target_columns"]),
            on_delete=row["on_delete"],
            on_update=row["on_update"],
            definition=row["definition"],
        )
        for row in foreign_rows
    )
    connected: dict[int, tuple[str, ...]] = {}
    connected_plain: dict[int, tuple[str, ...]] = {}
    by_oid: dict[int, str] = {}
    sized = list(oids["oids"])
    if want_connected:
        for row in session.query(_CONNECTED, oids):
            names = zip(row["schemas"], row["tables"])
            connected[row["root"]] = tuple(str(Name(schema, table)) for schema, table in names)
            named = zip(connected[row["root"]], row["plain"])
            connected_plain[row["root"]] = tuple(name for name, plain in named if plain)
            sized += row["oids"]
            by_oid.update(zip(row["oids"], connected[row["root"]]))
    extras = {}
    for row in session.query(
        _EXTRAS.replace("{size}", _SIZE["citus_total_relation_size" in server.has]), {"oids": sized}
    ):
        row.update({part: tuple(row[part]) for part in ("triggers", "colocated")})
        oid = row.pop("oid")
        extras[oid] = Extra(**row)
    not_tenant = _NOT_TENANT["pg_dist_schema" in server.has]
    groups = {
        (row["type_oid"], row["collation"], row["shards"]): row["id"]
        for row in session.query(_GROUPS.replace("{not_tenant}", not_tenant))
    }
    free = session.value(_FREE) if want_free and "citus_local_disk_space_stats" in server.has else None
    return Details(
        columns={oid: tuple(found) for oid, found in columns.items()},
        keys={oid: tuple(found) for oid, found in keys.items()},
        foreign_keys=foreign_keys,
        extras=extras,
        groups=groups,
        connected=connected,
        connected_plain=connected_plain,
        sizes={name: extras[oid].bytes for oid, name in by_oid.items()},
        free_bytes=free,
    )
