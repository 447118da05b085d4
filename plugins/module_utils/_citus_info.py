# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Citus cluster looks like, in a number of queries that does not grow with the cluster.

The ``fetch_*`` functions ask, one query each; the others are pure and turn rows into what
``citus_info`` returns.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_nodes import Node
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_rebalance_job import Job, progress
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_server import COORDINATOR_GROUP
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session

Row = dict[str, Any]

SECTIONS = (
    "nodes",
    "groups",
    "tables",
    "colocation_groups",
    "shards",
    "rebalance",
    "locks",
    "prepared_transactions",
    "versions",
    "health",
    "drift",
)
"""What can be gathered, in the order in which it is documented."""

NEEDS_SIZES = frozenset({"nodes", "groups", "tables", "colocation_groups", "shards"})
NEEDS_EVERY_NODE = frozenset({"prepared_transactions", "versions", "health", "drift"})

# A table's kind is told by the rules of Citus' own view citus_tables.
_TABLES = """
SELECT t.logicalrelid::oid::bigint AS table_id, n.nspname AS schema, c.relname AS table,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,
       CASE WHEN t.repmodel = 't' THEN 'reference'
            WHEN t.partkey IS NULL AND t.colocationid = 0 THEN 'local'
            WHEN t.colocationid IN (SELECT colocationid FROM pg_dist_schema) THEN 'schema'
            ELSE 'distributed' END AS type,
       CASE WHEN t.partkey IS NOT NULL THEN column_to_column_name(t.logicalrelid, t.partkey) END AS column,
       t.colocationid AS colocation_id, pg_get_userbyid(c.relowner) AS owner, a.amname AS access_method,
       (SELECT count(*) FROM pg_dist_shard s WHERE s.logicalrelid = t.logicalrelid) AS shard_count
  FROM pg_dist_partition t JOIN pg_class c ON c.oid = t.logicalrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am a ON a.oid = c.relam
 WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                      AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e')
 ORDER BY n.nspname, c.relname
"""
_TABLES_BEFORE_SCHEMAS = _TABLES.replace("t.colocationid IN (SELECT colocationid FROM pg_dist_schema)", "false")

_SHARDS = """
WITH size AS MATERIALIZED (
  SELECT shard_id::bigint AS shardid, max(size) AS bytes FROM citus_shard_sizes() GROUP BY 1)
SELECT s.shardid AS shard_id, s.logicalrelid::oid::bigint AS table_id, s.shardminvalue AS min_value,
       s.shardmaxvalue AS max_value, array_agg(p.groupid ORDER BY p.groupid) AS groups, max(z.bytes) AS bytes
  FROM pg_dist_shard s JOIN pg_dist_placement p USING (shardid) LEFT JOIN size z USING (shardid)
 WHERE p.shardstate = 1
 GROUP BY s.shardid, s.logicalrelid, s.shardminvalue, s.shardmaxvalue ORDER BY s.shardid
"""
_SHARD_SUMS = """
WITH size AS MATERIALIZED (
  SELECT shard_id::bigint AS shardid, max(size) AS bytes FROM citus_shard_sizes() GROUP BY 1)
SELECT s.logicalrelid::oid::bigint AS table_id, p.groupid AS group, count(*) AS shards,
       coalesce(sum(z.bytes), 0)::bigint AS bytes
  FROM pg_dist_shard s JOIN pg_dist_placement p USING (shardid) LEFT JOIN size z USING (shardid)
 WHERE p.shardstate = 1 GROUP BY 1, 2
"""
_SIZES = "SELECT shard_id::bigint AS shardid, max(size) AS bytes FROM citus_shard_sizes() GROUP BY 1"
_SIZES_FROM_VIEW = "SELECT shardid, max(shard_size) AS bytes FROM citus_shards GROUP BY 1"

