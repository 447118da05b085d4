# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""The rules of patroni_group by table, and its client against a server that speaks TLS."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from ansible_collections.citus_ha.cluster.plugins.module_utils import _patroni
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    CitusHaError,
    ConnectionFailed,
    InvalidInput,
    ServerError,
    TimedOut,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_cluster import (
    Cluster,
    Member,
    missing_in,
    parse_cluster,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_config import (
    apply_patch,
    config_patch,
    managed_part,
    same_value,
    without_nulls,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_restart import LoopProgress, restart_order
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_wait import wait_for_answer
from ansible_collections.citus_ha.cluster.plugins.modules import patroni_group
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st


def member(name: str, role: str = "replica", state: str = "streaming", **more: Any) -> Member:
    more.setdefault("lag", None if role == "leader" else 0)
    return Member(name, role, "running" if role == "leader" else state, f"http://{name}:8008", **more)


def cluster(*members: Member) -> Cluster:
    return Cluster(members)


# ---- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (True, "on"),
        ("yes", "true"),
        (False, "off"),
        (100, "100"),
        (0.9, "0.90"),
        ("1e2", 100),
        ("1GB", "1024MB"),
        ("60s", "1min"),
        ("  on ", "on"),
        (["a", 1], ["a", "1"]),
        ({"a": True}, {"a": "on"}),
    ],
)
def test_two_spellings_of_one_value(left: Any, right: Any) -> None:
    assert same_value(left, right)


@pytest.mark.parametrize(
    ("left", "right"),
    [(True, 1), (0, False), ("100", "100MB"), ("1s", "1kB"), ("1mb", "1MB"), ("", 0), (["a"], ["a", "b"]), ("a", "A")],
)
def test_two_values(left: Any, right: Any) -> None:
    assert not same_value(left, right)


@pytest.mark.parametrize(
    ("current", "wanted", "patch"),
    [
        ({}, {}, {}),
        ({"ttl": 30}, {"ttl": "30"}, {}),
        ({"ttl": 30}, {"ttl": 20}, {"ttl": 20}),
        ({"ttl": 30}, {"loop_wait": 5}, {"loop_wait": 5}),
        ({"pause": True}, {"pause": None}, {"pause": None}),
        ({}, {"pause": None}, {}),
        (
            {"postgresql": {"parameters": {"a": 1, "b": 2}}},
            {"postgresql": {"parameters": {"b": 3}}},
            {"postgresql": {"parameters": {"b": 3}}},
        ),
        ({"postgresql": {"parameters": {"a": 1}}}, {"postgresql": {"parameters": {"a": "1", "b": None}}}, {}),
        # Patroni would store the null of a new branch
        ({}, {"slots": {"a": None, "b": {"type": "physical", "x": None}}}, {"slots": {"b": {"type": "physical"}}}),
        ({"slots": {}}, {"slots": {}}, {}),
        (
            {"postgresql": {"pg_hba": ["a", "b"]}},
            {"postgresql": {"pg_hba": ["b", "a"]}},
            {"postgresql": {"pg_hba": ["b", "a"]}},
        ),
        ({"x": 1}, {"x": {"y": 2}}, {"x": {"y": 2}}),
    ],
)
def test_the_smallest_patch(current: dict[str, Any], wanted: dict[str, Any], patch: dict[str, Any]) -> None:
    assert config_patch(current, wanted) == patch


scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["on", "1GB", "x", ""])
configs = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(scalars, lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=6),
    max_size=3,
)


@given(configs, configs)
def test_a_patch_reaches_what_is_wanted_and_is_needed_once(current: dict[str, Any], wanted: dict[str, Any]) -> None:
    current = without_nulls(current)
    after = apply_patch(current, config_patch(current, wanted))
    assert config_patch(after, wanted) == {}


def test_the_diff_shows_only_what_is_managed() -> None:
    config = {"ttl": 30, "postgresql": {"parameters": {"a": 1, "b": 2}}}
    assert managed_part(config, {"postgresql": {"parameters": {"b": 3, "c": 4}}}) == {
        "postgresql": {"parameters": {"b": 2}}
    }


