# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""A Citus cluster of fresh servers for one test file, and modules run against it in this process."""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from servers import Server, servers

DATABASE = "app"
REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = "ansible_collections.citus_ha.cluster.plugins.modules"


def call_here(module: str, check: bool = False, **options: Any) -> dict[str, Any]:
    """The result of a module, run in this process."""
    arguments = {"_ansible_check_mode": check, "_ansible_diff": True, **options}
    output = io.StringIO()
    code = importlib.import_module(f"{MODULES}.{module}")
    with patch_module_args(arguments), redirect_stdout(output), pytest.raises(SystemExit):
        code.main()
    result: dict[str, Any] = json.loads(output.getvalue())
    return result


@dataclass(frozen=True)
class Cluster:
    """Servers by name; ``coordinator`` is one of them."""

    servers: Mapping[str, Server]
    citus: str

    @property
    def coordinator(self) -> Server:
        """The server that is Citus group 0."""
        return self.servers["coordinator"]

    @property
    def is_standin(self) -> bool:
        """Whether these servers run the lab's stand-in."""
        return "stand-in" in self.citus.lower()

    def sql(
        self, statement: str, values: Any = None, server: str = "coordinator", **connection: Any
    ) -> list[tuple[Any, ...]]:
        """Rows of one statement in the cluster's database."""
        return self.servers[server].query(statement, values, **{"dbname": DATABASE, **connection})

    def nodes(self) -> list[tuple[Any, ...]]:
        """(group, role, name, port, active, should have shards) of every row of pg_dist_node."""
        return self.sql(
            "SELECT groupid, noderole::text, nodename, nodeport, isactive, shouldhaveshards FROM pg_dist_node"
            " ORDER BY groupid, noderole, nodename"
        )

    def call(self, module: str, server: str = "coordinator", check: bool = False, **options: Any) -> dict[str, Any]:
        """The result of a module, run in this process against ``server``."""
        assert "ansible._internal" not in sys.modules, "run this suite in a process of its own: scripts/test.sh"
        where = self.servers[server]
        arguments = {
            "login_host": where.address,
            "login_port": where.port,
            "login_db": DATABASE,
            **options,
        }
        return call_here(module, check, **arguments)

    def cut(self, statement: str) -> None:
        """Kill the next session of a module whose last statement holds these words; for a thread."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            killed = self.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'citus_ha' AND query LIKE '%%' || %s || '%%'",
                [statement],
            )
            if killed:
                return
            time.sleep(0.02)

    def play(self, folder: Path, *tasks: dict[str, Any]) -> str:
        """What ansible-playbook prints for ``tasks``; the way to see what a task says while it runs."""
        playbook = folder / "play.yml"
        play = {"hosts": "localhost", "gather_facts": False, "tasks": list(tasks)}
        playbook.write_text(json.dumps([play]), encoding="utf-8")
        program = Path(sys.executable).parent / "ansible-playbook"
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".collections"),
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_NOCOLOR": "1",
        }
        command = [str(program), "-i", "localhost,", "-c", "local", str(playbook)]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def ok(self, module: str, **options: Any) -> dict[str, Any]:
        """As :meth:`call`, for what has to succeed."""
        result = self.call(module, **options)
        assert not result.get("failed"), result["msg"]
        return result

    def refused(self, module: str, **options: Any) -> str:
        """As :meth:`call`, for what has to fail; returns the message."""
        result = self.call(module, **options)
        assert result.get("failed"), result
        return str(result["msg"])

    def four_times(self, module: str, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Check, apply, apply again, check again; ``changed`` has to be right each time."""
        before = self.nodes()
        predicted = self.ok(module, check=True, **options)
        assert self.nodes() == before, "check mode has changed something"
        applied = self.ok(module, **options)
        assert predicted["changed"] is True
        assert applied["changed"] is True
        for check in (False, True):
            again = self.ok(module, check=check, **options)
            assert again["changed"] is False, again
            assert "diff" not in again
            assert again["queries"] == []
        return predicted, applied


@contextmanager
def citus_cluster(
    workers: Sequence[str] = ("worker1", "worker2"),
    register: bool = True,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """Start a coordinator and ``workers``, each with the extension in :data:`DATABASE`; register them as 1, 2, ..."""
    with servers(["coordinator", *workers], settings=settings) as started:
        for server in started.values():
            server.query(f"CREATE DATABASE {DATABASE}")
            server.query("CREATE EXTENSION citus", dbname=DATABASE)
        citus = started["coordinator"].query("SELECT citus_version()", dbname=DATABASE)[0][0]
        print(f"Runs on {citus}")
        cluster = Cluster(started, citus)
        if register:
            cluster.sql("SELECT citus_set_coordinator_host('coordinator', 5432)")
            for group, name in enumerate(workers, start=1):
                cluster.sql("SELECT citus_add_node(%s, 5432, %s)", [name, group])
        yield cluster
