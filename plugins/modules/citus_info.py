#!/usr/bin/python
# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Citus cluster looks like."""

from __future__ import annotations

DOCUMENTATION = r"""
module: citus_info
short_description: Tells nodes, tables, shards, moves, locks, versions and health of a Citus cluster
version_added: 0.1.0
description:
  - Looks at a Citus cluster from its coordinator and changes nothing.
  - Asks a number of queries that does not depend on how many nodes, tables or shards there are.
  - Runs against the primary of the coordinator, in the database that has the extension (O(login_db)).
  - All sizes are bytes, all times ISO 8601 in UTC unless they are named seconds.
  - What concerns several nodes is asked by the coordinator over its own connections (C(citus.node_conninfo)), so the
    module needs to reach the coordinator only. That part wants a superuser or a role that Citus lets connect from
    node to node.
options:
  gather:
    description:
      - What to return. C([nodes, tables]) is enough for a status table; V(all) is everything.
      - The default is everything but V(shards), which has an entry for every shard and takes most of the time in big
        clusters.
      - V(nodes), V(groups), V(tables), V(colocation_groups) and V(shards) ask all nodes for the sizes of their shards,
        once for all five.
      - V(prepared_transactions), V(versions), V(health) and V(drift) ask every active primary, once for all four.
      - V(locks) asks every active primary.
    type: list
    elements: str
    choices:
      - all
      - nodes
      - groups
      - tables
      - colocation_groups
      - shards
      - rebalance
      - locks
      - prepared_transactions
      - versions
      - health
      - drift
    default:
      - nodes
      - groups
      - tables
      - colocation_groups
      - rebalance
      - locks
      - prepared_transactions
      - versions
      - health
      - drift
  node_timeout:
    description:
      - Seconds for which a node tries to reach another one (C(citus.node_connection_timeout)).
      - A node that does not answer in time is reported, and its sizes count as 0.
    type: int
    default: 5
extends_documentation_fragment:
  - citus_ha.cluster.connection
  - citus_ha.cluster.attributes.info
seealso:
  - module: citus_ha.cluster.citus_node
  - module: citus_ha.cluster.citus_rebalance
author: citus_ha contributors (@citus-ha)
"""

EXAMPLES = r"""
- name: What a status table needs
  citus_ha.cluster.citus_info:
    login_db: app
    gather: [nodes, tables]
  register: cluster

- name: One line a node
  ansible.builtin.debug:
    msg: >-
      {{ item.name }}:{{ item.port }} group {{ item.group }} {{ item.role }}, {{ item.shard_count }} shards,
      {{ item.bytes | human_readable }}
  loop: "{{ cluster.nodes }}"

- name: Look at the cluster's health
  citus_ha.cluster.citus_info:
    login_db: app
    gather: [nodes, health, drift, versions, prepared_transactions]
  register: cluster

- name: Every node reaches every other one, and all know the same
  ansible.builtin.assert:
    that:
      - cluster.health | rejectattr('ok', 'true') | length == 0
      - cluster.drift | length == 0
      - cluster.versions | map(attribute='citus_version') | unique | length == 1
      - cluster.prepared_transactions | selectattr('age_seconds', 'gt', 120) | length == 0
"""