# ---- what a group lacks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "expected", "wait_sync", "words"),
    [
        (cluster(member("a", "leader", timeline=2), member("b", timeline=2)), ["a", "b"], False, None),
        (cluster(member("a", "leader"), member("b", "sync_standby")), None, True, None),
        (cluster(member("a", "leader"), member("b", "quorum_standby")), None, True, None),
        (cluster(member("a", "standby_leader", "in archive recovery")), None, False, None),
        (cluster(member("a"), member("b")), ["a"], False, "no member holds the leader lock"),
        (cluster(member("a", "leader")), ["a", "b"], False, "member b has not joined"),
        (
            cluster(member("a", "leader"), member("b", state="running")),
            None,
            False,
            "member b is 'running', not streaming",
        ),
        (
            cluster(member("a", "leader"), member("b", state="creating replica")),
            ["a", "b"],
            False,
            "'creating replica'",
        ),
        (cluster(member("a", "leader"), member("b", state="starting")), ["a"], False, None),
        (cluster(member("a", "leader"), member("b", lag=101)), None, False, "lags 101 bytes (max_lag is 100)"),
        (cluster(member("a", "leader"), member("b", lag=None)), None, False, "lag of member b is not known"),
        (
            cluster(member("a", "leader", timeline=3), member("b", timeline=2)),
            None,
            False,
            "timeline 2, the leader on 3",
        ),
        (cluster(member("a", "leader"), member("b")), None, True, "no synchronous standby"),
    ],
)
def test_what_is_missing(seen: Cluster, expected: Any, wait_sync: bool, words: str | None) -> None:
    lacking = missing_in(seen, expected, max_lag=100, wait_sync=wait_sync)
    assert (words is None) == (lacking == [])
    if words is not None:
        assert words in "; ".join(lacking)


def test_the_answer_of_patroni() -> None:
    seen = parse_cluster(
        {
            "members": [
                {
                    "name": "a",
                    "role": "leader",
                    "state": "running",
                    "api_url": "http://a:8008/patroni",
                    "host": "a",
                    "port": 5432,
                    "timeline": 1,
                    "pending_restart": True,
                },
                {
                    "name": "b",
                    "role": "replica",
                    "state": "stopped",
                    "api_url": "http://b:8008/patroni",
                    "lag": "unknown",
                },
            ],
            "scope": "shop",
            "pause": True,
        }
    )
    assert (seen.scope, seen.paused, seen.leader and seen.leader.name) == ("shop", True, "a")
    assert [item.name for item in seen.standbys] == ["b"]
    assert seen.standbys[0].lag is None


# ---- restarts ------------------------------------------------------------------------------------

RAISED = {"max_connections": {"old_value": "100", "new_value": "200"}}
LOWERED = {"max_connections": {"old_value": "200", "new_value": "100"}}
OTHER = {"shared_buffers": {"old_value": "2GB", "new_value": "1GB"}}


@pytest.mark.parametrize(
    ("leader", "standby", "order"),
    [
        (None, None, []),
        (RAISED, RAISED, ["b", "c", "a"]),
        (LOWERED, LOWERED, ["a", "b", "c"]),
        (OTHER, OTHER, ["b", "c", "a"]),
        ({**LOWERED, **OTHER}, {**LOWERED, **OTHER}, ["b", "c", "a"]),
        (None, LOWERED, ["b", "c"]),
        (LOWERED, None, ["a"]),
        ({}, {}, ["b", "c", "a"]),
    ],
)
def test_order_of_restarts(leader: Any, standby: Any, order: list[str]) -> None:
    def pending(reason: Any) -> dict[str, Any]:
        return {"pending_restart": reason is not None, "pending_restart_reason": reason or {}}

    seen = cluster(
        member("b", **pending(standby)), member("a", "leader", **pending(leader)), member("c", **pending(standby))
    )
    assert [item.name for item in restart_order(seen)] == order


@pytest.mark.parametrize(
    ("looks", "done"), [([5], False), ([5, 5, 5], False), ([5, 6], False), ([5, 6, 6, 8], True), ([5, 4, 6], False)]
)
def test_a_whole_ha_cycle_has_passed(looks: list[int], done: bool) -> None:
    progress = LoopProgress(looks[0])
    for look in looks:
        progress = progress.saw(look)
    assert progress.done is done


@pytest.mark.parametrize(
    ("options", "patch", "restarts"),
    [
        ({}, {}, ()),
        ({"paused": True}, {"pause": True}, ()),
        ({"paused": False}, {}, ()),
        ({"restart_pending": True}, {}, ("b",)),
        ({"restart": ["a"]}, {}, ("a",)),
        ({"restart": ["b", "a"], "restart_pending": True}, {}, ("b", "a")),
        ({"config": {"ttl": 25}, "paused": True}, {"ttl": 25, "pause": True}, ()),
    ],
)
def test_plan(options: dict[str, Any], patch: dict[str, Any], restarts: tuple[str, ...]) -> None:
    params = {"config": {}, "paused": None, "restart_pending": False, "restart": [], **options}
    state = patroni_group.State(cluster(member("a", "leader"), member("b", pending_restart=True)), {"ttl": 30})
    todo = patroni_group.plan(params, state)
    assert (todo.patch, todo.restarts) == (patch, restarts)


