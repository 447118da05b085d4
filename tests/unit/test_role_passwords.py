# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Which roles get another password."""

from __future__ import annotations

import pytest
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput
from ansible_collections.citus_ha.cluster.plugins.modules.role_passwords import to_change


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"app": "old", "report": "old"}, ["app", "report"]),
        ({"app": "new a", "report": "old"}, ["report"]),
        ({"app": None, "report": "new r"}, ["app"]),
        ({"app": "new a", "report": "new r"}, []),
    ],
)
def test_only_what_differs_is_changed(stored: dict[str, str | None], expected: list[str]) -> None:
    assert to_change(stored, {"report": "new r", "app": "new a"}) == expected


def test_a_role_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidInput, match="has no role report"):
        to_change({"app": "x"}, {"app": "y", "report": "z"})