RETURN = r"""
server:
  description: The coordinator that was asked.
  returned: success
  type: dict
  contains:
    database: {description: Name of the database., type: str, sample: app}
    postgresql_version: {description: Version of PostgreSQL., type: str, sample: "17.11"}
    citus_version: {description: Version of the loaded Citus library., type: str, sample: 14.0.1}
    is_standin: {description: Whether this is the lab's stand-in and not Citus., type: bool, sample: false}
    user: {description: The role the module worked as., type: str, sample: postgres}
    is_superuser: {description: Whether that role is a superuser., type: bool, sample: true}
unavailable:
  description: Sections that could not be gathered, each with the reason. Empty when all were.
  returned: success
  type: dict
  sample: {"health": "this server has no citus_check_connection_to_node()"}
nodes:
  description: All registered nodes, ordered by group, role, name.
  returned: when gathered
  type: list
  elements: dict
  contains:
    node_id: {description: Citus' number of the node., type: int, sample: 2}
    name: {description: Host name., type: str, sample: worker1-1}
    port: {description: Port., type: int, sample: 5432}
    group: {description: Citus group; 0 is the coordinator., type: int, sample: 1}
    role: {description: V(primary) or V(secondary)., type: str, sample: primary}
    cluster: {description: Citus' C(nodecluster)., type: str, sample: default}
    is_active: {description: Whether Citus uses the node., type: bool, sample: true}
    has_metadata: {description: Whether it gets Citus' metadata; no secondary does., type: bool, sample: true}
    metadata_synced: {description: Whether that copy is up to date., type: bool, sample: true}
    should_have_shards: {description: Whether shards may come to the node., type: bool, sample: true}
    shard_count:
      description: Shards in the node's group, without those of reference tables. A secondary has its primary's.
      type: int
      sample: 16
    bytes: {description: Size of these shards., type: int, sample: 1335296}
    reference_bytes: {description: Size of the reference tables on the node., type: int, sample: 16384}
groups:
  description: Citus groups in order.
  returned: when gathered
  type: list
  elements: dict
  contains:
    group: {description: Number., type: int, sample: 1}
    kind: {description: V(coordinator) or V(worker)., type: str, sample: worker}
    primary: {description: Address of the primary; null when there is none., type: str, sample: "worker1-1:5432"}
    secondaries: {description: Addresses of the secondaries., type: list, elements: str, sample: ["worker1-2:5432"]}
    is_active: {description: Whether the primary is active., type: bool, sample: true}
    should_have_shards: {description: Whether shards may come to the group., type: bool, sample: true}
    shard_count: {description: Shards without those of reference tables., type: int, sample: 16}
    bytes: {description: Size of these shards., type: int, sample: 1335296}
    reference_bytes: {description: Size of the reference tables., type: int, sample: 16384}
tables:
  description: All tables that Citus manages, ordered by schema and name.
  returned: when gathered
  type: list
  elements: dict
  contains:
    name: {description: Schema and name as SQL writes them., type: str, sample: public.events}
    schema: {description: Schema., type: str, sample: public}
    table: {description: Name without schema., type: str, sample: events}
    type:
      description: V(distributed), V(reference), V(schema) (belongs to a distributed schema) or V(local).
      type: str
      sample: distributed
    column: {description: Distribution column; null without one., type: str, sample: user_id}
    colocation_id: {description: Tables with the same number are colocated., type: int, sample: 1}
    shard_count: {description: Number of shards., type: int, sample: 32}
    bytes: {description: Size of all copies of all shards with indexes and TOAST., type: int, sample: 1335296}
    owner: {description: Owner., type: str, sample: app}
    access_method: {description: Table access method; null for a partitioned table., type: str, sample: heap}
colocation_groups:
  description: Colocation groups in order.
  returned: when gathered
  type: list
  elements: dict
  contains:
    colocation_id: {description: Number., type: int, sample: 1}
    shard_count: {description: Shards of each of its tables., type: int, sample: 32}
    replication_factor: {description: Copies of each shard; -1 means one on every node., type: int, sample: 1}
    column_type: {description: Type of the distribution column; null without one., type: str, sample: bigint}
    tables: {description: Names of its tables., type: list, elements: str, sample: [public.events]}
    bytes: {description: Size of all of its tables., type: int, sample: 1335296}
shards:
  description: All shards in the order of their number.
  returned: when gathered
  type: list
  elements: dict
  contains:
    shard_id: {description: Number., type: int, sample: 102008}
    table: {description: Name of the table., type: str, sample: public.events}
    type: {description: As in RV(tables)., type: str, sample: distributed}
    colocation_id: {description: Colocation group of the table., type: int, sample: 1}
    min_value: {description: Smallest hash value in it; null without hashes., type: str, sample: "-2147483648"}
    max_value: {description: Largest hash value in it., type: str, sample: "-2013265921"}
    bytes: {description: Size of one copy; null when its node did not answer., type: int, sample: 73728}
    placements: {description: Primaries that have it., type: list, elements: str, sample: ["worker1-1:5432"]}
rebalance:
  description: Moves of shards.
  returned: when gathered
  type: dict
  contains:
    running: {description: Whether shards are being moved., type: bool, sample: false}
    job:
      description: The newest background job; null when there never was one.
      type: dict
      contains:
        job_id: {description: Number., type: int, sample: 3}
        state:
          description: V(scheduled), V(running), V(finished), V(cancelling), V(cancelled), V(failing) or V(failed).
          type: str
          sample: finished
        moves_done: {description: Finished tasks., type: int, sample: 10}
        moves_total: {description: All tasks., type: int, sample: 10}
        percent: {description: Finished tasks in percent., type: int, sample: 100}
        problems: {description: What the server said of failed tasks., type: list, elements: str, sample: []}
        started_at: {description: When., type: str, sample: "2026-11-22T10:00:00+00:00"}
        finished_at: {description: When; null while it runs., type: str, sample: "2026-11-22T10:05:00+00:00"}
    moves:
      description: Shards that are moved now, by a background job or by a session that waits for it.
      type: list
      elements: dict
      contains:
        pid: {description: Process on the coordinator., type: int, sample: 4711}
        table: {description: Table., type: str, sample: events}
        shard_id: {description: Shard., type: int, sample: 102008}
        bytes: {description: Size of the shard., type: int, sample: 73728}
        bytes_copied: {description: Size of its new copy so far., type: int, sample: 40960}
        source: {description: From., type: str, sample: "worker1-1:5432"}
        target: {description: To., type: str, sample: "worker2-1:5432"}
        state: {description: "V(waiting), V(moving) or V(done).", type: str, sample: moving}
        phase: {description: Citus' word for the step., type: str, sample: Copying Data}
locks:
  description: Sessions that wait for locks anywhere in the cluster.
  returned: when gathered
  type: dict
  contains:
    waits:
      description: One entry for a session and another that it waits for.
      type: list
      elements: dict
      contains:
        waiting_gpid: {description: Citus' cluster-wide process number., type: int, sample: 10000000123}
        blocking_gpid: {description: The one that holds the lock., type: int, sample: 20000000456}
        waiting_node_id: {description: Node of the waiting session., type: int, sample: 1}
        blocking_node_id: {description: Node of the other one., type: int, sample: 2}
        waiting_statement: {description: What waits., type: str, sample: UPDATE events SET ...}
        blocking_statement: {description: What the other one runs., type: str, sample: UPDATE events SET ...}
    deadlocks:
      description: Circles of sessions that wait for one another. Citus ends them by itself within seconds.
      type: list
      elements: list
      sample: [[10000000123, 20000000456]]
prepared_transactions:
  description:
    - Prepared transactions of Citus' two-phase commit in this database on every active primary, oldest first.
    - Young ones are at work. One that stays for longer than C(citus.recover_2pc_interval) (60 s) is in doubt and holds
      its locks; C(SELECT recover_prepared_transactions()) settles it.
  returned: when gathered
  type: list
  elements: dict
  contains:
    node_id: {description: Node that holds it., type: int, sample: 2}
    name: {description: Host name of the node., type: str, sample: worker1-1}
    port: {description: Port of the node., type: int, sample: 5432}
    gid: {description: Its name., type: str, sample: citus_0_4711_12_3}
    prepared_at: {description: When., type: str, sample: "2026-11-22T10:00:00.123456+00:00"}
    age_seconds: {description: Age., type: int, sample: 3}
    owner: {description: Role., type: str, sample: app}
    initiator_group: {description: Citus group that started it., type: int, sample: 0}
    decision:
      description:
        - V(commit) when the initiator has committed, V(open) when it has not (it runs, or it will be rolled back),
          V(unknown) when the initiator did not answer.
      type: str
      sample: commit
versions:
  description: Versions on every active primary.
  returned: when gathered
  type: list
  elements: dict
  contains:
    node_id: {description: Node., type: int, sample: 2}
    name: {description: Host name., type: str, sample: worker1-1}
    port: {description: Port., type: int, sample: 5432}
    postgresql_version: {description: Version of PostgreSQL., type: str, sample: "17.11"}
    citus_version: {description: Version of the loaded library., type: str, sample: 14.0.1}
    extension_version: {description: Version of the SQL interface in the database., type: str, sample: 14.0-1}
    is_standin: {description: Whether this is the lab's stand-in and not Citus., type: bool, sample: false}
    started_at: {description: Start of the server., type: str, sample: "2026-11-22T09:00:00.123456+00:00"}
    error: {description: Why the node told nothing; null when it did., type: str, sample: null}
health:
  description: From every active primary to every active node, standbys included, which may lead next.
  returned: when gathered
  type: list
  elements: dict
  contains:
    from_name: {description: The node that connects., type: str, sample: worker1-1}
    from_port: {description: Its port., type: int, sample: 5432}
    to_name: {description: The node it connects to., type: str, sample: worker2-1}
    to_port: {description: Its port., type: int, sample: 5432}
    ok: {description: Whether it gets through; null when unknown., type: bool, sample: true}
drift:
  description:
    - Catalogs on other nodes that differ from the coordinator's. Empty when all agree.
    - C(SELECT start_metadata_sync_to_node(name, port)) on the coordinator sends the metadata again.
  returned: when gathered
  type: list
  elements: dict
  contains:
    node_id: {description: Node., type: int, sample: 2}
    name: {description: Host name., type: str, sample: worker1-1}
    port: {description: Port., type: int, sample: 5432}
    catalog:
      description: V(nodes), V(tables), V(shards), V(placements) or V(colocation_groups).
      type: str
      sample: nodes
    rows: {description: Rows on that node., type: int, sample: 4}
    coordinator_rows: {description: Rows on the coordinator., type: int, sample: 5}
"""

