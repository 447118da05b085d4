# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""``postgres_repository: pgdg`` with a repository of the test's own: a machine serves a package that nobody else has.

apt.postgresql.org itself is not reachable where the tests run. What is tried is everything up to its content: key,
signature, list of packages, and that its packages are preferred.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import yaml
from vm import Machines, switched_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SERVER, MIRROR = "postgres-1", "mirror-1"
ADDRESSES = {SERVER: "10.202.3.61", MIRROR: "10.202.3.71"}
URL = f"http://{ADDRESSES[MIRROR]}:8000"
# Patroni as Debian has it, as a later version; signed with a key that is made here.
SERVE = """
set -eu
apt-get -qq update && apt-get -qq install --yes --no-install-recommends apt-utils gnupg >/dev/null
apt-get -qq install --yes --no-install-recommends --download-only patroni >/dev/null
mkdir -p /srv/repository && cd /srv/repository
lists=dists/trixie-pgdg/main/binary-$(dpkg --print-architecture)
mkdir -p pool $lists
dpkg-deb --raw-extract /var/cache/apt/archives/patroni_*.deb /tmp/patroni
sed -i 's/^Version: .*/&+pgdg13+1/' /tmp/patroni/DEBIAN/control
dpkg-deb --build /tmp/patroni pool >/dev/null
apt-ftparchive packages pool > $lists/Packages
cd dists/trixie-pgdg
release=APT::FTPArchive::Release
apt-ftparchive -o $release::Suite=trixie-pgdg -o $release::Components=main release . > /tmp/Release
gpg --batch --quiet --passphrase '' --quick-generate-key packagers default default never
gpg --batch --quiet --passphrase '' --quick-generate-key somebody default default never
gpg --batch --quiet --local-user packagers --clearsign --output InRelease /tmp/Release
gpg --armor --export packagers > /srv/repository/key.asc
gpg --armor --export somebody > /srv/repository/other.asc
systemd-run --quiet python3 -m http.server --directory /srv/repository 8000
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """A machine for a server, and the one that it gets packages from."""
    made = Machines(tmp_path_factory.mktemp("vm"), "citus_ha_test_pgdg")
    made.variables |= {
        "machines_subnet": "10.202.3.0/24",
        "postgres_repository": "pgdg",
        "packages_pgdg_url": URL,
        "packages_pgdg_key": f"{URL}/key.asc",
    }
    (made.inventory / "group_vars").mkdir(parents=True)
    (made.inventory / "group_vars/all.json").write_text(json.dumps(made.variables))

    def save(*hosts: str) -> None:
        groups = {"standalone": {"hosts": {host: {"ansible_host": ADDRESSES[host]} for host in hosts}}}
        (made.inventory / "hosts.yml").write_text(yaml.safe_dump(groups))

    save(SERVER, MIRROR)
    with switched_on(made):
        save(SERVER)
        made.console(MIRROR, SERVE)
        yield made
        save(SERVER, MIRROR)


def patroni(machines: Machines) -> str:
    """The version that is installed."""
    return machines.console(SERVER, "dpkg-query --show --showformat '${Version}' patroni", check=False)


def test_a_dry_run_needs_nothing_of_it(machines: Machines) -> None:
    assert machines.play("site", "--check").succeeded().changed
    assert machines.console(SERVER, "ls /etc/apt/sources.list.d/citus_ha_pgdg.sources", check=False) == ""


def test_packages_that_another_key_has_signed_are_refused(machines: Machines) -> None:
    run = machines.play("site", "-e", f"packages_pgdg_key={URL}/other.asc")
    assert run.code != 0 and "trixie-pgdg" in run.output
    assert patroni(machines) == ""


def test_its_packages_are_taken_after_a_run_that_ended_before_they_were_known(machines: Machines) -> None:
    machines.console(SERVER, "apt-get -qq update; rm -f /var/lib/apt/lists/*pgdg*")
    machines.play("site").succeeded()
    assert patroni(machines).endswith("+pgdg13+1")
    machines.console(MIRROR, "pkill -f '[h]ttp.server'")
    assert machines.play("site").succeeded().changed == {}, "nothing is fetched that is there"
    asked = "runuser -u postgres -- psql -h /run/postgresql -XAtc 'SELECT pg_is_in_recovery()'"
    assert machines.console(SERVER, asked) == "f"
