# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""On which image the tests of this folder run.

The contract tests (``test_citus_*``) run on real Citus when its package is there, and then on the stand-in; those of
the stand-in itself (``standin/``) the other way round. The second run is marked slow. Other tests run once.
``CITUS_HA_TEST_IMAGE`` names one image for all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from playbooks import citus_sources, node_image

GIVEN = os.environ.get("CITUS_HA_TEST_IMAGE")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a contract test on each Citus there is; all but the one that it is about first are marked slow."""
    if "citus_source" not in metafunc.fixturenames:
        return
    path = metafunc.definition.path
    about_standin = path.parent.name == "standin"
    sources = ["given"] if GIVEN else citus_sources()[:: -1 if about_standin else 1]
    if not (about_standin or path.name.startswith("test_citus_")):
        sources = sources[:1]
    parameters = [sources[0], *(pytest.param(source, marks=pytest.mark.slow) for source in sources[1:])]
    metafunc.parametrize("citus_source", parameters, indirect=True, scope="session")


@pytest.fixture(scope="session", autouse=True)
def citus_source(request: pytest.FixtureRequest) -> Iterator[str]:
    """``files``, ``standin`` or ``given``; the image is built when it is missing."""
    source: str = request.param
    if source != "given":
        os.environ["CITUS_HA_TEST_IMAGE"] = node_image(source)
    print(f"\ncontract: on {source}, image {os.environ['CITUS_HA_TEST_IMAGE']}")
    yield source
    if source != "given":
        del os.environ["CITUS_HA_TEST_IMAGE"]