# The same figures from the sizes of the files, for half the work: pg_total_relation_size(), which
# citus_shard_sizes() calls for every shard, opens each table with its indexes first. Reading files needs a superuser.
_SIZES_FROM_FILES = """SELECT (e->>0)::bigint AS shardid, max((e->>1)::bigint) AS bytes
    FROM run_command_on_all_nodes(%(files)s) r, jsonb_array_elements(r.result::jsonb) e WHERE r.success GROUP BY 1"""
_FILES = """
WITH place AS MATERIALIZED (
  SELECT oid AS db, dattablespace AS space, format('PG_%s_%s', current_setting('server_version_num')::int / 10000,
         (SELECT catalog_version_no FROM pg_control_system())) AS version
    FROM pg_database WHERE datname = current_database()),
folder AS (
  SELECT t.oid AS space, CASE t.spcname WHEN 'pg_default' THEN format('base/%s', p.db)
         ELSE format('pg_tblspc/%s/%s/%s', t.oid, p.version, p.db) END AS path
    FROM pg_tablespace t, place p WHERE t.spcname <> 'pg_global'),
file AS MATERIALIZED (
  SELECT f.space, substring(n FROM '^[0-9]+')::oid AS node, sum(s.size) AS bytes
    FROM folder f, pg_ls_dir(f.path, true, false) n, pg_stat_file(f.path || '/' || n, true) s
   WHERE n ~ '^[0-9]' GROUP BY 1, 2),
shard AS MATERIALIZED (
  SELECT s.shardid, to_regclass(shard_name(s.logicalrelid, s.shardid))::oid AS oid
    FROM pg_dist_shard s JOIN pg_dist_placement p USING (shardid)
   WHERE p.groupid = (SELECT groupid FROM pg_dist_local_group)),
part AS MATERIALIZED (
  SELECT s.shardid, x.oid FROM shard s JOIN pg_class c USING (oid), unnest(ARRAY[c.oid, c.reltoastrelid]) AS x (oid)
   WHERE x.oid <> 0),
relation AS (
  SELECT shardid, oid FROM part UNION ALL SELECT shardid, indexrelid FROM part JOIN pg_index ON indrelid = oid),
size AS (
  SELECT r.shardid, coalesce(sum(f.bytes), 0) AS bytes FROM relation r JOIN pg_class c USING (oid) LEFT JOIN file f
      ON f.node = c.relfilenode AND f.space = coalesce(nullif(c.reltablespace, 0), (SELECT space FROM place))
   GROUP BY 1)
SELECT coalesce(jsonb_agg(jsonb_build_array(shardid, bytes)), '[]') FROM size
"""

