# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The cluster as a client sees it, before and after a failure of each kind of node."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import psycopg2
import testinfra

DSN = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "secrets/app.dsn")


def ask(statement: str, patience: float = 120) -> list[tuple[Any, ...]]:
    """Rows of a statement through the pooler; tried again while the cluster recovers."""
    deadline = time.monotonic() + patience
    while True:
        try:
            connection = psycopg2.connect(DSN.read_text().strip(), connect_timeout=5)
            try:
                connection.autocommit = True
                with connection.cursor() as cursor:
                    cursor.execute(statement)
                    return cursor.fetchall()
            finally:
                connection.close()
        except psycopg2.Error:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def test_the_pooler_leads_to_the_leader() -> None:
    assert ask("SELECT pg_is_in_recovery(), current_user") == [(False, "app")]


def test_both_groups_are_registered() -> None:
    assert ask("SELECT count(DISTINCT groupid) FROM pg_dist_node WHERE noderole = 'primary' AND isactive") == [(2,)]


def test_the_standalone_server_has_no_citus() -> None:
    host = testinfra.get_host("docker://molecule-postgres-1")
    answer = host.run(
        "psql -h /run/postgresql -U postgres -XAtc \"SELECT count(*) FROM pg_extension WHERE extname = 'citus'\" app"
    )
    assert answer.stdout.strip() == "0"
