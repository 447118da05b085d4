# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""etcd as a client sees it."""

from __future__ import annotations

import json
import time

import pytest
import testinfra
from client import kept

MEMBERS = [f"molecule-etcd-{number}" for number in (1, 2, 3)]
TLS = (
    "--cacert=/etc/citus_ha/tls/ca.crt "
    "--cert=/etc/citus_ha/etcd_client/client.crt --key=/etc/citus_ha/etcd_client/client.key"
)


def etcdctl(member: str, arguments: str) -> testinfra.backend.base.CommandResult:
    """Run etcdctl inside a member, with its certificate."""
    return testinfra.get_host(f"docker://{member}").run(f"etcdctl {TLS} --endpoints=https://{member}:2379 {arguments}")


@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_is_healthy(member: str) -> None:
    deadline = time.monotonic() + 60
    while (result := etcdctl(member, "endpoint health")).rc != 0 and time.monotonic() < deadline:
        time.sleep(1)
    assert result.rc == 0, result.stderr


def test_the_members_are_those_of_the_inventory() -> None:
    listed = json.loads(etcdctl(MEMBERS[0], "member list --write-out=json").stdout)
    assert sorted(member["name"] for member in listed["members"]) == MEMBERS


def test_what_one_member_is_told_the_others_know_and_keep() -> None:
    def write(token: str) -> None:
        assert etcdctl(MEMBERS[0], f"put /molecule {token}").rc == 0

    token = kept(write)
    for member in MEMBERS:
        assert etcdctl(member, "get --print-value-only /molecule").stdout.strip() == token


@pytest.mark.parametrize("member", MEMBERS)
def test_nobody_gets_in_without_a_certificate(member: str) -> None:
    host = testinfra.get_host(f"docker://{member}")
    assert host.run(f"curl --silent --max-time 5 http://{member}:2379/health").rc != 0
    assert (
        host.run(f"curl --silent --max-time 5 --cacert /etc/citus_ha/tls/ca.crt https://{member}:2379/v3/kv/range").rc
        != 0
    )
