# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""HAProxy with the role's configuration, while another server takes over: clients wait, and not for long."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import failing_over
import jinja2
import pytest
import yaml
from ansible_collections.citus_ha.cluster.plugins.filter.addresses import FilterModule
from servers import Server, servers

ROLES = Path(__file__).resolve().parents[2] / "roles"
NUMBERS: dict[str, Any] = yaml.safe_load((ROLES / "ha/vars/main.yml").read_text())["ha_profiles"]["fast"]
# Seconds after the death, seconds that it took, who answered.
Connection = tuple[float, float, str]
# By how long it took until the death was noticed.
Seen = dict[float, list[Connection]]
# From before HAProxy's check notices the death until long after: each finds HAProxy in another state.
DETECTED_AFTER = (0.1, 0.25, 0.4, 0.8, 1.5, 2.2)


def configuration() -> str:
    """What the role writes for the two servers."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)
    environment.filters |= {f"citus_ha.cluster.{name}": function for name, function in FilterModule().filters().items()}
    environment.filters["bool"] = bool
    addresses = [
        {
            "name": name,
            "ip": "127.0.0.1",
            "ports": {"postgres_port": port, "postgres_patroni_port": failing_over.PATRONI[name]},
        }
        for name, port in failing_over.POSTGRES.items()
    ]
    return environment.from_string((ROLES / "haproxy/templates/haproxy.cfg.j2").read_text()).render(
        **NUMBERS,
        ansible_managed="by a test",
        cluster_control_plane_tls=False,
        haproxy_check_verify="none",
        haproxy_max_connections=100,
        haproxy_primary_port=failing_over.HAPROXY,
        haproxy_standby_port=5001,
        haproxy_stats_port=8404,
        __haproxy_listen=["127.0.0.1"],
        __haproxy_patroni=True,
        __haproxy_servers=addresses,
    )


@pytest.fixture(scope="module")
def seen() -> Seen:
    """How each connection went, by how long it took until the death was noticed."""
    program, haproxy = Path(failing_over.__file__).read_text(), configuration()

    def run(host: Server, after: float) -> list[Connection]:
        said = host.run(["python3", "-c", program, haproxy, str(after)])
        return [tuple(connection) for connection in json.loads(said)]

    names = [f"host{number}" for number in range(len(DETECTED_AFTER))]
    with servers(names, initdb=False) as hosts, ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(DETECTED_AFTER, pool.map(run, hosts.values(), DETECTED_AFTER), strict=True))


def test_whoever_connects_while_nobody_leads_waits(seen: Seen) -> None:
    refused = {after: [c for c in connections if c[2] not in ("b", "nothing")] for after, connections in seen.items()}
    assert not any(refused.values()), refused
    assert min(map(len, seen.values())) > 20


def test_nobody_waits_for_long_once_somebody_leads(seen: Seen) -> None:
    late = {
        after: [c for c in connections if c[0] + c[1] > after + failing_over.TAKE_OVER + 1.5 and c[1] > 0.5]
        for after, connections in seen.items()
    }
    # One that fails at the very moment in which a check marks its server down hangs (HAProxy 3.0.11): seldom, and
    # PgBouncer gives it up after pgbouncer_server_connect_timeout.
    assert sum(map(len, late.values())) <= 1, late
