# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The proxy as HTTP and as SQL clients see it."""

from __future__ import annotations

from client import ask, eventually, is_kept, node

PRIMARY, STANDBY = 35000, 35001


def test_one_port_leads_to_the_leader() -> None:
    assert eventually(lambda: ask("SELECT pg_is_in_recovery()", port=PRIMARY)) == [(False,)]


def test_the_other_one_leads_to_the_standby() -> None:
    eventually(lambda: ask("SELECT pg_is_in_recovery()", port=STANDBY) == [(True,)])


def test_patroni_says_over_http_who_leads() -> None:
    def answers() -> list[str]:
        asked = "curl --silent --cacert /etc/citus_ha/tls/ca.crt --output /dev/null --write-out '%{http_code}'"
        names = ("molecule-coordinator-1", "molecule-coordinator-2")
        return sorted(node("molecule-pgbouncer-1").run(f"{asked} https://{name}:8008/primary").stdout for name in names)

    assert eventually(lambda: answers() == ["200", "503"])


def test_its_status_is_for_the_machine_alone() -> None:
    asked = node("molecule-coordinator-1").run("curl --silent --max-time 5 http://molecule-pgbouncer-1-haproxy:8404/")
    assert asked.rc == 7, "the port must refuse connections"


def test_what_was_written_survives_the_failure() -> None:
    is_kept(distributed=False)
