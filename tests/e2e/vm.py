# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Machines with systemd for a test, reached over SSH by a user that is not root: tests/machines makes them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2

from playbooks import REPOSITORY, Run, citus_sources, run_playbook


class Machines:
    """The machines of an inventory, and what a person with a console does to them."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.inventory = folder / "inventory"
        # What the inventory says of every machine
        self.variables: dict[str, Any] = {
            "cluster_name": name,
            "service_manager": "systemd",
            "ansible_user": "admin",
            "ansible_python_interpreter": "/usr/bin/python3",
            "machines_path": str(folder / "machines"),
            "ansible_ssh_private_key_file": "{{ machines_path }}/key",
            "ansible_ssh_common_args": (
                "-o UserKnownHostsFile={{ machines_path }}/known_hosts -o StrictHostKeyChecking=accept-new"
            ),
            "postgres_memory": "512m",
            # Whose kernel is this machine's: its parameters are read-only there.
            "os_sysctl": {},
            "citus_package_source": citus_sources()[0],
            "citus_allow_standin": True,
            "citus_standin_path": str(REPOSITORY / "tests/standin"),
        }

    def play(self, name: str, *arguments: str, timeout: float = 1500) -> Run:
        """Run a playbook."""
        return run_playbook(name, self.inventory, *arguments, timeout=timeout)

    def console(self, machine: str, command: str, check: bool = True) -> str:
        """Standard output of a shell command as root on the machine."""
        ran = subprocess.run(
            ["docker", "exec", f"{self.name}.{machine}", "sh", "-c", command],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert ran.returncode == 0 or not check, f"{command} on {machine}: {ran.stderr}"
        return ran.stdout.strip()

    def power(self, verb: str, *machines: str) -> None:
        """``stop``, ``start`` or ``restart`` machines."""
        subprocess.run(
            ["docker", verb, *(f"{self.name}.{machine}" for machine in machines)],
            check=True,
            capture_output=True,
            timeout=120,
        )

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of a statement of the application role, through the pooler."""
        connection = psycopg2.connect((self.inventory / ".secrets/app.dsn").read_text().strip(), connect_timeout=5)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall()
        finally:
            connection.close()


@contextmanager
def switched_on(made: Machines) -> Iterator[None]:
    """The machines that the inventory names when the block begins and when it ends, with nothing on them."""
    playbooks = "../tests/machines"
    made.play(f"{playbooks}/destroy").succeeded()
    try:
        made.play(f"{playbooks}/create").succeeded()
        yield
    finally:
        made.play(f"{playbooks}/destroy").succeeded()
