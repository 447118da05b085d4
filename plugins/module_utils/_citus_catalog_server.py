# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server that ``citus_distribute`` is connected to, and whether it is one to work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import Session
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import Refused
from ansible_collections.citus_ha.cluster.plugins.module_utils._versions import Version, parse_version


@dataclass(frozen=True)
class Server:
    """The server that a session is on, as far as Citus matters."""

    where: str
    postgresql: int
    #: Version of the SQL interface; None when the database has no Citus extension.
    citus: Version | None
    in_recovery: bool
    #: None when there is no extension.
    group: int | None = None
    #: What ``citus_version()`` says; the lab's stand-in names itself here.
    citus_text: str = ""
    coordinator: str | None = None
    #: Active primaries that may hold shards.
    shard_nodes: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    #: Optional parts of the SQL interface that this server has.
    has: frozenset[str] = frozenset()

    def setting(self, name: str, default: str) -> str:
        """A server setting as text."""
        return self.settings.get(name) or default


_FACTS = """
SELECT current_setting('server_version_num')::int AS postgresql,
       pg_is_in_recovery() AS in_recovery,
       (SELECT extversion FROM pg_extension WHERE extname = 'citus') AS citus
"""

# pg_settings leaves out what the role may not see, where current_setting() fails; but it knows no setting
# that only exists because somebody has set it.
_CITUS_FACTS = """
SELECT (SELECT groupid FROM pg_dist_local_group) AS local_group,
       citus_version() AS citus_text,
       (SELECT format('%s:%s', nodename, nodeport) FROM pg_dist_node
         WHERE groupid = 0 AND noderole = 'primary' LIMIT 1) AS coordinator,
       (SELECT count(*) FROM pg_dist_node
         WHERE noderole = 'primary' AND isactive AND shouldhaveshards) AS shard_nodes,
       (SELECT jsonb_object_agg(name, current_setting(name, true))
          FROM unnest(ARRAY['citus.shard_count', 'citus.shard_replication_factor', 'citus.enable_unsafe_triggers',
                            'citus.allow_unsafe_constraints']) AS name)
       || (SELECT jsonb_object_agg(name, setting) FROM pg_settings
            WHERE name IN ('max_locks_per_transaction', 'max_connections', 'max_prepared_transactions', 'wal_level',
                           'output_plugin_libraries')) AS settings,
       ARRAY(SELECT proname::text FROM pg_proc
              WHERE pronamespace = 'pg_catalog'::regnamespace
                AND proname IN ('column_to_column_name', 'citus_local_disk_space_stats', 'citus_total_relation_size',
                                'create_distributed_table_concurrently', 'citus_schema_distribute',
                                'citus_schema_undistribute', 'citus_add_local_table_to_metadata',
                                'run_command_on_shards')
              UNION ALL
             SELECT relname::text FROM pg_class
              WHERE relnamespace = 'pg_catalog'::regnamespace AND relname = 'pg_dist_schema') AS has
"""


def read_server(session: Session) -> Server:
    """What PostgreSQL itself says, in one query; it needs nothing of Citus, so it works with any version of it."""
    facts = session.query(_FACTS)[0]
    return Server(
        where=session.where,
        postgresql=facts["postgresql"],
        citus=None if facts["citus"] is None else parse_version(facts["citus"]),
        in_recovery=facts["in_recovery"],
    )


def read_citus(session: Session, server: Server) -> Server:
    """Complete ``server`` with what Citus says; the database must have the extension."""
    row = session.query(_CITUS_FACTS)[0]
    return Server(
        where=server.where,
        postgresql=server.postgresql,
        citus=server.citus,
        in_recovery=server.in_recovery,
        group=row["local_group"],
        citus_text=row["citus_text"],
        coordinator=row["coordinator"],
        shard_nodes=row["shard_nodes"],
        settings=row["settings"] or {},
        has=frozenset(row["has"]),
    )


def require_citus(server: Server) -> None:
    """Refuse a database without the extension.

    :raises Refused: with the option that names another database.
    """
    if server.citus is None:
        raise Refused(
            f"{server.where}: this database has no Citus extension.",
            "Name the database that has it with login_db, or run CREATE EXTENSION citus there.",
        )


def require_primary(server: Server) -> None:
    """Refuse a server that is in recovery.

    :raises Refused: says to connect to the leader.
    """
    if server.in_recovery:
        raise Refused(
            f"{server.where}: this server is a standby (in recovery) and cannot be changed.",
            "Connect to the leader of the coordinator's group (login_host), or run the task on that host.",
        )


def require_coordinator(server: Server) -> None:
    """Refuse a worker.

    :raises Refused: names the coordinator.
    """
    if server.group != 0:
        known = f" The coordinator it knows is {server.coordinator}." if server.coordinator else ""
        raise Refused(
            f"{server.where}: this server is not the coordinator, it belongs to Citus group {server.group}.{known}",
            "Connect to the coordinator (login_host), or run the task on that host.",
        )
