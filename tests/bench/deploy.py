# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""How long a deployment takes: ``make bench-deploy``.

Times site.yml of the default Docker inventory on an empty engine, up to the first row in a distributed table, then
site.yml again; counts the module executions on each node. The cluster is that of the end-to-end tests, with names,
ports and an inventory of its own, and is removed in the end; a demo cluster on the same machine is left alone. The
image is built before the clock starts.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import docker

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "e2e"))

from cluster import Cluster, cluster  # noqa: E402 found by the line above

# Seconds on 2 cores with the image built
LIMITS = {"first": 120.0, "again": 45.0}


def measured(made: Cluster, name: str) -> tuple[float, dict[str, Any]]:
    """Run a playbook; return its seconds and what the callback bench_count counted."""
    counts = made.inventory.parent / "counts.json"
    os.environ["BENCH_COUNT_FILE"] = str(counts)
    started = time.monotonic()
    run = made.play(name)
    seconds = time.monotonic() - started
    if run.code != 0:
        raise SystemExit(f"{run.output}\nplaybooks/{name}.yml failed after {seconds:.0f} s")
    return seconds, json.loads(counts.read_text())


def insert_first_row(made: Cluster) -> float:
    """Insert into a distributed table as an application would; return the seconds that this took."""
    started = time.monotonic()
    made.query("CREATE TABLE bench_deploy (key bigint PRIMARY KEY)")
    made.query("SELECT create_distributed_table('bench_deploy', 'key')")
    made.query("INSERT INTO bench_deploy VALUES (1)")
    return time.monotonic() - started


def report(title: str, seconds: float, limit: float, counted: dict[str, Any]) -> None:
    """Print one measurement as a person reads it."""
    modules = counted["modules"]
    print(f"\n{title}: {seconds:.1f} s (at most {limit:.0f} s), {counted['changed']} changes")
    print(f"  module executions: {sum(modules.values())} on {len(modules)} hosts")
    print("  " + "  ".join(f"{host} {count}" for host, count in sorted(modules.items())))
    print("  slowest tasks:")
    for name, spent in counted["slowest"]:
        print(f"    {spent:6.1f} s  {name}")


def main() -> None:
    os.environ["ANSIBLE_CALLBACK_PLUGINS"] = str(TESTS / "bench/callback_plugins")
    os.environ["ANSIBLE_CALLBACKS_ENABLED"] = "bench_count"
    os.environ["BENCH_COUNT_FILE"] = os.devnull
    name = "citus_ha_test"
    if docker.from_env().containers.list(all=True, filters={"label": f"io.citus_ha.cluster={name}"}):
        raise SystemExit(f"The tests' cluster {name} is in use, and this takes its names and ports: wait for its end.")
    with tempfile.TemporaryDirectory() as folder, cluster(Path(folder) / "bench") as made:
        if made.play("image", timeout=1800).code != 0:
            raise SystemExit("The node image cannot be built: see make image.")
        first, counted = measured(made, "site")
        first += insert_first_row(made)
        report("site.yml on an empty engine, to the first row", first, LIMITS["first"], counted)
        again, counted = measured(made, "site")
        report("site.yml again", again, LIMITS["again"], counted)


if __name__ == "__main__":
    main()
