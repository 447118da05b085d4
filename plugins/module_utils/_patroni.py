# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Patroni's REST API: a typed client, and the pure rules of what its answers mean.

Only the standard library is used. Endpoints and status codes are those of Patroni 4
(https://patroni.readthedocs.io/en/latest/rest_api.html).
"""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    ConnectionFailed,
    InvalidInput,
    ServerError,
)

LEADER_ROLES = ("leader", "standby_leader")
SYNC_ROLES = ("sync_standby", "quorum_standby")
LONGEST_SECONDS = 86400
"""A socket takes no time-out of any length."""

# A hot standby refuses to start with less of these than its primary has, so they are raised on the
# standbys first and lowered on the primary first.
# https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-ADMIN
STANDBY_FOLLOWS = frozenset(
    {
        "max_connections",
        "max_locks_per_transaction",
        "max_prepared_transactions",
        "max_wal_senders",
        "max_worker_processes",
    }
)


def patroni_argument_spec() -> dict[str, dict[str, Any]]:
    """Argument spec of the options documented in the doc fragment ``citus_ha.cluster.patroni``."""
    return {
        "url": {"type": "str", "default": "https://localhost:8008"},
        "ca_cert": {"type": "path", "default": "/etc/citus_ha/tls/ca.crt"},
        "client_cert": {"type": "path", "default": "/etc/citus_ha/tls/node.crt"},
        "client_key": {"type": "path", "default": "/etc/citus_ha/tls/node.key"},
        "timeout": {"type": "int", "default": 10},
    }


@dataclass(frozen=True)
class Member:
    """One member as ``GET /cluster`` tells it."""

    name: str
    role: str
    state: str
    api_url: str
    host: str | None = None
    port: int | None = None
    timeline: int | None = None
    lag: int | None = None
    """Bytes behind the leader; None when unknown or the leader itself."""
    pending_restart: bool = False
    pending_restart_reason: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_running(self) -> bool:
        """Whether its server runs; that of a standby may stream or not."""
        return self.state in ("running", "streaming")

    @property
    def is_leader(self) -> bool:
        """Whether it holds the leader lock."""
        return self.role in LEADER_ROLES

    def result(self) -> dict[str, Any]:
        """As modules return it."""
        return {
            "name": self.name,
            "role": self.role,
            "state": self.state,
            "host": self.host,
            "port": self.port,
            "api_url": self.api_url,
            "timeline": self.timeline,
            "lag": self.lag,
            "pending_restart": self.pending_restart,
        }


@dataclass(frozen=True)
class Cluster:
    """One Patroni group (``GET /cluster``)."""

    members: tuple[Member, ...]
    scope: str = ""
    paused: bool = False
    scheduled_switchover: Mapping[str, Any] = field(default_factory=dict)

    @property
    def leaders(self) -> tuple[Member, ...]:
        """Members that hold the leader lock: one, or none while there is an election."""
        return tuple(member for member in self.members if member.is_leader)

    @property
    def leader(self) -> Member | None:
        """The leader, or None."""
        return self.leaders[0] if self.leaders else None

    @property
    def standbys(self) -> tuple[Member, ...]:
        """Every member but the leader."""
        return tuple(member for member in self.members if not member.is_leader)

    def member(self, name: str) -> Member | None:
        """The member of that name, or None."""
        return next((member for member in self.members if member.name == name), None)


def parse_cluster(answer: Mapping[str, Any]) -> Cluster:
    """The answer of ``GET /cluster`` as :class:`Cluster`."""
    members = []
    for item in answer.get("members", []):
        lag = item.get("lag")
        members.append(
            Member(
                name=str(item["name"]),
                role=str(item.get("role", "")),
                state=str(item.get("state", "")),
                api_url=str(item.get("api_url", "")),
                host=item.get("host"),
                port=item.get("port"),
                timeline=item.get("timeline"),
                lag=lag if isinstance(lag, int) else None,
                pending_restart=bool(item.get("pending_restart", False)),
                pending_restart_reason=item.get("pending_restart_reason") or {},
                tags=item.get("tags") or {},
            )
        )
    return Cluster(
        members=tuple(members),
        scope=str(answer.get("scope", "")),
        paused=bool(answer.get("pause", False)),
        scheduled_switchover=answer.get("scheduled_switchover") or {},
    )


def missing(cluster: Cluster, expected: Iterable[str] | None, max_lag: int, wait_sync: bool = False) -> list[str]:
    """What the group lacks to be as wanted; empty when nothing.

    :param expected: names that must be there; None means whoever is there must be well.
    :param max_lag: bytes a standby may be behind.
    :param wait_sync: at least one synchronous standby is required.
    """
    lacking = []
    leader = cluster.leader
    if leader is None:
        lacking.append("no member holds the leader lock")
    elif len(cluster.leaders) > 1:
        lacking.append(f"more than one leader: {', '.join(member.name for member in cluster.leaders)}")
    for name in expected if expected is not None else [member.name for member in cluster.members]:
        member = cluster.member(name)
        lacking += [f"member {name} has not joined"] if member is None else _ails(member, leader, max_lag)
    if wait_sync and not any(member.role in SYNC_ROLES for member in cluster.members):
        lacking.append("no synchronous standby")
    return lacking


def _ails(member: Member, leader: Member | None, max_lag: int) -> list[str]:
    if member.is_leader:
        # A standby leader follows a primary elsewhere, by stream or from its archive.
        well = ("running",) if member.role == "leader" else ("running", "streaming", "in archive recovery")
        return [] if member.state in well else [f"leader {member.name} is '{member.state}', not running"]
    if member.state != "streaming":
        return [f"member {member.name} is '{member.state}', not streaming"]
    if leader is not None and leader.timeline is not None and member.timeline not in (leader.timeline, None, 0):
        return [f"member {member.name} is on timeline {member.timeline}, the leader on {leader.timeline}"]
    if member.lag is None:
        return [f"the lag of member {member.name} is not known yet"]
    if member.lag > max_lag:
        return [f"member {member.name} lags {member.lag} bytes (max_lag is {max_lag})"]
    return []


# ---- dynamic configuration -----------------------------------------------------------------------

_TRUE = frozenset({"on", "true", "yes"})
_FALSE = frozenset({"off", "false", "no"})
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_QUANTITY = re.compile(rf"(?P<number>{_NUMBER.pattern})\s*(?P<unit>B|kB|MB|GB|TB|us|ms|s|min|h|d)")
_BYTES = {"B": 1, "kB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
_MICROSECONDS = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "min": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}


def same_value(left: Any, right: Any) -> bool:
    """Whether two values of the dynamic configuration mean the same.

    A PostgreSQL parameter may be given as C(true) or C("on"), C(100) or C("100"), C("1GB") or
    C("1024MB"): YAML, JSON and postgresql.conf spell them differently.
    """
    return bool(_normal(left) == _normal(right))


def _normal(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _normal(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_normal(item) for item in value]
    if value is None:
        return None
    text = str(value).strip()
    if text.lower() in _TRUE:
        return ("bool", True)
    if text.lower() in _FALSE:
        return ("bool", False)
    if _NUMBER.fullmatch(text):
        return ("number", float(text))
    quantity = _QUANTITY.fullmatch(text)
    if quantity:
        number, unit = float(quantity["number"]), quantity["unit"]
        if unit in _BYTES:
            return ("bytes", number * _BYTES[unit])
        return ("time", number * _MICROSECONDS[unit])
    return text


def config_patch(current: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The smallest body for ``PATCH /config`` that turns ``current`` into ``wanted``; empty if nothing differs.

    Only keys of ``wanted`` are managed. None removes a key, as Patroni defines it.
    """
    patch: dict[str, Any] = {}
    for key, value in wanted.items():
        if value is None:
            if key in current:
                patch[key] = None
        elif isinstance(value, dict):
            have = current.get(key)
            if isinstance(have, dict):
                inner = config_patch(have, value)
                if inner:
                    patch[key] = inner
            else:
                # Patroni stores a new branch word for word, nulls included.
                patch[key] = without_nulls(value)
        elif key not in current or not same_value(current[key], value):
            patch[key] = value
    return patch


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which no key, at any depth, is None."""
    return {
        key: without_nulls(item) if isinstance(item, dict) else item for key, item in value.items() if item is not None
    }


def apply_patch(current: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """What Patroni makes of ``PATCH /config``: the prediction for check mode and the diff."""
    result = dict(current)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = apply_patch(result[key], value)
        else:
            result[key] = value
    return result


def managed_part(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The part of ``config`` that ``wanted`` speaks about."""
    result: dict[str, Any] = {}
    for key, value in wanted.items():
        if key not in config:
            continue
        if isinstance(value, dict) and isinstance(config[key], dict):
            result[key] = managed_part(config[key], value)
        else:
            result[key] = config[key]
    return result


def changed_parameters(patch: Mapping[str, Any]) -> frozenset[str]:
    """Names of the PostgreSQL parameters that a patch touches, in lower case."""
    postgresql = patch.get("postgresql")
    parameters = postgresql.get("parameters") if isinstance(postgresql, dict) else None
    return frozenset(name.lower() for name in parameters) if isinstance(parameters, dict) else frozenset()


# ---- restarts ------------------------------------------------------------------------------------


def only_lowers_standby_limits(reason: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a member waits for a restart only to lower limits that a standby may not have below its primary's.

    :param reason: Patroni's ``pending_restart_reason``: parameter to ``old_value`` and ``new_value``.
    """
    return bool(reason) and all(
        name.lower() in STANDBY_FOLLOWS and _lowered(change.get("old_value"), change.get("new_value"))
        for name, change in reason.items()
    )


def _lowered(old: Any, new: Any) -> bool:
    try:
        return float(new) < float(old)
    except (TypeError, ValueError):
        return False


def restart_order(cluster: Cluster) -> list[Member]:
    """Members with a pending restart in the order that keeps the group writable and its standbys able to start.

    Standbys come first, the leader last. Those that only lower limits which a standby may not have
    below its primary's come after the leader.
    """
    pending = [member for member in cluster.standbys if member.pending_restart]
    leader = [member for member in cluster.leaders if member.pending_restart]
    after = [member for member in pending if leader and only_lowers_standby_limits(member.pending_restart_reason)]
    return [member for member in pending if member not in after] + leader + after


@dataclass(frozen=True)
class LoopProgress:
    """Has a member been through a whole HA cycle that began after a given moment?

    Patroni applies a new dynamic configuration at the end of the HA cycle in which it read it, and
    only then knows which parameters need a restart. Nothing in the REST API says "applied". What it
    does tell is C(dcs_last_seen), the second at which the cluster was last read from the registry.
    A first new value says that a cycle has begun which sees the change, the second that this cycle is over.
    Reading C(/cluster) moves the value too, hence only C(/patroni) may be read meanwhile.
    """

    last_seen: int
    steps: int = 0

    def saw(self, last_seen: int) -> LoopProgress:
        """The progress after one more look."""
        return LoopProgress(last_seen, self.steps + 1) if last_seen > self.last_seen else self

    @property
    def done(self) -> bool:
        """Whether a cycle that began after the first look has ended."""
        return self.steps >= 2


# ---- the client ----------------------------------------------------------------------------------


class Client:
    """Talks to the REST API of one member.

    :raises ConnectionFailed: no answer.
    :raises InvalidInput: a certificate that is not trusted, files that cannot be read.
    :raises ServerError: an answer with a status of 400 and above; ``details`` holds ``status``.
    """

    what = "Patroni REST API"
    default_port = 8008
    hint = "Check that Patroni runs there, its restapi.listen, and the TLS options."

    def __init__(
        self,
        url: str,
        ca_cert: str | None = None,
        client_cert: str | None = None,
        client_key: str | None = None,
        timeout: float = 10,
    ) -> None:
        try:
            parts = urlsplit(url)
            port = self.default_port if parts.port is None else parts.port
            (parts.hostname or "").encode("idna")
        except ValueError:
            parts, port = urlsplit(""), 0
        if parts.scheme not in ("http", "https") or not parts.hostname or not port:
            raise InvalidInput(
                f"{url!r} is not the address of a {self.what}.",
                f"Write it as https://host:{self.default_port} (or http://).",
            )
        if timeout <= 0:
            raise InvalidInput(f"{timeout:g} seconds are no time to wait for {url}.", "Give a number from 1 up.")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._https = parts.scheme == "https"
        self._host = parts.hostname
        self._port = port
        self._files = (ca_cert, client_cert, client_key)
        self._timeout = timeout
        self._context = _tls_context(*self._files) if self._https else None

    def at(self, url: str) -> Client:
        """A client of another member, with the same certificates."""
        return Client(url, *self._files, timeout=self._timeout)

    def cluster(self) -> Cluster:
        """The group, fresh from the registry."""
        answer = self.json("GET", "/cluster")
        try:
            return parse_cluster(answer)
        except (AttributeError, KeyError, TypeError) as error:
            raise ServerError(
                f"GET {self.url}/cluster was answered with something that is no Patroni group: {str(answer)[:200]}",
                "Check that a Patroni REST API listens there.",
            ) from error

    def config(self) -> dict[str, Any]:
        """The dynamic configuration as this member last read it: call :meth:`cluster` first for a fresh one."""
        return self.json("GET", "/config")

    def status(self) -> dict[str, Any]:
        """This member itself (``GET /patroni``)."""
        return self.json("GET", "/patroni")

    def patch_config(self, patch: Mapping[str, Any]) -> dict[str, Any]:
        """Merge into the dynamic configuration and wake the member's HA loop; returns the new configuration."""
        return self.json("PATCH", "/config", patch)

    def restart(self, timeout: int, only_pending: bool = True) -> str:
        """Restart PostgreSQL and wait for it; returns Patroni's words.

        ``timeout`` (seconds) replaces ``primary_start_timeout`` for this restart. That one is made for crashes, and
        may be very short; what takes longer is an error, and a failover when it is the leader.
        """
        body: dict[str, Any] = {"timeout": timeout}
        if only_pending:
            body["restart_pending"] = True
        return self._request("POST", "/restart", body, timeout=timeout + self._timeout)

    def switchover(self, leader: str, candidate: str | None = None, timeout: float = 60) -> str:
        """Hand the leadership over as planned, without loss; returns Patroni's words."""
        body = {"leader": leader, **({"candidate": candidate} if candidate else {})}
        return self._request("POST", "/switchover", body, timeout=timeout)

    def failover(self, candidate: str, timeout: float = 60) -> str:
        """Make ``candidate`` the leader although there is none, or it is not synchronous."""
        return self._request("POST", "/failover", {"candidate": candidate}, timeout=timeout)

    def reinitialize(self, force: bool = False) -> str:
        """Throw the member's data folder away and copy the leader's; returns when it has begun."""
        return self._request("POST", "/reinitialize", {"force": force})

    def pause(self, paused: bool) -> dict[str, Any]:
        """Switch automatic failover off or on."""
        return self.patch_config({"pause": True if paused else None})

    def json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The object that a request is answered with."""
        text = self._request(method, path, body)
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise ServerError(
                f"{method} {self.url}{path} did not answer with JSON but with: {text[:200]}",
                "Check that a Patroni REST API listens there.",
            ) from error
        if not isinstance(answer, dict):
            raise ServerError(f"{method} {self.url}{path} answered with something unexpected: {text[:200]}")
        return answer

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> str:
        connection: http.client.HTTPConnection
        limit = min(timeout or self._timeout, LONGEST_SECONDS)
        if self._https:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=limit, context=self._context)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=limit)
        try:
            connection.request(
                method,
                path,
                None if body is None else json.dumps(body),
                {} if body is None else {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace").strip()
        except ssl.SSLCertVerificationError as error:
            raise InvalidInput(  # waiting does not mend it
                f"{method} {self.url}{path}: its certificate is not trusted: {error.verify_message}.",
                "Check ca_cert, and that the certificate names the host of the address.",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionFailed(
                f"{method} {self.url}{path} got no answer within {limit:g} seconds: {_words(error)}.",
                self.hint,
            ) from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise ServerError(
                f"{method} {self.url}{path} was answered with {answer.status} {answer.reason}: "
                f"{text[:500] or 'nothing'}.",
                _remedy(answer.status),
                status=answer.status,
            )
        return text


def client(params: Mapping[str, Any]) -> Client:
    """A client from a module's parameters (see :func:`patroni_argument_spec`)."""
    return Client(
        params["url"], params["ca_cert"], params["client_cert"], params["client_key"], timeout=params["timeout"]
    )


def _tls_context(ca_cert: str | None, client_cert: str | None, client_key: str | None) -> ssl.SSLContext:
    """Trust only ``ca_cert`` (the system's authorities without it), and show the client certificate.

    An empty file name means none.
    """
    for option, path in (("ca_cert", ca_cert), ("client_cert", client_cert), ("client_key", client_key)):
        if path and not os.access(path, os.R_OK):
            raise InvalidInput(
                f"{option} {path} cannot be read by this user.",
                f"Run as a user who may read it, or set {option} (an empty string for none).",
            )
    try:
        context = ssl.create_default_context(cafile=ca_cert or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if client_cert:
            context.load_cert_chain(client_cert, client_key or None)
    except (ssl.SSLError, OSError) as error:
        raise InvalidInput(
            f"The TLS files cannot be used: {_words(error)} (ca_cert {ca_cert}, client_cert {client_cert}, "
            f"client_key {client_key}).",
            "All three are PEM files; the key belongs to the certificate and has no passphrase.",
        ) from error
    return context


def _words(error: BaseException) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error) or type(error).__name__


def _remedy(status: int) -> str:
    return {
        401: "The API wants a user and a password (restapi.authentication), which this module does not send: "
        "let it accept client certificates instead.",
        403: "Set client_cert and client_key to a certificate that the API's CA signed, and look at restapi.allowlist.",
        409: "Somebody else changed the configuration at the same time: run the task again.",
        502: "The group has no configuration in the registry yet: wait until its first member has bootstrapped.",
        503: "Look at the log of that member, and at `patronictl list`.",
    }.get(status, "")
