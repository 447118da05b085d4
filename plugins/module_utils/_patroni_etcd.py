# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Patroni keeps in etcd about its groups, and what is in the inventory about each member.

The layout of the keys is Patroni's (https://patroni.readthedocs.io/en/latest/faq.html#dcs):
``<namespace>/<scope>/leader``, ``.../members/<name>``, ``.../sync``; with Citus a group number comes
after the scope.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.citus_ha.cluster.plugins.module_utils import _patroni
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    ConnectionFailed,
    InvalidInput,
    ServerError,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_cluster import SYNC_ROLES, Member

COORDINATOR = 0


@dataclass(frozen=True)
class Found:
    """One member of one group; ``citus_group`` is None where there is no Citus."""

    member: Member
    scope: str
    citus_group: int | None = None

    def variables(self) -> dict[str, Any]:
        """Variables of the host."""
        member = self.member
        found = {
            "patroni_name": member.name,
            "patroni_scope": self.scope,
            "patroni_role": member.role,
            "patroni_state": member.state,
            "patroni_api_url": member.api_url,
            "patroni_host": member.host,
            "patroni_port": member.port,
            "patroni_timeline": member.timeline,
        }
        return found if self.citus_group is None else {**found, "patroni_citus_group": self.citus_group}

    def groups(self) -> list[str]:
        """Names of the inventory groups it belongs to."""
        place = "leader" if self.member.is_leader else "replica"
        names = ["patroni", f"patroni_{place}"]
        if self.member.role in SYNC_ROLES:
            names.append("patroni_sync_standby")
        if self.citus_group is not None:
            kind = "citus_coordinator" if self.citus_group == COORDINATOR else "citus_worker"
            number = f"citus_group_{self.citus_group}"
            names += [kind, f"{kind}_{place}", number, f"{number}_{place}"]
        return names


def prefix_range(prefix: str) -> dict[str, str]:
    """Body of etcd's range request for every key that begins with ``prefix``."""
    start = prefix.encode()
    end = start[:-1] + bytes([start[-1] + 1])
    return {"key": base64.b64encode(start).decode(), "range_end": base64.b64encode(end).decode()}


def parse_range(answer: Mapping[str, Any]) -> dict[str, str]:
    """Keys and values of etcd's answer to a range request."""
    return {
        base64.b64decode(item["key"]).decode(): base64.b64decode(item.get("value", "")).decode("utf-8", "replace")
        for item in answer.get("kvs", [])
    }


def parse_keys(keys: Mapping[str, str], prefix: str, scope: str) -> list[Found]:
    """The members that Patroni's keys below ``prefix`` tell of."""
    branches: dict[int | None, dict[str, str]] = {}
    for key, value in keys.items():
        rest = key[len(prefix) :]
        first, separator, below = rest.partition("/")
        if separator and first.isdecimal():
            branches.setdefault(int(first), {})[below] = value
        else:
            branches.setdefault(None, {})[rest] = value
    found = []
    for number, branch in branches.items():
        leader = branch.get("leader")
        synchronous = _names((_object(branch.get("sync", ""))).get("sync_standby"))
        for key, value in branch.items():
            folder, _separator, name = key.partition("/")
            if folder == "members" and name:
                found.append(Found(_member(name, _object(value), leader, synchronous), scope, number))
    return sorted(found, key=lambda item: (-1 if item.citus_group is None else item.citus_group, item.member.name))


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _names(value: Any) -> frozenset[str]:
    return frozenset(name.strip() for name in value.split(",")) if isinstance(value, str) else frozenset()


def _address(url: str) -> tuple[str | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts.hostname, parts.port
    except ValueError:
        return None, None


def _member(name: str, data: Mapping[str, Any], leader: str | None, synchronous: frozenset[str]) -> Member:
    host, port = _address(str(data.get("conn_url", "")))
    if name == leader:
        role = "standby_leader" if data.get("role") == "standby_leader" else "leader"
        state = str(data.get("state", ""))
    else:
        role = "sync_standby" if name in synchronous else "replica"
        state = str(data.get("replication_state") or data.get("state", ""))
    return Member(
        name=name,
        role=role,
        state=state,
        api_url=str(data.get("api_url", "")),
        host=host,
        port=port,
        timeline=data.get("timeline"),
    )


class Etcd(_patroni.Client):
    """etcd's own HTTP interface (its JSON gateway)."""

    what = "member of etcd"
    default_port = 2379
    hint = "Check that etcd listens there, and the TLS options."
    #: User and password; no user where etcd demands no authentication.
    login: tuple[str, str] = ("", "")

    def log_in(self) -> None:
        """Have a token for the requests that follow."""
        name, password = self.login
        if not name or self.headers:
            return
        answer = self.json("POST", "/v3/auth/authenticate", {"name": name, "password": password})
        self.headers = {"Authorization": str(answer.get("token", ""))}

    def members(self, namespace: str, scope: str) -> list[Found]:
        """Every member of every group of the cluster ``scope``."""
        prefix = f"/{namespace.strip('/')}/{scope}/"
        try:
            wanted = prefix_range(prefix)
        except UnicodeEncodeError as error:
            raise InvalidInput(f"scope and namespace are no text: {prefix!r}.", "Write them in UTF-8.") from error
        self.log_in()
        answer = self.json("POST", "/v3/kv/range", wanted)
        try:
            return parse_keys(parse_range(answer), prefix, scope)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ServerError(
                f"{self.url} answered with something that etcd does not say: {str(answer)[:200]}", self.hint
            ) from error


def first_answer(clients: Iterable[Any], ask: str, *arguments: Any) -> Any:
    """What the first of them that answers says; one that cannot answer now (a status from 400 up) is passed over.

    :raises ConnectionFailed: none did; with what each of them said.
    """
    failures = []
    for client in clients:
        try:
            return getattr(client, ask)(*arguments)
        except (ConnectionFailed, ServerError) as error:
            failures.append(error.message)
    if not failures:
        raise InvalidInput("No address was given to ask.")
    raise ConnectionFailed(" ".join(failures), "Give the addresses of members that run.")
