# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""How long citus_distribute takes for many tables, in pairs with the same work done by hand in one psql session.

    CITUS_HA_TEST_IMAGE=... python tests/bench/bench_modules.py --tables 1000 --shards 32 --pairs 1

It starts servers of its own and prints a table. Each run of the module is a Python process of its own, as under
Ansible. The budgets: by module at most 1.2 times by hand; a run with nothing to do at most 1.5 s.
Prints the load of the machine too: figures from a busy one say little.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
COLLECTIONS = REPOSITORY / ".collections"
sys.path[:0] = [str(COLLECTIONS), str(REPOSITORY / "tests" / "integration")]

from citus_cluster import DATABASE, Cluster, citus_cluster  # noqa: E402

# Counts what the module sends: every statement of the session goes through Session._run.
MODULE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from ansible.module_utils.testing import patch_module_args
from ansible_collections.citus_ha.cluster.plugins.module_utils import _connection
from ansible_collections.citus_ha.cluster.plugins.modules import citus_distribute
opened = []
create = _connection.Session.__init__
def init(self, *arguments):
    opened.append(self)
    create(self, *arguments)
_connection.Session.__init__ = init
try:
    with patch_module_args(json.load(sys.stdin)):
        citus_distribute.main()
finally:
    print("\\n" + str(sum(session.round_trips for session in opened)), file=sys.stderr)
"""


def module(cluster: Cluster, schema: str, tables: int, check: bool = False) -> tuple[float, int, dict[str, Any]]:
    """Seconds, statements sent and the result of one run."""
    given = {
        "login_host": cluster.coordinator.address,
        "login_db": DATABASE,
        "tables": [{"name": f"{schema}.t{number}"} for number in range(tables)],
        "column": "id",
        "_ansible_check_mode": check,
    }
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MODULE, str(COLLECTIONS)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - started
    result = json.loads(done.stdout)
    if result.get("failed"):
        raise SystemExit(result["msg"])
    return seconds, int(done.stderr.strip().splitlines()[-1]), result


def by_hand(cluster: Cluster, schema: str, tables: int) -> float:
    """Seconds for the same statements, one after the other, in one psql session inside the coordinator."""
    script = "".join(f"SELECT create_distributed_table('{schema}.t{number}', 'id');\n" for number in range(tables))
    started = time.monotonic()
    psql = ["psql", "--dbname", DATABASE, "--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--output", "/dev/null"]
    command = ["docker", "exec", "--interactive", cluster.coordinator.container.name, *psql]
    subprocess.run(command, input=script, text=True, check=True)
    return time.monotonic() - started


def fresh_tables(cluster: Cluster, schema: str, tables: int) -> None:
    """Plain tables with a primary key, in a schema of their own: dropping the last ones would take as long as a run."""
    cluster.sql(f"CREATE SCHEMA {schema}")
    for first in range(0, tables, 100):
        cluster.sql(
            ";".join(
                f"CREATE TABLE {schema}.t{number} (id bigint PRIMARY KEY, payload text)"
                for number in range(first, min(first + 100, tables))
            )
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=1)
    wanted = parser.parse_args()
    hand, ours, again, checked = [], [], [], []
    with citus_cluster(settings={"citus.shard_count": str(wanted.shards)}) as cluster:
        for pair in range(wanted.pairs):
            # Whoever comes second finds warmer servers: they take turns.
            for who in ("hand", "module") if pair % 2 == 0 else ("module", "hand"):
                schema = f"{who}{pair}"
                fresh_tables(cluster, schema, wanted.tables)
                if who == "hand":
                    hand.append(by_hand(cluster, schema, wanted.tables))
                    print(f"by hand: {hand[-1]:.1f} s", flush=True)
                    continue
                seconds, queries, _result = module(cluster, schema, wanted.tables, check=True)
                checked.append(seconds)
                print(f"check mode: {seconds:.1f} s, {queries} statements", flush=True)
                seconds, queries, result = module(cluster, schema, wanted.tables)
                ours.append(seconds)
                print(
                    f"by module: {seconds:.1f} s, {queries} statements, {result['transactions']} transactions",
                    flush=True,
                )
                for _run in range(3):
                    seconds, queries, result = module(cluster, schema, wanted.tables)
                    again.append(seconds)
                    if result["changed"]:
                        raise SystemExit("the second run changed something")
                print(f"again: {again[-1]:.2f} s, {queries} statements", flush=True)
    ratio = statistics.median(ours) / statistics.median(hand)
    print(f"\n{wanted.tables} tables x {wanted.shards} shards, {wanted.pairs} pair(s), load {os.getloadavg()[0]:.1f}")
    print(f"{'by hand (psql)':<24}{statistics.median(hand):>8.1f} s")
    print(f"{'by citus_distribute':<24}{statistics.median(ours):>8.1f} s   x {ratio:.2f}  (budget 1.20)")
    print(f"{'check mode before':<24}{statistics.median(checked):>8.2f} s")
    print(f"{'second run':<24}{statistics.median(again):>8.2f} s   {queries} statements  (budget 1.50 s)")


if __name__ == "__main__":
    main()
