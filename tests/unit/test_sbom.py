# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The list of what is in the node image."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PATH = Path(__file__).resolve().parents[2] / "roles/citus/files/image/sbom.py"
SPEC = importlib.util.spec_from_file_location("sbom", PATH)
assert SPEC is not None and SPEC.loader is not None
sbom = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(sbom)

LISTED = (
    "patroni\t4.0.7-1\tall\tpatroni\t4.0.7-1\tSomebody <a@b>\tinstalled\n"
    "libpq5\t17.11-0+deb13u1\tamd64\tpostgresql-17\t17.11-0+deb13u1\tSomebody <a@b>\tinstalled\n"
    "gone\t1:2~3\tall\tgone\t1:2~3\tSomebody <a@b>\tconfig-files\n"
)


def test_every_installed_package_is_listed_once_with_its_source() -> None:
    made = sbom.document(LISTED, "debian-13", {"citus_source": "standin"})
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.5")
    assert [(c["name"], c["version"], c["purl"]) for c in made["components"]] == [
        ("patroni", "4.0.7-1", "pkg:deb/debian/patroni@4.0.7-1?arch=all&distro=debian-13"),
        (
            "libpq5",
            "17.11-0+deb13u1",
            "pkg:deb/debian/libpq5@17.11-0%2Bdeb13u1?arch=amd64&distro=debian-13&upstream=postgresql-17%4017.11-0%2Bdeb13u1",
        ),
    ]
    assert made["metadata"]["properties"] == [{"name": "io.citus_ha.citus_source", "value": "standin"}]