# What every node says of itself, as one JSON value. Names, not OIDs: those differ between nodes.
_REMOTE = {
    "versions": """jsonb_build_object(
 'postgresql_version', split_part(current_setting('server_version'), ' ', 1),
 'citus_version', coalesce(substring(citus_version() FROM '[0-9]+[.][0-9]+(?:[.][0-9]+)?'), citus_version()),
 'citus_text', citus_version(),
 'extension_version', (SELECT extversion FROM pg_extension WHERE extname = 'citus'),
 'started_at', pg_postmaster_start_time())""",
    "prepared_transactions": """jsonb_build_object(
 'prepared', (SELECT coalesce(jsonb_agg(jsonb_build_object('gid', gid, 'prepared_at', prepared, 'owner', owner,
   'age_seconds', floor(extract(epoch FROM now() - prepared))::bigint)), '[]')
   FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, 'citus_')),
 'decided', (SELECT coalesce(jsonb_agg(gid), '[]') FROM pg_dist_transaction))""",
    "drift": """jsonb_build_object(
 'nodes', (SELECT jsonb_build_array(count(*), md5(coalesce(string_agg(concat_ws(':', nodeid, groupid, nodename,
   nodeport, isactive, noderole, nodecluster, shouldhaveshards), ',' ORDER BY nodeid), ''))) FROM pg_dist_node),
 'tables', (SELECT jsonb_build_array(count(*), md5(coalesce(string_agg(line, ',' ORDER BY line COLLATE "C"), '')))
   FROM (SELECT concat_ws(':', n.nspname, c.relname, t.partmethod, t.repmodel, t.colocationid) AS line
   FROM pg_dist_partition t JOIN pg_class c ON c.oid = t.logicalrelid JOIN pg_namespace n ON n.oid = c.relnamespace) x),
 'shards', (SELECT jsonb_build_array(count(*), md5(coalesce(string_agg(concat_ws(':', s.shardid, c.relname,
   s.shardminvalue, s.shardmaxvalue), ',' ORDER BY s.shardid), '')))
   FROM pg_dist_shard s JOIN pg_class c ON c.oid = s.logicalrelid),
 'placements', (SELECT jsonb_build_array(count(*), md5(coalesce(string_agg(concat_ws(':', shardid, groupid, shardstate),
   ',' ORDER BY shardid, groupid), ''))) FROM pg_dist_placement),
 'colocation_groups', (SELECT jsonb_build_array(count(*), md5(coalesce(string_agg(concat_ws(':', colocationid,
   shardcount, replicationfactor, distributioncolumntype::regtype), ',' ORDER BY colocationid), '')))
   FROM pg_dist_colocation))""",
    # With the timeout of this session, which Citus' own citus_check_cluster_node_health() does not hand on:
    # there every node waits for its own citus.node_connection_timeout, 30 seconds for each node that is down.
    "health": """(SELECT jsonb_agg(jsonb_build_array(n->0, n->1, citus_check_connection_to_node(n->>0, (n->>1)::int)))
 FROM jsonb_array_elements(:nodes::jsonb) n
 WHERE set_config('citus.node_connection_timeout', :timeout, false) IS NOT NULL)""",
}


# ---- ask ---------------------------------------------------------------------------------------


def fetch_features(session: Session) -> Row:
    """Which optional parts of Citus' interface this server has."""
    return session.query(
        "SELECT to_regclass('pg_catalog.pg_dist_schema') IS NOT NULL AS schemas,"
        " to_regprocedure('pg_catalog.citus_shard_sizes()') IS NOT NULL AS shard_sizes,"
        " to_regproc('pg_catalog.citus_rebalance_status') IS NOT NULL AS rebalance_status,"
        " to_regproc('pg_catalog.get_rebalance_progress') IS NOT NULL AS rebalance_progress,"
        " to_regclass('pg_catalog.citus_lock_waits') IS NOT NULL AS lock_waits,"
        " to_regproc('pg_catalog.run_command_on_all_nodes') IS NOT NULL AS every_node,"
        " to_regproc('pg_catalog.citus_check_connection_to_node') IS NOT NULL AS check_connection"
    )[0]


def set_node_timeout(session: Session, seconds: int) -> None:
    """How long the coordinator tries to reach another node during this session (Citus' default: 30 seconds)."""
    session.query("SELECT set_config('citus.node_connection_timeout', %s, false)", (f"{seconds}s",))


def fetch_sizes(session: Session, features: Row, per_shard: bool, from_files: bool) -> list[Row]:
    """Shards with their size: one row a table and group, or with ``per_shard`` one row a shard.

    ``from_files`` is the quicker way, for a superuser.
    """
    statement = _SHARDS if per_shard else _SHARD_SUMS
    if from_files and features["every_node"]:
        return session.query(statement.replace(_SIZES, _SIZES_FROM_FILES), {"files": _FILES})
    return session.query(statement if features["shard_sizes"] else statement.replace(_SIZES, _SIZES_FROM_VIEW))


def fetch_tables(session: Session, features: Row) -> list[Row]:
    """All tables that Citus manages, without those of extensions."""
    return session.query(_TABLES if features["schemas"] else _TABLES_BEFORE_SCHEMAS)


