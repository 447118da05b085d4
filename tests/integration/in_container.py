# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""Run a module inside a test's container, as Ansible would, without a connection plugin in between."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import ansible
from servers import Server

HOME = "/opt/ansible"
COLLECTION = Path(__file__).resolve().parents[2]

RUN = """
import importlib, json, sys
from ansible.module_utils.testing import patch_module_args
module = importlib.import_module("ansible_collections.citus_ha.cluster.plugins.modules." + sys.argv[1])
with patch_module_args(json.loads(sys.argv[2])):
    module.main()
"""


def install(server: Server) -> None:
    """Put ansible-core's module_utils and this collection's plugins into the container."""
    core = Path(ansible.__file__).parent
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("__init__.py", "release.py", "_vendor", "module_utils"):
            tar.add(core / name, f"{HOME[1:]}/ansible/{name}", filter=_no_cache)
        plugins = "ansible_collections/citus_ha/cluster/plugins"
        for name in ("module_utils", "modules"):
            tar.add(COLLECTION / "plugins" / name, f"{HOME[1:]}/{plugins}/{name}", filter=_no_cache)
    server.container.put_archive("/", archive.getvalue())
    # The modules run as another user, who cannot keep what Python compiles.
    server.run(["python3", "-m", "compileall", "-q", "-j2", HOME], user="root")


def _no_cache(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name else entry


def call(server: Server, module: str, check: bool = False, user: str = "postgres", **options: Any) -> dict[str, Any]:
    """The module's result; ``failed`` in it tells of a failure."""
    arguments = json.dumps({**options, "_ansible_check_mode": check, "_ansible_diff": True})
    code, (output, errors) = server.container.exec_run(
        ["python3", "-c", RUN, module, arguments], user=user, environment={"PYTHONPATH": HOME}, demux=True
    )
    try:
        result: dict[str, Any] = json.loads(output or b"")
    except ValueError as error:
        raise RuntimeError(
            f"{module} ended with {code}: {(output or b'').decode()}\n{(errors or b'').decode()}"
        ) from error
    return result
