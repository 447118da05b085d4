# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why no node can run on a machine: pure functions over what the module ``machine`` has seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# What the distributions have themselves. The collection needs PostgreSQL 16 (pg_ident.conf), Patroni 4, PgBouncer 1.21
# (prepared statements in transaction mode) and etcd 3.5 (which says whether it demands a login).
DISTRIBUTIONS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("debian", "13"): {"postgresql": 17, "patroni": "4.0", "pgbouncer": "1.24", "etcd": "3.5", "enough": True},
    ("debian", "12"): {"postgresql": 15, "patroni": "3.0", "pgbouncer": "1.18", "etcd": "3.4", "enough": False},
    ("ubuntu", "24.04"): {"postgresql": 16, "patroni": "3.2", "pgbouncer": "1.22", "etcd": "3.4", "enough": False},
    ("ubuntu", "22.04"): {"postgresql": 14, "patroni": "2.1", "pgbouncer": "1.16", "etcd": "3.3", "enough": False},
}
NAMES = {"debian": "Debian", "ubuntu": "Ubuntu"}

# A disk that is nearly full is refused on a machine that has its node already, too: PostgreSQL would stop.
LEAST_FREE = 100 * 1024**2
MAXIMUM_CLOCK_OFFSET = 1.0
CLOCK_IS_NOT_KEPT = (
    "its clock is right now, but its kernel says that nothing keeps it so: install and start chrony or "
    "systemd-timesyncd, or set os_time_check: off where something else does."
)


@dataclass(frozen=True)
class Wanted:
    """What the inventory wants of the machine."""

    cluster_id: str
    kind: str
    postgres_version: int | None
    postgres_repository: str
    minimum_free: int
    time_check: str = "off"


def findings(seen: Mapping[str, Any], wanted: Wanted, clock_offset: float) -> list[str]:
    """Everything that stands in the way, each with its remedy."""
    return [
        *_distribution(seen, wanted),
        *_space(seen, wanted),
        *_clock(clock_offset),
        *([CLOCK_IS_NOT_KEPT] if wanted.time_check == "require" and seen["clock_is_kept"] is False else []),
        *_system(seen),
        *_addresses(seen),
        *_ports(seen),
        *_units(seen),
        *_data(seen, wanted),
    ]


def warnings(seen: Mapping[str, Any], wanted: Wanted) -> list[str]:
    """What does not stand in the way, and somebody should know."""
    return [CLOCK_IS_NOT_KEPT] if wanted.time_check == "warn" and seen["clock_is_kept"] is False else []


def clock_offset(machine: float, before: float, after: float) -> float:
    """By how many seconds the machine's clock is certainly ahead (positive) or behind.

    The machine was asked at some time between ``before`` and ``after`` of our clock: only what lies outside counts.
    """
    if machine > after:
        return machine - after
    return min(machine - before, 0.0)


def _distribution(seen: Mapping[str, Any], wanted: Wanted) -> Iterable[str]:
    system = seen["distribution"]
    name = f"{NAMES.get(system['id'], system['id'] or 'an unknown distribution')} {system['version']}".strip()
    known = DISTRIBUTIONS.get((system["id"], system["version"]))
    if known is None:
        supported = ", ".join(f"{NAMES[each]} {version}" for each, version in DISTRIBUTIONS)
        yield f"it runs {name}. Supported are {supported}: use a machine with one of them."
        return
    if not seen["systemd"]:
        yield "systemd does not run there: service_manager: systemd needs it."
    if wanted.kind == "etcd" and known["etcd"] < "3.5":
        yield (
            f"{name} has etcd {known['etcd']}, and etcd is always the distribution's; Patroni needs 3.5 or newer. "
            "Put this member on a machine with Debian 13."
        )
    if wanted.kind == "etcd" or wanted.postgres_repository == "pgdg":
        return
    if not known["enough"]:
        yield (
            f"{name} itself has PostgreSQL {known['postgresql']}, Patroni {known['patroni']} and PgBouncer "
            f"{known['pgbouncer']}; the cluster needs PostgreSQL {wanted.postgres_version}, Patroni 4.0 and PgBouncer "
            "1.21 or newer. Set postgres_repository: pgdg (apt.postgresql.org has them), or use Debian 13."
        )
    elif wanted.postgres_version not in (None, known["postgresql"]):
        yield (
            f"postgres_version is {wanted.postgres_version}, and {name} itself has PostgreSQL {known['postgresql']}. "
            f"Set postgres_repository: pgdg, or postgres_version: {known['postgresql']}."
        )


def _space(seen: Mapping[str, Any], wanted: Wanted) -> Iterable[str]:
    least = LEAST_FREE if seen["owner"] else wanted.minimum_free
    for folder, free in seen["free_bytes"].items():
        if free < least:
            yield (
                f"its disk is full: {free // 1024**2} MB are free for {folder}, and {least // 1024**2} MB are needed. "
                "Make room there" + ("." if seen["owner"] else ", or lower service_minimum_free.")
            )


def _clock(offset: float) -> Iterable[str]:
    if abs(offset) > MAXIMUM_CLOCK_OFFSET:
        yield (
            f"its clock is {abs(offset):.1f} seconds {'ahead of' if offset > 0 else 'behind'} this controller's. "
            "Certificates and leases need the same time everywhere: install and start chrony or systemd-timesyncd."
        )


def _system(seen: Mapping[str, Any]) -> Iterable[str]:
    for name in seen["missing_sysctl"]:
        yield f"os_sysctl sets {name}, which its kernel does not have: correct the name, or take it out."
    if device := seen["missing_watchdog"]:
        yield (
            f"postgres_watchdog is required, and it has no device {device}. Set os_watchdog_module (softdog is in "
            "every kernel), set postgres_watchdog_device, or set postgres_watchdog: automatic."
        )


def _addresses(seen: Mapping[str, Any]) -> Iterable[str]:
    for address in seen["missing_addresses"]:
        yield (
            f"it has no interface with the address {address}, where its processes are to listen. Set service_ip to the "
            "address of its own that the other nodes reach it by."
        )


def _ports(seen: Mapping[str, Any]) -> Iterable[str]:
    addresses: dict[tuple[int, str], list[str]] = {}
    for entry in seen["taken_ports"]:
        addresses.setdefault((entry["port"], entry["variable"]), []).append(entry["address"])
    for (port, variable), taken in addresses.items():
        yield (
            f"another program listens on port {port} ({', '.join(taken)}), which {variable} wants. "
            "Stop that program, or set the variable to a free port."
        )


def _units(seen: Mapping[str, Any]) -> Iterable[str]:
    for name in seen["used_units"]:
        yield (
            f"it uses {name}.service for something else, which the node would replace by its own. "
            f"Use another machine, or stop {name} there and remove /etc/systemd/system/{name}.service."
        )


def _data(seen: Mapping[str, Any], wanted: Wanted) -> Iterable[str]:
    owner = seen["owner"]
    if owner and owner.get("cluster_id") != wanted.cluster_id:
        yield (
            f"its data belongs to another cluster: {owner.get('cluster_name', 'unknown')} with the cluster_id "
            f"{owner.get('cluster_id')}, and the secrets here say {wanted.cluster_id}. Put that cluster's secrets "
            "back, or remove the folder of the data if nobody needs it."
        )
    elif not owner and seen["data_folders"]:
        yield (
            f"it has PostgreSQL data that this collection did not make: {', '.join(seen['data_folders'])}. "
            "Use another machine, or move that data away."
        )