# ---- what is waited for --------------------------------------------------------------------------


class Fake:
    """The REST API of every member of a group; the ``dead`` one gives no answer. A restart is refused as under way."""

    url = "http://a:8008"

    def __init__(self, *members: Member, dead: str = "", paused: bool = False, started: Sequence[str] = ()) -> None:
        self.members, self.dead, self.paused, self.started = members, dead, paused, list(started)

    def at(self, url: str) -> Any:
        return SilentFake() if self.dead and f"//{self.dead}:" in url else self

    def cluster(self) -> Cluster:
        return Cluster(self.members, scope="shop", paused=self.paused)

    def config(self) -> dict[str, Any]:
        return {"pause": True} if self.paused else {}

    def patch_config(self, patch: dict[str, Any]) -> None:
        self.paused = patch["pause"] is not None

    def status(self) -> dict[str, Any]:
        seen = {"state": "running", "role": "primary", "pause": self.paused}
        if self.started:
            seen["postmaster_start_time"] = self.started.pop(0) if len(self.started) > 1 else self.started[0]
        return seen

    def restart(self, _timeout: int, _only_pending: bool) -> None:
        raise ServerError("restart already in progress.", "", status=503)


class SilentFake:
    def status(self) -> None:
        raise ConnectionFailed("no answer.", "")


def waiting(fake: Fake, **options: Any) -> patroni_group.Group:
    params = {"members": None, "max_lag": 100, "wait": True, "wait_sync": False, "wait_timeout": 0.2, **options}
    return patroni_group.Group(cast(Any, fake), {**params, "restart_timeout": 1})


def test_maintenance_begins_although_the_leader_is_dead() -> None:
    fake = Fake(member("a", "leader"), member("b"), dead="a")
    waiting(fake, members=[]).merge({"pause": True})
    assert fake.paused


def test_maintenance_begins_although_nobody_leads() -> None:
    nobody_leads = Fake(member("a"), member("b"))
    assert waiting(nobody_leads, members=[]).wait_until_well().cluster.leader is None
    with pytest.raises(TimedOut, match="no member holds the leader lock"):
        waiting(nobody_leads).wait_until_well()


def test_a_restart_that_was_refused_is_none() -> None:
    waiting(Fake(member("a", "leader"), started=["monday", "monday", "tuesday"])).restart("a", only_pending=False)
    with pytest.raises(TimedOut, match="it is still the server of before"):
        waiting(Fake(member("a", "leader"), started=["monday"])).restart("a", only_pending=False)
    waiting(Fake(member("a", "leader"), started=["monday"])).restart("a")


# ---- the client ----------------------------------------------------------------------------------


