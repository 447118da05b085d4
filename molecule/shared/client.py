# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What the scenarios' tests share: a client of the cluster, and a way into a node."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psycopg2
import testinfra

T = TypeVar("T")
ROOT = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
# The folder: the file that molecule names in it knows nothing of the hosts that the scenario's own inventory has.
INVENTORY = ROOT / "inventory"


def dsn(port: int | None = None) -> str:
    """The application role's URI through the pooler, or another port of its host."""
    uri = (ROOT / "secrets/app.dsn").read_text().strip()
    if port is None:
        return uri
    host = uri.partition("@")[2].partition(":")[0]
    path = uri.partition("@")[2].partition("/")[2]
    return f"{uri.partition('@')[0]}@{host}:{port}/{path}"


def eventually(look: Callable[[], T], patience: float = 120) -> T:
    """What ``look`` returns once it is true and raises nothing: the cluster may still be recovering."""
    deadline = time.monotonic() + patience
    while True:
        try:
            if seen := look():
                return seen
            problem: object = f"it was {seen!r}"
        except Exception as error:  # whatever a server that is away makes of it
            problem = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience} seconds: {problem}")
        time.sleep(1)


def ask(statement: str, port: int | None = None, **parameters: Any) -> list[tuple[Any, ...]]:
    """Rows of one statement of the application role in a session of its own."""
    connection = psycopg2.connect(dsn(port), **{"connect_timeout": 5, **parameters})
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def kept(write: Callable[[str], object]) -> str:
    """A text that the first verify has written, and that has to be there after the failure, too."""
    file = ROOT / "kept"
    if not file.exists():
        token = secrets.token_hex(8)
        write(token)
        file.write_text(token)
    return file.read_text()


def is_kept(distributed: bool = True) -> None:
    """A row that a client wrote through the pooler is there, and alone, after the failure, too."""

    def write(token: str) -> None:
        ask("CREATE TABLE kept (token text PRIMARY KEY)")
        if distributed:
            ask("SELECT create_distributed_table('kept', 'token')")
        ask(f"INSERT INTO kept VALUES ('{token}')")

    token = kept(write)
    assert eventually(lambda: ask("SELECT token FROM kept")) == [(token,)]


def node(name: str, become: bool = False) -> Any:
    """A node as testinfra reaches it: as Ansible does, by docker exec or over SSH."""
    return testinfra.get_host(f"ansible://{name}?ansible_inventory={INVENTORY}&force_ansible=True", sudo=become)


def psql(name: str, statement: str, database: str = "postgres") -> str:
    """What a statement answers on a node, over its Unix socket."""
    command = f'psql -h /run/postgresql -U postgres -XAtc "{statement}" {database}'
    # A container's user is the right one already.
    in_container = node(name).run("id -un").stdout.strip() == "postgres"
    ran = node(name).run(command) if in_container else node(name, become=True).run(f"runuser -u postgres -- {command}")
    assert ran.rc == 0, ran.stderr
    return str(ran.stdout.strip())
