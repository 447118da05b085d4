# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The pooler as its clients see it."""

from __future__ import annotations

import psycopg2
import pytest
from client import ask, dsn, eventually, is_kept


def test_it_leads_to_the_leader() -> None:
    assert eventually(lambda: ask("SELECT pg_is_in_recovery(), current_user")) == [(False, "app")]


def test_ten_clients_share_three_sessions() -> None:
    clients = [psycopg2.connect(dsn(), connect_timeout=5) for _number in range(10)]
    try:
        backends = set()
        for client in clients:
            client.autocommit = True
            with client.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                backends |= set(cursor.fetchall())
        assert 1 <= len(backends) <= 3
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"password": "guessed"}, "authentication failed"),
        ({"user": "postgres", "password": "guessed"}, "authentication failed"),
        ({"sslmode": "disable"}, "SSL required|TLS required"),
    ],
)
def test_nobody_gets_in_without_password_and_encryption(wrong: dict[str, str], said: str) -> None:
    eventually(lambda: ask("SELECT 1"))
    with pytest.raises(psycopg2.OperationalError, match=said):
        ask("SELECT 1", **wrong)


def test_what_was_written_survives_the_failure() -> None:
    is_kept(distributed=False)
