# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Service discovery for Ansible: who leads, and who follows, from Patroni or its etcd."""

from __future__ import annotations

DOCUMENTATION = r"""
name: patroni
version_added: 0.1.0
short_description: Members of Patroni groups, with their roles of this moment
description:
  - Groups of hosts by what they are now, so that a play can say C(hosts=citus_coordinator_leader). Host names are
    Patroni's member names.
  - Asks etcd, which knows all groups of a Citus cluster, or the REST API of one member of each group.
  - "Groups: C(patroni), C(patroni_leader), C(patroni_replica) and C(patroni_sync_standby). With Citus also
    C(citus_coordinator), C(citus_worker) and C(citus_group_<N>), each of them also with C(_leader) and C(_replica)."
  - "Variables: C(patroni_name), C(patroni_scope), C(patroni_role), C(patroni_state), C(patroni_api_url),
    C(patroni_host), C(patroni_port), C(patroni_timeline), and with Citus C(patroni_citus_group)."
  - It sets no C(ansible_host). Beside an inventory that knows how to reach the hosts, it only adds groups and
    variables; alone, O(compose) sets what is needed.
  - There is no cache, for a leader of yesterday is worse than none.
extends_documentation_fragment:
  - constructed
options:
  plugin:
    description: V(citus_ha.cluster.patroni). The file's name ends in C(patroni.yml) or C(patroni.yaml).
    type: str
    required: true
    choices: [citus_ha.cluster.patroni]
  etcd_urls:
    description: Addresses of etcd members; the first one that answers is asked.
    type: list
    elements: str
  scope:
    description: Patroni's name of the cluster. Required with O(etcd_urls).
    type: str
  namespace:
    description: Path in etcd below which Patroni keeps its clusters.
    type: str
    default: /service/
  groups_urls:
    description:
      - Instead of O(etcd_urls), addresses of Patroni's REST API by Citus group number; the first one of each group that
        answers is asked. Without Citus, any one key that is no number.
    type: dict
  ca_cert:
    description: File with the certificate authority of the servers; the system's authorities when not given.
    type: path
  etcd_user:
    description: User to log in as, where etcd demands authentication.
    type: str
  etcd_password:
    description: Password of O(etcd_user).
    type: str
  client_cert:
    description:
      - File with the certificate to show; etcd with client authentication asks for it. Where etcd demands a password
        too, it takes only a certificate without a C(CN).
    type: path
  client_key:
    description: File with the key of O(client_cert).
    type: path
  timeout:
    description: Seconds to wait for one answer.
    type: int
    default: 5
author: citus_ha contributors (@citus-ha)
"""

EXAMPLES = r"""
# inventories/production/patroni.yml, beside hosts.yml: adds groups to hosts that are known already
plugin: citus_ha.cluster.patroni
etcd_urls:
  - https://etcd1.example.org:2379
  - https://etcd2.example.org:2379
  - https://etcd3.example.org:2379
namespace: /citus_ha/  # of a cluster that this collection made, and then scope is its cluster_name
scope: shop
etcd_user: ansible
etcd_password: "{{ lookup('ansible.builtin.env', 'ETCD_PASSWORD') }}"
ca_cert: .secrets/pki/ca.crt
client_cert: .secrets/pki/etcd_client@worker1-1.crt
client_key: .secrets/pki/etcd_client@worker1-1.key

---
# Alone, and without access to etcd
plugin: citus_ha.cluster.patroni
groups_urls:
  0: ["https://coordinator-1.example.org:8008", "https://coordinator-2.example.org:8008"]
  1: ["https://worker1-1.example.org:8008", "https://worker1-2.example.org:8008"]
compose:
  ansible_host: patroni_host
"""

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Constructable
from ansible_collections.citus_ha.cluster.plugins.module_utils import _patroni, _patroni_etcd
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import CitusHaError, InvalidInput


class InventoryModule(BaseInventoryPlugin, Constructable):
    """Fills the inventory with what etcd or Patroni says."""

    NAME = "citus_ha.cluster.patroni"

    def verify_file(self, path: str) -> bool:
        """Whether the file is for this plugin."""
        return super().verify_file(path) and path.endswith(("patroni.yml", "patroni.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Ask, and add hosts, groups and variables."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        try:
            found = self._discover(Path(path).parent)
        except CitusHaError as error:
            raise AnsibleParserError(f"{path}: {error}") from error
        for item in found:
            self._add(item)

    def _discover(self, folder: Path) -> list[_patroni_etcd.Found]:
        ca_cert, client_cert, client_key = (
            self._file(option, folder) for option in ("ca_cert", "client_cert", "client_key")
        )
        timeout = self.get_option("timeout")
        etcd_urls, groups_urls = self.get_option("etcd_urls"), self.get_option("groups_urls")
        if bool(etcd_urls) == bool(groups_urls):
            raise InvalidInput("Exactly one of etcd_urls and groups_urls must be given.")
        if etcd_urls:
            if not self.get_option("scope"):
                raise InvalidInput("etcd_urls needs scope.", "Give Patroni's name of the cluster.")
            servers = [_patroni_etcd.Etcd(url, ca_cert, client_cert, client_key, timeout) for url in etcd_urls]
            user, password = (
                self.templar.template(self.get_option(name) or "") for name in ("etcd_user", "etcd_password")
            )
            for server in servers:
                server.login = (user, password)
            found: list[_patroni_etcd.Found] = _patroni_etcd.first_answer(
                servers, "members", self.get_option("namespace"), self.get_option("scope")
            )
            if not found:
                self.display.warning(f"etcd knows no member of {self.get_option('scope')}.")
            return found
        found = []
        for key, urls in groups_urls.items():
            if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
                raise InvalidInput(f"groups_urls: {key} has no list of addresses.", 'Write it as 0: ["https://..."].')
            apis = [_patroni.Client(url, ca_cert, client_cert, client_key, timeout) for url in urls]
            cluster = _patroni_etcd.first_answer(apis, "cluster")
            number = int(key) if str(key).isdecimal() else None
            found += [_patroni_etcd.Found(member, cluster.scope, number) for member in cluster.members]
        return found

    def _file(self, option: str, folder: Path) -> str | None:
        """A path is relative to the inventory file, as in Ansible's own plugins."""
        value = self.get_option(option)
        return str(folder / Path(value).expanduser()) if value else None

    def _add(self, item: _patroni_etcd.Found) -> None:
        name = self.inventory.add_host(item.member.name)
        for key, value in item.variables().items():
            self.inventory.set_variable(name, key, value)
        for group in item.groups():
            self.inventory.add_child(self.inventory.add_group(group), name)
        strict = self.get_option("strict")
        variables = self.inventory.get_host(name).get_vars()
        self._set_composite_vars(self.get_option("compose"), variables, name, strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict)