def fetch_colocation_groups(session: Session) -> list[Row]:
    """All rows of ``pg_dist_colocation``."""
    return session.query(
        "SELECT colocationid AS colocation_id, shardcount AS shard_count, replicationfactor AS replication_factor,"
        " CASE WHEN distributioncolumntype <> 0 THEN distributioncolumntype::regtype::text END AS column_type"
        " FROM pg_dist_colocation ORDER BY colocationid"
    )


def fetch_moves(session: Session) -> list[Row]:
    """Shard moves that go on now, whoever started them."""
    return session.query(
        "SELECT sessionid AS pid, table_name::text AS table, shardid AS shard_id, shard_size AS bytes,"
        " sourcename || ':' || sourceport AS source, targetname || ':' || targetport AS target,"
        " target_shard_size AS bytes_copied,"
        " CASE progress WHEN 0 THEN 'waiting' WHEN 1 THEN 'moving' ELSE 'done' END AS state, status AS phase"
        " FROM get_rebalance_progress() ORDER BY sessionid, shardid"
    )


def fetch_lock_waits(session: Session) -> list[Row]:
    """Sessions that wait for a lock which a session on any node holds."""
    return session.query(
        "SELECT waiting_gpid, blocking_gpid, waiting_nodeid AS waiting_node_id, blocking_nodeid AS blocking_node_id,"
        " blocked_statement AS waiting_statement, current_statement_in_blocking_process AS blocking_statement"
        " FROM citus_lock_waits ORDER BY 1, 2"
    )


def fetch_every_node(session: Session, sections: Iterable[str]) -> list[Row]:
    """What all active primaries say of ``sections``, asked in parallel in one query."""
    parts = ", ".join(f"'{section}', {_REMOTE[section]}" for section in sorted(sections))
    rows = session.query(
        "SELECT nodeid AS node_id, success, result FROM run_command_on_all_nodes(replace(replace(%s,"
        " ':timeout', quote_literal(current_setting('citus.node_connection_timeout'))),"
        " ':nodes', quote_literal((SELECT jsonb_agg(jsonb_build_array(nodename, nodeport))"
        " FROM pg_dist_node WHERE isactive)::text)))",
        (f"SELECT jsonb_build_object({parts})",),
    )
    return [
        {
            "node_id": row["node_id"],
            "said": json.loads(row["result"]) if row["success"] else {},
            "error": None if row["success"] else " ".join(str(row["result"]).split()),
        }
        for row in rows
    ]


# ---- put together ------------------------------------------------------------------------------


class Sizes:
    """Counts and bytes of shards, by table and by group; built from the rows of :func:`fetch_sizes`."""

    def __init__(self, rows: Iterable[Row], kinds: Mapping[int, str]) -> None:
        self.table_bytes: dict[int, int] = defaultdict(int)
        self.group_shards: dict[int, int] = defaultdict(int)
        self.group_bytes: dict[int, int] = defaultdict(int)
        self.group_reference_bytes: dict[int, int] = defaultdict(int)
        for row in rows:
            table = row["table_id"]
            size = row["bytes"] or 0
            places = row["groups"] if "groups" in row else [row["group"]]
            for group in places:
                self.table_bytes[table] += size
                if kinds.get(table) == "reference":
                    self.group_reference_bytes[group] += size
                else:
                    self.group_shards[group] += row.get("shards", 1)
                    self.group_bytes[group] += size


def nodes_as_dicts(nodes: Sequence[Node], sizes: Sizes) -> list[Row]:
    """Every node with what its group holds."""
    return [
        {
            **asdict(node),
            "shard_count": sizes.group_shards[node.group],
            "bytes": sizes.group_bytes[node.group],
            "reference_bytes": sizes.group_reference_bytes[node.group],
        }
        for node in nodes
    ]


