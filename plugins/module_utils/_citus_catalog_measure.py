# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What only the rows themselves tell of tables that are to change: how many there are, NULLs and different values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_details import Column, Details
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_server import Server
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_tables import Table
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session, pgsql


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
