# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Text as an attacker or a template gone wrong would write it, for hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

#: A hundred inputs, the same ones every time.
hundred = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

HOSTILE = st.one_of(
    st.text(max_size=80),
    st.text(alphabet="\"'.;-\\%{}$s \0\n", max_size=20),
    st.sampled_from(
        [
            "'; DROP TABLE s.victim; --",
            '"; DROP TABLE s.victim; --"',
            "s.victim; DROP TABLE s.victim",
            '"s"."victim""; DROP TABLE s.victim --"',
            "$$; DROP TABLE s.victim; $$",
            "%s",
            "%(x)s",
            "{table}",
            "\ud800",
            "a" * 64,
            "a" * 300,
            "pg_catalog.pg_class",
            "pg_class",
            "a.b.c.d",
            '""',
            "$(touch /tmp/hostile)",
            "--help",
            "http://[",
            "../../..",
        ]
    ),
)

#: For options of the task itself: Ansible ends with a traceback of its own when it logs half of a surrogate pair.
OPTION = HOSTILE.filter(lambda text: not any("\ud800" <= character <= "\udfff" for character in text))

NUMBERS = st.integers() | st.sampled_from([0, -1, 2**31, 2**63, 10**400])


def answered(result: dict[str, Any]) -> bool:
    """Whether the module has ended with an answer a person can read; True when it has done what was asked."""
    assert "exception" not in result, result
    if result.get("failed"):
        assert "Traceback" not in result["msg"]
        assert result["msg"].strip()
    return not result.get("failed")