def groups_as_dicts(nodes: Sequence[Node], sizes: Sizes) -> list[Row]:
    """Every Citus group with its members."""
    result = []
    for group in sorted({node.group for node in nodes}):
        members = [node for node in nodes if node.group == group]
        primary = next((node for node in members if node.is_primary), None)
        result.append(
            {
                "group": group,
                "kind": "coordinator" if group == COORDINATOR_GROUP else "worker",
                "primary": str(primary) if primary else None,
                "secondaries": [str(node) for node in members if not node.is_primary],
                "is_active": bool(primary and primary.is_active),
                "should_have_shards": bool(primary and primary.should_have_shards),
                "shard_count": sizes.group_shards[group],
                "bytes": sizes.group_bytes[group],
                "reference_bytes": sizes.group_reference_bytes[group],
            }
        )
    return result


def tables_as_dicts(tables: Iterable[Row], sizes: Sizes) -> list[Row]:
    """Every table with its size; the OID, which means nothing to a reader, is left out."""
    return [
        {
            **{key: value for key, value in table.items() if key != "table_id"},
            "bytes": sizes.table_bytes[table["table_id"]],
        }
        for table in tables
    ]


def colocation_groups_as_dicts(groups: Iterable[Row], tables: Iterable[Row], sizes: Sizes) -> list[Row]:
    """Every colocation group with its tables."""
    members: dict[int, list[Row]] = defaultdict(list)
    for table in tables:
        members[table["colocation_id"]].append(table)
    return [
        {
            **group,
            "tables": [table["name"] for table in members[group["colocation_id"]]],
            "bytes": sum(sizes.table_bytes[table["table_id"]] for table in members[group["colocation_id"]]),
        }
        for group in groups
    ]


def shards_as_dicts(shards: Iterable[Row], tables: Iterable[Row], nodes: Sequence[Node]) -> list[Row]:
    """Every shard with the primaries it is on."""
    known = {table["table_id"]: table for table in tables}
    addresses = {node.group: str(node) for node in nodes if node.is_primary}
    return [
        {
            "shard_id": shard["shard_id"],
            "table": known[shard["table_id"]]["name"],
            "type": known[shard["table_id"]]["type"],
            "colocation_id": known[shard["table_id"]]["colocation_id"],
            "min_value": shard["min_value"],
            "max_value": shard["max_value"],
            "bytes": shard["bytes"],
            "placements": [addresses.get(group, f"group {group}") for group in shard["groups"]],
        }
        for shard in shards
        if shard["table_id"] in known
    ]


def rebalance_as_dict(job: Job | None, moves: list[Row]) -> Row:
    """The newest background job, and the moves that go on now."""
    newest = None
    if job is not None:
        newest = {
            **progress(job),
            "started_at": iso(job.started_at),
            "finished_at": iso(job.finished_at),
        }
    running = bool(job and job.is_active) or any(move["state"] != "done" for move in moves)
    return {"running": running, "job": newest, "moves": moves}


def iso(moment: datetime | None) -> str | None:
    """A point in time as text in UTC, or None."""
    return moment.astimezone(timezone.utc).isoformat(timespec="seconds") if moment else None


def find_deadlocks(waits: Iterable[Mapping[str, Any]]) -> list[list[int]]:
    """Circles among sessions that wait for one another, each once, starting with its smallest gpid.

    >>> find_deadlocks([{"waiting_gpid": 2, "blocking_gpid": 1}, {"waiting_gpid": 1, "blocking_gpid": 2}])
    [[1, 2]]
    """
    waits_for: dict[int, set[int]] = defaultdict(set)
    for wait in waits:
        waits_for[wait["waiting_gpid"]].add(wait["blocking_gpid"])
    circles: set[tuple[int, ...]] = set()
    finished: set[int] = set()
    for start in sorted(waits_for):
        path: list[int] = []
        # Depth first without recursion: (session, sessions it waits for that are still to be looked at)
        stack = [(start, sorted(waits_for[start]))] if start not in finished else []
        path += [start] if stack else []
        while stack:
            session, blockers = stack[-1]
            if not blockers:
                stack.pop()
                path.pop()
                finished.add(session)
                continue
            blocker = blockers.pop(0)
            if blocker in path:
                circle = path[path.index(blocker) :]
                first = circle.index(min(circle))
                circles.add(tuple(circle[first:] + circle[:first]))
            elif blocker not in finished and blocker in waits_for:
                stack.append((blocker, sorted(waits_for[blocker])))
                path.append(blocker)
    return [list(circle) for circle in sorted(circles)]


