# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""On which image the tests of this folder run.

The contract tests (``test_citus_*``, ``standin/``) run on real Citus when its package is there, and on the stand-in.
The others have nothing to do with Citus and run once. ``CITUS_HA_TEST_IMAGE`` names one image for all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from playbooks import citus_sources, node_image

GIVEN = os.environ.get("CITUS_HA_TEST_IMAGE")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a contract test once for each Citus there is."""
    if "citus_source" in metafunc.fixturenames:
        contract = "citus" in metafunc.module.__name__.rpartition(".")[2] or "standin" in metafunc.module.__name__
        sources = ["given"] if GIVEN else citus_sources()
        metafunc.parametrize("citus_source", sources if contract else sources[:1], indirect=True, scope="session")


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
