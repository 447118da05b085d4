# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A typed client of Patroni's REST API.

Only the standard library is used. Endpoints and status codes are those of Patroni 4
(https://patroni.readthedocs.io/en/latest/rest_api.html). What the answers mean is in ``_patroni_cluster``,
``_patroni_config`` and ``_patroni_restart``.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    ConnectionFailed,
    InvalidInput,
    ServerError,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_cluster import Cluster, parse_cluster

LONGEST_SECONDS = 86400
"""A socket takes no time-out of any length."""


def patroni_argument_spec() -> dict[str, dict[str, Any]]:
    """Argument spec of the options documented in the doc fragment ``citus_ha.cluster.patroni``."""
    return {
        "url": {"type": "str", "default": "https://localhost:8008"},
        "ca_cert": {"type": "path", "default": "/etc/citus_ha/tls/ca.crt"},
        "client_cert": {"type": "path", "default": "/etc/citus_ha/tls/node.crt"},
        "client_key": {"type": "path", "default": "/etc/citus_ha/tls/node.key"},
        "timeout": {"type": "int", "default": 10},
    }


class Client:
    """Talks to the REST API of one member.

    :raises ConnectionFailed: no answer.
    :raises InvalidInput: a certificate that is not trusted, files that cannot be read.
    :raises ServerError: an answer with a status of 400 and above; ``details`` holds ``status``.
    """

    what = "Patroni REST API"
    default_port = 8008
    hint = "Check that Patroni runs there, its restapi.listen, and the TLS options."
    #: Sent with every request.
    headers: Mapping[str, str] = {}

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

    def at(self, url: str, timeout: float | None = None) -> Client:
        """A client of another member, with the same certificates, and its own ``timeout`` (seconds) if given."""
        return Client(url, *self._files, timeout=timeout or self._timeout)

    def cluster(self) -> Cluster:
        """The group, fresh from the DCS."""
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
                {**self.headers, **({} if body is None else {"Content-Type": "application/json"})},
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
        502: "The group has no configuration in the DCS yet: wait until its first member has bootstrapped.",
        503: "Look at the log of that member, and at `patronictl list`.",
    }.get(status, "")
