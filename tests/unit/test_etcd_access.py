# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Which etcdctl commands lead to the access that is wanted, and in which order."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput
from ansible_collections.citus_ha.cluster.plugins.modules.etcd_access import (
    Permission,
    State,
    Wanted,
    below,
    plan,
    wanted_by,
)
from hypothesis import given
from hypothesis import strategies as st

PREFIX = "/citus_ha/citus/"
LET_IN = Wanted("patroni", PREFIX, "patroni-new", enabled=True, spare_clients=True)
SHUT_OUT = Wanted("patroni", user="patroni-new", exclusive=True, enabled=True)
NOTHING = State(False)
ROOT = {"root": frozenset({"root"})}
OLD = State(True, {**ROOT, "patroni-old": frozenset({"patroni"})}, frozenset({below(PREFIX)}))


def commands(state: State, wanted: Wanted) -> list[str]:
    return [" ".join(step.argv) for step in plan(state, wanted)]


def test_a_new_etcd() -> None:
    assert commands(NOTHING, LET_IN)[:4] == [
        "role add patroni",
        f"role grant-permission patroni readwrite {PREFIX} --prefix",
        "user add patroni-new --interactive=false",
        "user grant-role patroni-new patroni",
    ]
    made = ["user add root --no-password", "user grant-role root root", "auth enable"]
    assert commands(NOTHING, LET_IN)[4:] == made
    assert commands(NOTHING, SHUT_OUT) == made


def test_an_etcd_that_is_used_without_a_password_is_closed_later() -> None:
    assert commands(State(False, used=True), LET_IN) == commands(NOTHING, LET_IN)[:4]
    assert commands(State(False, used=True), SHUT_OUT)[-1] == "auth enable"


def test_a_new_password_opens_beside_the_old_one_until_that_is_removed() -> None:
    assert commands(OLD, LET_IN) == ["user add patroni-new --interactive=false", "user grant-role patroni-new patroni"]
    both = State(True, {**OLD.users, "patroni-new": frozenset({"patroni"})}, OLD.permissions)
    assert commands(both, LET_IN) == []
    assert commands(both, SHUT_OUT) == ["user delete patroni-old"]


def test_nobody_is_shut_out_before_the_new_user_is_there() -> None:
    assert commands(OLD, SHUT_OUT) == []
    without_role = State(True, {**OLD.users, "patroni-new": frozenset()}, OLD.permissions)
    assert commands(without_role, SHUT_OUT) == []


def test_rights_beyond_the_prefix_are_taken() -> None:
    state = State(True, OLD.users, frozenset({below(PREFIX), (2, b"/", b"0"), (0, b"/one", b"")}))
    assert commands(state, Wanted("patroni", PREFIX, "patroni-old")) == [
        "role revoke-permission patroni /one",
        "role revoke-permission patroni / 0",
    ]


def test_a_right_to_read_becomes_one_to_write() -> None:
    state = State(True, OLD.users, frozenset({(0, *below(PREFIX)[1:])}))
    assert commands(state, Wanted("patroni", PREFIX, "patroni-old")) == [
        f"role grant-permission patroni readwrite {PREFIX} --prefix"
    ]


def test_authentication_is_switched_off() -> None:
    assert commands(OLD, Wanted("patroni", enabled=False)) == ["auth disable"]
    assert commands(NOTHING, Wanted("patroni", enabled=False)) == []


def test_only_the_new_user_is_given_a_password() -> None:
    assert [step.gives_password for step in plan(NOTHING, LET_IN)] == [False, False, True, False] + 3 * [False]


def after(state: State, wanted: Wanted) -> State:
    """What etcd makes of the commands."""
    users = {name: set(roles) for name, roles in state.users.items()}
    permissions = None if state.permissions is None else set(state.permissions)
    enabled = state.enabled
    for step in plan(state, wanted):
        what, verb, *rest = step.argv
        if (what, verb) == ("role", "add"):
            permissions = set()
        elif verb == "grant-permission":
            assert permissions is not None
            granted = below(rest[2])
            permissions = {entry for entry in permissions if entry[1:] != granted[1:]} | {granted}
        elif verb == "revoke-permission":
            assert permissions is not None
            start, end = rest[1].encode(), rest[2].encode() if len(rest) > 2 else b""
            permissions = {entry for entry in permissions if entry[1:] != (start, end)}
        elif (what, verb) == ("user", "add"):
            assert rest[0] not in users
            users[rest[0]] = set()
        elif verb == "grant-role":
            users[rest[0]].add(rest[1])
        elif verb == "delete":
            del users[rest[0]]
        else:
            enabled = verb == "enable"
            # etcd demands its administrator
            assert not enabled or "root" in users["root"]
    kept = None if permissions is None else frozenset(permissions)
    return State(enabled, {name: frozenset(roles) for name, roles in users.items()}, kept, state.used)


NAMES = st.sampled_from(["root", "patroni-new", "patroni-old", "somebody"])
PERMISSIONS: st.SearchStrategy[Permission] = st.sampled_from(
    [below(PREFIX), (0, *below(PREFIX)[1:]), below("/"), (2, b"/one", b"")]
)
STATES = st.builds(
    State,
    st.booleans(),
    st.dictionaries(NAMES, st.frozensets(st.sampled_from(["root", "patroni"]))),
    # etcd has one permission for a range of keys
    st.none() | st.lists(PERMISSIONS, unique_by=lambda entry: entry[1:]).map(frozenset),
    st.booleans(),
)
WANTED = st.builds(
    Wanted,
    st.just("patroni"),
    st.none() | st.just(PREFIX),
    st.just("patroni-new"),
    st.booleans(),
    st.none() | st.booleans(),
    st.booleans(),
)


@given(STATES, WANTED)
def test_the_second_run_has_nothing_to_do(state: State, wanted: Wanted) -> None:
    end = after(state, wanted)
    assert plan(end, wanted) == []
    if wanted.prefix:
        assert end.permissions == frozenset({below(PREFIX)}) and "patroni" in end.users["patroni-new"]
    # The administrator stays what he is.
    assert "root" not in state.users or "root" in end.users


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prefix": ""}, "prefix is empty"),
        ({"prefix": "/a/", "user": "root"}, "user is root, the administrator"),
        ({"prefix": "/a/", "user": "x", "password": "two words"}, "password has white space"),
        ({"prefix": "/a/", "user": "x", "password": " "}, "password has white space"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    nothing = {"role": "patroni", "prefix": None, "user": None, "password": None, "exclusive": False, "enabled": None}
    with pytest.raises(InvalidInput, match=message):
        wanted_by({**nothing, **given})