from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils import _citus_info as info
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_nodes import observe_nodes
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_rebalance_job import observe_job
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_server import (
    Server,
    observe_server,
    require_coordinator,
    require_versions,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import (
    Session,
    connect,
    connection_argument_spec,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput, ServerError
from ansible_collections.citus_ha.cluster.plugins.module_utils._runner import run

INSUFFICIENT_PRIVILEGE = "42501"


def gather(session: Session, sections: set[str], server: Server) -> dict[str, Any]:
    """All ``sections`` of the result, and ``unavailable``."""
    features = info.fetch_features(session)
    nodes = observe_nodes(session)
    result: dict[str, Any] = {}
    unavailable: dict[str, str] = {}

    def section(names: set[str], feature: str, what: str, fetch: Callable[[], dict[str, Any]]) -> None:
        wanted = names & sections
        if not wanted:
            return
        if feature and not features[feature]:
            unavailable.update(dict.fromkeys(wanted, f"this server has no {what}"))
            return
        try:
            result.update({name: value for name, value in fetch().items() if name in wanted})
        except ServerError as error:
            if error.details.get("sqlstate") != INSUFFICIENT_PRIVILEGE:
                raise
            unavailable.update(dict.fromkeys(wanted, error.message))

    def placed() -> dict[str, Any]:
        tables = info.fetch_tables(session, features)
        # The stand-in's shards are tables of other names.
        from_files = server.is_superuser and not server.is_standin
        rows = info.fetch_sizes(session, features, "shards" in sections, from_files)
        sizes = info.Sizes(rows, {table["table_id"]: table["type"] for table in tables})
        found: dict[str, Any] = {
            "nodes": info.nodes_as_dicts(nodes, sizes),
            "groups": info.groups_as_dicts(nodes, sizes),
            "tables": info.tables_as_dicts(tables, sizes),
        }
        if "colocation_groups" in sections:
            groups = info.fetch_colocation_groups(session)
            found["colocation_groups"] = info.colocation_groups_as_dicts(groups, tables, sizes)
        if "shards" in sections:
            found["shards"] = info.shards_as_dicts(rows, tables, nodes)
        return found

    def rebalance() -> dict[str, Any]:
        moves = info.fetch_moves(session) if features["rebalance_progress"] else []
        return {"rebalance": info.rebalance_as_dict(observe_job(session), moves)}

    def locks() -> dict[str, Any]:
        waits = info.fetch_lock_waits(session)
        return {"locks": {"waits": waits, "deadlocks": info.find_deadlocks(waits)}}

    def every_node() -> dict[str, Any]:
        answers = info.fetch_every_node(session, wanted_of_every_node)
        return {
            "health": info.health_as_dicts(answers, nodes),
            "versions": info.versions_as_dicts(answers, nodes),
            "prepared_transactions": info.prepared_as_dicts(answers, nodes),
            "drift": info.drift_as_dicts(answers, nodes),
        }

    section(set(info.NEEDS_SIZES), "", "", placed)
    section({"rebalance"}, "rebalance_status", "citus_rebalance_status()", rebalance)
    section({"locks"}, "lock_waits", "view citus_lock_waits", locks)
    wanted_of_every_node = sections & info.NEEDS_EVERY_NODE
    if not features["check_connection"] and "health" in wanted_of_every_node:
        unavailable["health"] = "this server has no citus_check_connection_to_node()"
        wanted_of_every_node.remove("health")
    section(wanted_of_every_node, "every_node", "run_command_on_all_nodes()", every_node)
    return {**result, "unavailable": unavailable}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Connect and look."""
    if module.params["node_timeout"] < 1:
        raise InvalidInput(f"node_timeout is {module.params['node_timeout']}.", "Give a number of seconds from 1 up.")
    sections = set(module.params["gather"])
    if "all" in sections:
        sections = set(info.SECTIONS)
    session = connect(module.params)
    try:
        server = observe_server(session)
        require_coordinator(server)
        require_versions(server, "citus_info", [])
        info.set_node_timeout(session, module.params["node_timeout"])
        return {
            "changed": False,
            "server": {
                "database": server.database,
                "postgresql_version": server.postgresql_version,
                "citus_version": server.citus_version,
                "is_standin": server.is_standin,
                "user": server.user,
                "is_superuser": server.is_superuser,
            },
            **gather(session, sections, server),
        }
    finally:
        session.close()


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            **connection_argument_spec(),
            "gather": {
                "type": "list",
                "elements": "str",
                "choices": ["all", *info.SECTIONS],
                "default": [section for section in info.SECTIONS if section != "shards"],
            },
            "node_timeout": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    run(module, work)


if __name__ == "__main__":
    main()
