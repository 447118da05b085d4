# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Who attacks, and with what: containers inside and outside of the cluster's network, and certificates of their own.

An attempt ends in a :class:`Outcome`, which says whether the attacker got in. Whoever writes an attempt shows that the
same tool gets in where it may: a tool that never works finds everything secure.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import docker
from cluster import PREFIX, Cluster
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: Where the attackers' files are in their containers.
LOOT = "/tmp/loot"
#: The cluster's own certificate in a node.
NODE = "/etc/citus_ha/tls/node"


@dataclass(frozen=True)
class Outcome:
    """What an attempt came to."""

    code: int
    output: str

    @property
    def got(self) -> str:
        """The telling line, for the list of attempts."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        telling = [
            line for line in lines if any(word in line.lower() for word in ("error", "fatal", "alert", "denied"))
        ]
        return ((telling or lines or ["nothing"])[-1])[:200]


class Attacker:
    """Somebody who can run programs in a container."""

    def __init__(self, container: Any, user: str = "") -> None:
        self.container = container
        self._user = user

    def run(self, *argv: str, env: Mapping[str, str] | None = None, seconds: int = 10) -> Outcome:
        """Run a command for so many seconds at most; output and error output are one text."""
        code, output = self.container.exec_run(
            ["timeout", str(seconds), *argv], environment=dict(env or {}), user=self._user
        )
        return Outcome(code, output.decode(errors="replace"))

    def sql(self, conninfo: str, statement: str = "SELECT current_user", password: str | None = None) -> Outcome:
        """One statement in a session of its own."""
        environment = {} if password is None else {"PGPASSWORD": password}
        return self.run(
            "psql", "-XAtw", f"{conninfo} connect_timeout=5", f"--command={statement}", env=environment, seconds=15
        )

    def tls(self, address: str, *options: str) -> Outcome:
        """A TLS handshake and nothing more."""
        # openssl reads its standard input until the end; 0 is a completed handshake.
        line = " ".join(["openssl s_client -connect", address, *options, "</dev/null"])
        return self.run("sh", "-c", line)

    def put(self, files: Mapping[str, str]) -> None:
        """Put files into the container, for its user alone. Not by Docker's copy, which refuses a read-only root."""
        for name, content in files.items():
            script = f'umask 077; mkdir -p {LOOT}; printf "%s" "$CONTENT" > {LOOT}/{name}'
            outcome = self.run("sh", "-c", script, env={"CONTENT": content})
            assert outcome.code == 0, outcome.output


def pem(key: ec.EllipticCurvePrivateKey) -> str:
    """A private key as a file has it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def certificate(
    names: Mapping[Any, str], key: ec.EllipticCurvePrivateKey, issuer: x509.Certificate | None, signer: Any, days: int
) -> x509.Certificate:
    """A certificate that ends in ``days``, or ended so many ago. Without an issuer it is an authority's own."""
    subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in names.items()])
    now = datetime.datetime.now(tz=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=400))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    return builder.sign(signer, hashes.SHA256())


def forged(demo: Cluster) -> dict[str, str]:
    """Key pairs that say they are the coordinator: of another authority, and of the cluster's own but expired."""
    names = {
        NameOID.ORGANIZATION_NAME: str(demo.variables["cluster_name"]),
        NameOID.ORGANIZATIONAL_UNIT_NAME: "postgres",
        NameOID.COMMON_NAME: f"{PREFIX}coordinator-1",
    }
    other_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pki = demo.inventory / ".secrets/pki"
    ours = x509.load_pem_x509_certificate((pki / "ca.crt").read_bytes())
    our_key = serialization.load_pem_private_key((pki / "ca.key").read_bytes(), None)
    # Even with the name of the cluster's authority
    named_alike = {NameOID.COMMON_NAME: str(ours.subject.rdns[0]._attributes[0].value)}
    other = certificate(named_alike, other_key, None, other_key, 100)
    made = {
        "foreign": certificate(names, key, other, other_key, 100),
        "expired": certificate(names, key, ours, our_key, -1),
    }
    files = {"ca.crt": (pki / "ca.crt").read_text()}
    for name, made_certificate in made.items():
        files[f"{name}.crt"] = made_certificate.public_bytes(serialization.Encoding.PEM).decode()
        files[f"{name}.key"] = pem(key)
    # As if a server's disk had been stolen: valid, but not where it belongs. One names the server, the other nobody.
    for name, stolen in {"stolen": f"{PREFIX}worker2-2", "nameless": f"etcd_client@{PREFIX}worker2-2"}.items():
        for kind in ("crt", "key"):
            files[f"{name}.{kind}"] = (pki / f"{stolen}.{kind}").read_text()
    return files


@contextmanager
def attacker(demo: Cluster, name: str, network: str) -> Iterator[Attacker]:
    """A container with every tool there is, as root, in a network; gone with the block."""
    client = demo.docker
    image = client.containers.get(f"{PREFIX}coordinator-1").image
    full_name = f"{PREFIX}{name}"
    with_same_name = client.containers.list(all=True, filters={"name": f"^{full_name}$"})
    for container in with_same_name:
        container.remove(force=True)
    container = client.containers.run(
        image, ["sleep", "infinity"], name=full_name, network=network, user="0", detach=True, entrypoint=[]
    )
    try:
        made = Attacker(container)
        made.put(forged(demo))
        yield made
    finally:
        with suppress(docker.errors.NotFound):
            container.remove(force=True)