class Api(http.server.BaseHTTPRequestHandler):
    """Answers as Patroni does, and like it asks for a client certificate before a change."""

    def do_GET(self) -> None:
        answers: dict[str, Any] = {
            "/cluster": {"members": [], "scope": "shop"},
            "/config": "no object",
            "/patroni": None,
        }
        self._answer(200, "not json" if answers[self.path] is None else json.dumps(answers[self.path]))

    def do_PATCH(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        connection: Any = self.connection
        if isinstance(connection, ssl.SSLSocket) and not connection.getpeercert():
            self._answer(403, "client certificate required")
        else:
            self._answer(200, body)

    def do_POST(self) -> None:
        # As Patroni does, to the end: who answers earlier may break the pipe that the client still writes to.
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(503, "restart failed")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Pki:
    """A certificate authority and one certificate for 127.0.0.1, in files."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.certificate, self.key = (str(folder / name) for name in ("ca.crt", "node.crt", "node.key"))
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        may_sign = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        ca = self._sign("ca", ca_key.public_key(), "ca", ca_key, x509.BasicConstraints(True, None), may_sign)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = self._sign("node", key.public_key(), "ca", ca_key, names)
        Path(self.ca).write_bytes(ca.public_bytes(serialization.Encoding.PEM))
        Path(self.certificate).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        Path(self.key).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    @staticmethod
    def _sign(name: str, key: Any, issuer: str, issuer_key: Any, *extensions: Any) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        # Python 3.13 verifies strictly: it trusts no certificate without the identifiers, no authority without a usage.
        extensions += (
            x509.SubjectKeyIdentifier.from_public_key(key),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )
        for extension in extensions:
            builder = builder.add_extension(
                extension, critical=isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
            )
        return builder.sign(issuer_key, hashes.SHA256())


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def api(pki: Pki) -> Iterator[int]:
    """Port of the API, with TLS; client certificates are optional, as in the roles' configuration."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.certificate, pki.key)
    context.load_verify_locations(pki.ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_tls_and_a_client_certificate(api: int, pki: Pki) -> None:
    client = _patroni.Client(f"https://127.0.0.1:{api}", pki.ca, pki.certificate, pki.key)
    assert client.cluster().scope == "shop"
    assert client.patch_config({"ttl": 20}) == {"ttl": 20}
    assert client.at(f"https://127.0.0.1:{api}/patroni").pause(False) == {"pause": None}


def test_without_a_client_certificate_only_reading(api: int, pki: Pki) -> None:
    client = _patroni.Client(f"https://127.0.0.1:{api}", pki.ca, "", "")
    assert client.cluster().scope == "shop"
    with pytest.raises(ServerError, match=r"403 .*client certificate required.*Set client_cert"):
        client.patch_config({"ttl": 20})


def test_a_server_of_another_authority(api: int, tmp_path: Path) -> None:
    other = Pki(tmp_path)
    with pytest.raises(InvalidInput, match="its certificate is not trusted"):
        _patroni.Client(f"https://127.0.0.1:{api}", other.ca).cluster()


def test_a_certificate_for_another_host(api: int, pki: Pki) -> None:
    with pytest.raises(InvalidInput, match=r"not trusted.*localhost"):
        _patroni.Client(f"https://localhost:{api}", pki.ca).cluster()


def test_the_statuses_of_patroni(api: int, pki: Pki) -> None:
    client = _patroni.Client(f"https://127.0.0.1:{api}", pki.ca)
    with pytest.raises(ServerError, match=r"503 .*restart failed") as caught:
        client.restart(5)
    assert caught.value.details["status"] == 503
    for call in (client.config, client.status):
        with pytest.raises(ServerError, match=r"did not answer with JSON|something unexpected"):
            call()


def test_files_that_do_not_fit(api: int, pki: Pki, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"client_cert .*/none cannot be read"):
        _patroni.Client("https://h", pki.ca, "/none", "")
    with pytest.raises(InvalidInput, match="The TLS files cannot be used"):
        _patroni.Client("https://h", pki.ca, pki.certificate, Pki(tmp_path).key)
    assert _patroni.Client("http://h", "/none", "/none", "/none").url == "http://h", "not used without TLS"


@pytest.mark.parametrize("url", ["", "localhost:8008", "ftp://h", "https://", "https://h:port", "https://h:99999"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(InvalidInput, match="is not the address of a Patroni REST API"):
        _patroni.Client(url)


def test_nobody_listens() -> None:
    with pytest.raises(ConnectionFailed, match=r"http://127\.0\.0\.1:1/cluster got no answer"):
        _patroni.Client("http://127.0.0.1:1").cluster()


# ---- waiting -----------------------------------------------------------------------------------


def raising(error: CitusHaError) -> Callable[[], list[str]]:
    def look() -> list[str]:
        raise error

    return look


@pytest.mark.parametrize("error", [ConnectionFailed("No answer."), ServerError("Answered with 503.", status=503)])
def test_an_error_is_one_more_thing_that_is_missing(error: CitusHaError) -> None:
    with pytest.raises(TimedOut, match=f"still missing: {error.message}"):
        wait_for_answer(raising(error), lambda seen: seen, 0, "Waiting", "Look there.")


def test_an_error_that_does_not_pass_is_raised_at_once() -> None:
    with pytest.raises(ServerError, match="403"):
        wait_for_answer(raising(ServerError("403")), lambda seen: seen, 60, "Waiting", "", passes=lambda error: False)
    with pytest.raises(InvalidInput, match="certificate"):
        wait_for_answer(raising(InvalidInput("certificate")), lambda seen: seen, 60, "Waiting", "")


def test_what_was_seen_last_is_returned() -> None:
    answers: list[list[str]] = [[]]
    assert wait_for_answer(answers.pop, lambda seen: seen, 0, "Waiting", "") == []
