# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""How long citus_info takes on many tables, beside Citus' own views asked in one session.

    CITUS_HA_TEST_IMAGE=... python tests/bench/bench_info.py [--tables 1000] [--shards 32] [--rounds 3]

Starts a coordinator and two workers in containers, distributes the tables (which takes minutes), and prints
seconds and the number of queries. The aim is 3 seconds for 1,000 tables of 32 shards.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent / ".collections"), str(TESTS), str(TESTS / "integration")]

from ansible_collections.citus_ha.cluster.plugins.module_utils import _connection  # noqa: E402
from citus_cluster import Cluster, citus_cluster  # noqa: E402
from servers import Server  # noqa: E402

GATHER = {
    "citus_info, its default": None,
    "citus_info, [nodes, tables]": ["nodes", "tables"],
    "citus_info, [nodes, tables, shards]": ["nodes", "tables", "shards"],
    "citus_info, all": ["all"],
}
BY_HAND = {"by hand: SELECT * FROM citus_tables": "TABLE citus_tables", "by hand: citus_shards": "TABLE citus_shards"}
BATCH = 50


def distribute(cluster: Cluster, tables: int, shards: int) -> None:
    """Make and distribute the tables, some in one transaction."""
    for first in range(0, tables, BATCH):
        numbers = range(first, min(first + BATCH, tables))
        statements = [f"CREATE TABLE bench_{number} (id bigint PRIMARY KEY, payload text)" for number in numbers]
        for number in numbers:
            how = f"shard_count => {shards}, colocate_with => 'none'" if number == 0 else "colocate_with => 'bench_0'"
            statements.append(f"SELECT create_distributed_table('bench_{number}', 'id', {how})")
        cluster.sql("; ".join(statements))
        print(f"\r{numbers[-1] + 1} of {tables} tables", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)


def best_of(rounds: int, work: Callable[[], Any]) -> float:
    """Seconds of the quickest of some rounds."""
    seconds = []
    for _round in range(rounds):
        began = time.monotonic()
        work()
        seconds.append(time.monotonic() - began)
    return min(seconds)


def measure(cluster: Cluster, rounds: int) -> None:
    """Print one line for each way to ask."""
    queries = 0
    original = _connection.Session._run

    def counting(self: Any, statement: Any, values: Any, fetch: bool) -> Any:
        nonlocal queries
        queries += 1
        return original(self, statement, values, fetch)

    _connection.Session._run = counting  # type: ignore[method-assign]
    tables, shards = cluster.sql(
        "SELECT (SELECT count(*) FROM pg_dist_partition), (SELECT count(*) FROM pg_dist_shard)"
    )[0]
    print(f"{tables} tables, {shards} shards, {cluster.citus}")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores: figures from a busy machine say little")
    for name, gather in GATHER.items():
        queries = 0
        options: dict[str, Any] = {"gather": gather} if gather else {}
        seconds = best_of(rounds, partial(cluster.call, "citus_info", **options))
        print(f"{seconds:7.2f} s  {name} ({queries // rounds} queries)")
    for name, statement in BY_HAND.items():
        print(f"{best_of(rounds, partial(cluster.sql, statement)):7.2f} s  {name}")


def main() -> None:
    """Read the arguments, and run on servers of its own or on a cluster that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--host", help="coordinator of a cluster that has tables already, trusting user postgres")
    arguments = parser.parse_args()
    if arguments.host:
        server = Server("coordinator", arguments.host, None)
        cluster = Cluster({"coordinator": server}, "")
        version = cluster.sql("SELECT citus_version()")[0][0]
        measure(Cluster({"coordinator": server}, version), arguments.rounds)
        return
    with citus_cluster(settings={"max_locks_per_transaction": "4096", "shared_buffers": "512MB"}) as started:
        distribute(started, arguments.tables, arguments.shards)
        measure(started, arguments.rounds)


if __name__ == "__main__":
    main()
