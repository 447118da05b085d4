# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The authority and its certificates on the controller, from the first run to another authority."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.citus_ha.cluster.plugins.filter.certificates import is_issued_by
from cryptography import x509
from cryptography.hazmat.primitives import serialization

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("etcd-1", "coordinator-1")


class Controller:
    """A secrets folder, and the roles that work on it."""

    def __init__(self, folder: Path, passphrase: str) -> None:
        self.pki = folder / "secrets/pki"
        self.passphrase = passphrase
        self.folder = folder
        groups = {"etcd": {"hosts": {"etcd-1": None}}, "coordinator": {"hosts": {"coordinator-1": None}}}
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "cluster_secrets_path": str(folder / "secrets"),
            "pki_ca_passphrase": passphrase,
        }
        inventory = {"all": {"vars": variables, "children": groups}}
        (folder / "hosts.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")

    def run(self, *steps: str, **variables: object) -> str:
        """Steps of the role rotate, after which every certificate is made that is missing or not good."""
        run = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("ansible-playbook")), "-vvv", "--diff"),
                *("-i", str(self.folder / "hosts.yml"), str(ROOT / "tests/security/authority/steps.yml")),
                *("-e", json.dumps({"steps": steps, **variables})),
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        )
        assert run.returncode == 0, (run.stdout + run.stderr)[-3000:]
        return run.stdout

    def trusted(self) -> list[x509.Certificate]:
        """The authorities in ca.crt."""
        return x509.load_pem_x509_certificates((self.pki / "ca.crt").read_bytes())

    def node(self, name: str) -> x509.Certificate:
        """A node's certificate, which fits its key."""
        certificate = x509.load_pem_x509_certificate((self.pki / f"{name}.crt").read_bytes())
        key = serialization.load_pem_private_key((self.pki / f"{name}.key").read_bytes(), None)
        assert certificate.public_key() == key.public_key()
        return certificate

    def signers(self) -> set[int]:
        """Which of the authorities have signed the nodes' certificates, by their place in ca.crt."""
        found = set()
        for name in HOSTS:
            for number, authority in enumerate(self.trusted()):
                if is_issued_by(self.node(name), authority):
                    found.add(number)
        return found

    def ca_key(self) -> str:
        """The authority's key, readable with the passphrase and not without."""
        content = (self.pki / "ca.key").read_bytes()
        serialization.load_pem_private_key(content, self.passphrase.encode() or None)
        return content.decode()


@pytest.mark.slow
def test_one_authority_replaces_the_other(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "of the vault")
    said = controller.run()
    (first,) = controller.trusted()
    first_key, first_node = controller.ca_key(), controller.node("etcd-1")
    assert controller.signers() == {0}

    # Both are trusted, the first still signs; begun twice it is the same.
    said += controller.run("authority_begin", "authority_begin", "certificates")
    trusted = controller.trusted()
    assert len(trusted) == 2 and trusted[0] == first and trusted[0].subject != trusted[1].subject
    assert controller.ca_key() == first_key and controller.signers() == {0}
    assert controller.node("etcd-1").serial_number != first_node.serial_number

    said += controller.run("authority_change", "certificates")
    assert controller.trusted() == trusted and controller.signers() == {1}
    assert controller.ca_key() != first_key
    assert not list(controller.pki.glob("ca.next.*"))

    # A run that was interrupted here has nothing to begin when it is repeated, and ends what was begun.
    said += controller.run("authority_begin", "authority_change", "authority_forget", "certificates")
    assert controller.trusted() == trusted[1:] and controller.signers() == {0}
    assert {oct(path.stat().st_mode & 0o777) for path in controller.pki.glob("*.key")} == {"0o600"}
    assert "PRIVATE KEY" not in said and controller.passphrase not in said

    # Whose certificates come from elsewhere has no key of the authority: asked for, not made.
    (controller.pki / "ca.key").unlink()
    before = controller.node("etcd-1")
    with pytest.raises(AssertionError, match=r"There is no .*ca\.key to make it with"):
        controller.run(pki_renew_days=366)
    assert controller.node("etcd-1") == before
