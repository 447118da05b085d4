# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the catalogs say, read in bulk: a constant number of queries, however many tables there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session, pgsql
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import Refused
from ansible_collections.citus_ha.cluster.plugins.module_utils._names import Name, display
from ansible_collections.citus_ha.cluster.plugins.module_utils._versions import Version, parse_version


@dataclass(frozen=True)
class Server:
    """The server that a session is on, as far as Citus matters."""

    where: str
    postgresql: int
    #: Version of the SQL interface; None when the database has no Citus extension.
    citus: Version | None
    in_recovery: bool
    #: None when there is no extension.
    group: int | None = None
    #: What ``citus_version()`` says; the lab's stand-in names itself here.
    citus_text: str = ""
    coordinator: str | None = None
    #: Active primaries that may hold shards.
    shard_nodes: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    #: Optional parts of the SQL interface that this server has.
    has: frozenset[str] = frozenset()

    def setting(self, name: str, default: str) -> str:
        """A server setting as text."""
        return self.settings.get(name) or default


_FACTS = """
SELECT current_setting('server_version_num')::int AS postgresql,
       pg_is_in_recovery() AS in_recovery,
       (SELECT extversion FROM pg_extension WHERE extname = 'citus') AS citus
"""

# pg_settings leaves out what the role may not see, where current_setting() fails; but it knows no setting
# that only exists because somebody has set it.
_CITUS_FACTS = """
SELECT (SELECT groupid FROM pg_dist_local_group) AS local_group,
       citus_version() AS citus_text,
       (SELECT format('%s:%s', nodename, nodeport) FROM pg_dist_node
         WHERE groupid = 0 AND noderole = 'primary' LIMIT 1) AS coordinator,
       (SELECT count(*) FROM pg_dist_node
         WHERE noderole = 'primary' AND isactive AND shouldhaveshards) AS shard_nodes,
       (SELECT jsonb_object_agg(name, current_setting(name, true))
          FROM unnest(ARRAY['citus.shard_count', 'citus.shard_replication_factor', 'citus.enable_unsafe_triggers',
                            'citus.allow_unsafe_constraints']) AS name)
       || (SELECT jsonb_object_agg(name, setting) FROM pg_settings
            WHERE name IN ('max_locks_per_transaction', 'max_connections', 'max_prepared_transactions', 'wal_level',
                           'output_plugin_libraries')) AS settings,
       ARRAY(SELECT proname::text FROM pg_proc
              WHERE pronamespace = 'pg_catalog'::regnamespace
                AND proname IN ('column_to_column_name', 'citus_local_disk_space_stats', 'citus_total_relation_size',
                                'create_distributed_table_concurrently', 'citus_schema_distribute',
                                'citus_schema_undistribute', 'citus_add_local_table_to_metadata',
                                'run_command_on_shards')
              UNION ALL
             SELECT relname::text FROM pg_class
              WHERE relnamespace = 'pg_catalog'::regnamespace AND relname = 'pg_dist_schema') AS has
"""


def read_server(session: Session) -> Server:
    """What PostgreSQL itself says, in one query; it needs nothing of Citus, so it works with any version of it."""
    facts = session.query(_FACTS)[0]
    return Server(
        where=session.where,
        postgresql=facts["postgresql"],
        citus=None if facts["citus"] is None else parse_version(facts["citus"]),
        in_recovery=facts["in_recovery"],
    )


def read_citus(session: Session, server: Server) -> Server:
    """Complete ``server`` with what Citus says; the database must have the extension."""
    row = session.query(_CITUS_FACTS)[0]
    return Server(
        where=server.where,
        postgresql=server.postgresql,
        citus=server.citus,
        in_recovery=server.in_recovery,
        group=row["local_group"],
        citus_text=row["citus_text"],
        coordinator=row["coordinator"],
        shard_nodes=row["shard_nodes"],
        settings=row["settings"] or {},
        has=frozenset(row["has"]),
    )


def require_citus(server: Server) -> None:
    """Refuse a database without the extension.

    :raises Refused: with the option that names another database.
    """
    if server.citus is None:
        raise Refused(
            f"{server.where}: this database has no Citus extension.",
            "Name the database that has it with login_db, or run CREATE EXTENSION citus there.",
        )