def versions_as_dicts(answers: Iterable[Row], nodes: Sequence[Node]) -> list[Row]:
    """The versions on every active primary, and why a node did not tell them."""
    nothing = {"postgresql_version": None, "citus_version": None, "extension_version": None, "started_at": None}
    result = []
    for node, answer in _with_nodes(answers, nodes):
        said = dict(answer["said"].get("versions", nothing))
        said["is_standin"] = "stand-in" in str(said.pop("citus_text", "")).lower()
        result.append({"node_id": node.node_id, "name": node.name, "port": node.port, **said, "error": answer["error"]})
    return result


def prepared_as_dicts(answers: Sequence[Row], nodes: Sequence[Node]) -> list[Row]:
    """Prepared transactions of Citus on every node, with what their initiator has decided.

    Citus names them ``citus_<initiator's group>_<pid>_<number>_<connection>`` and writes the name to
    ``pg_dist_transaction`` on the initiator when the transaction commits there
    (``src/backend/distributed/transaction/transaction_recovery.c``).
    """
    decided = {
        node.group: set(answer["said"].get("prepared_transactions", {}).get("decided", []))
        for node, answer in _with_nodes(answers, nodes)
        if not answer["error"]
    }
    result = []
    for node, answer in _with_nodes(answers, nodes):
        for entry in answer["said"].get("prepared_transactions", {}).get("prepared", []):
            group = _initiator(entry["gid"])
            if group not in decided:
                decision = "unknown"
            else:
                decision = "commit" if entry["gid"] in decided[group] else "open"
            place = {"node_id": node.node_id, "name": node.name, "port": node.port}
            result.append({**place, **entry, "initiator_group": group, "decision": decision})
    return sorted(result, key=lambda row: (-row["age_seconds"], row["gid"]))


def _initiator(gid: str) -> int | None:
    parts = gid.split("_")
    return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else None


def drift_as_dicts(answers: Sequence[Row], nodes: Sequence[Node]) -> list[Row]:
    """Catalogs that differ from the coordinator's; nodes without metadata are left out."""
    pairs = list(_with_nodes(answers, nodes))
    truth: Mapping[str, Any] = next(
        (answer["said"].get("drift", {}) for node, answer in pairs if node.group == COORDINATOR_GROUP), {}
    )
    result = []
    for node, answer in pairs:
        if node.group == COORDINATOR_GROUP or not node.has_metadata or answer["error"]:
            continue
        for catalog, (count, digest) in sorted(answer["said"].get("drift", {}).items()):
            expected, expected_digest = truth.get(catalog, (None, None))
            if digest != expected_digest:
                result.append(
                    {
                        "node_id": node.node_id,
                        "name": node.name,
                        "port": node.port,
                        "catalog": catalog,
                        "rows": count,
                        "coordinator_rows": expected,
                    }
                )
    return result


def health_as_dicts(answers: Sequence[Row], nodes: Sequence[Node]) -> list[Row]:
    """From every active primary to every active node; ``ok`` is None when the primary did not answer."""
    active = [node for node in nodes if node.is_active]
    result = []
    for node, answer in _with_nodes(answers, nodes):
        reached = {(name, port): ok for name, port, ok in answer["said"].get("health") or []}
        for other in active:
            result.append(
                {
                    "from_name": node.name,
                    "from_port": node.port,
                    "to_name": other.name,
                    "to_port": other.port,
                    "ok": reached.get(other.address),
                }
            )
    return result


def _with_nodes(answers: Iterable[Row], nodes: Sequence[Node]) -> Iterable[tuple[Node, Row]]:
    by_id = {answer["node_id"]: answer for answer in answers}
    return [(node, by_id[node.node_id]) for node in nodes if node.node_id in by_id]