def require_primary(server: Server) -> None:
    """Refuse a server that is in recovery.

    :raises Refused: says to connect to the leader.
    """
    if server.in_recovery:
        raise Refused(
            f"{server.where}: this server is a standby (in recovery) and cannot be changed.",
            "Connect to the leader of the coordinator's group (login_host), or run the task on that host.",
        )


def require_coordinator(server: Server) -> None:
    """Refuse a worker.

    :raises Refused: names the coordinator.
    """
    if server.group != 0:
        known = f" The coordinator it knows is {server.coordinator}." if server.coordinator else ""
        raise Refused(
            f"{server.where}: this server is not the coordinator, it belongs to Citus group {server.group}.{known}",
            "Connect to the coordinator (login_host), or run the task on that host.",
        )


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


@dataclass(frozen=True)
class Measure:
    """What to find out about one table by reading its rows."""

    table: Table
    #: Distribution column to be, when its values matter.
    column: Column | None


#: Above this many bytes rows are estimated from the statistics: counting them would take minutes.
EXACT_BYTES = 1024**3

#: How many rows the different values are counted in where the table was never analyzed.
SAMPLE_ROWS = 10000

_MEASURE = "SELECT {oid}::bigint AS oid, ({rows}) AS rows, ({nulls}) AS nulls, ({sample}) AS distinct_values"
_SHARD_ROWS = """
SELECT o::bigint AS oid, sum(nullif(r.result::bigint, -1))::bigint AS rows
  FROM unnest(%s::oid[]) AS o
 CROSS JOIN LATERAL
       run_command_on_shards(o::regclass, 'SELECT reltuples::bigint FROM pg_class WHERE oid = %%L::regclass') AS r
 WHERE r.success
 GROUP BY o
"""


def measure(session: Session, server: Server, details: Details, wanted: Sequence[Measure]) -> Details:
    """Complete ``details`` with row counts, and where the statistics say nothing with NULLs and a sample.

    One query over all tables that are small enough to be counted, one for those that are not.
    """
    parts = []
    estimated: dict[int, int] = {}
    big = []
    for item in wanted:
        extra = details.extras[item.table.oid]
        if not extra.has_rows:
            estimated[item.table.oid] = 0
            continue
        small = extra.bytes <= EXACT_BYTES
        if not small and item.table.state == "plain":
            if extra.estimated_rows >= 0:
                estimated[item.table.oid] = extra.estimated_rows
        elif not small:
            big.append(item.table.oid)
        source = pgsql.Identifier(item.table.schema, item.table.table)
        nothing = pgsql.SQL("NULL::bigint")
        nulls = sample = nothing
        rows = pgsql.SQL("SELECT count(*) FROM {}").format(source) if small else nothing
        if item.column is not None:
            name = pgsql.Identifier(item.column.name)
            if not item.column.not_null:
                nulls = pgsql.SQL("SELECT count(*) FROM (SELECT FROM {} WHERE {} IS NULL LIMIT 1) AS n").format(
                    source, name
                )
            if item.column.n_distinct is None and item.column.hashable:
                sample = pgsql.SQL("SELECT count(DISTINCT v) FROM (SELECT {} AS v FROM {} LIMIT {}) AS s").format(
                    name, source, pgsql.Literal(SAMPLE_ROWS)
                )
        parts.append(
            pgsql.SQL(_MEASURE).format(oid=pgsql.Literal(item.table.oid), rows=rows, nulls=nulls, sample=sample)
        )
    found = session.query(pgsql.SQL("\nUNION ALL\n").join(parts)) if parts else []
    estimated.update({row["oid"]: row["rows"] for row in found if row["rows"] is not None})
    if big and "run_command_on_shards" in server.has:
        estimated.update(
            {row["oid"]: row["rows"] for row in session.query(_SHARD_ROWS, (big,)) if row["rows"] is not None}
        )
    return replace(
        details,
        rows=estimated,
        nulls=frozenset(row["oid"] for row in found if row["nulls"]),
        sampled={row["oid"]: row["distinct_values"] for row in found if row["distinct_values"] is not None},
    )
