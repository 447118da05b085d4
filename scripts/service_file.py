# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""Turn the connection URI on standard input into a section of a libpq service file.

``service_file.py NAME < app.dsn > pg_service.conf``: libpq reads passwords from such a file, and other users of the
machine cannot, as they can read a command line.
"""

from __future__ import annotations

import sys
from urllib.parse import parse_qsl, unquote, urlsplit


def service_section(name: str, uri: str) -> str:
    """Return the section ``[name]`` that says the same as ``uri``."""
    parts = urlsplit(uri.strip())
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError(f"not a PostgreSQL connection URI: it begins with {parts.scheme!r}, not postgresql://")
    # Several hosts, as libpq allows them, would not survive urlsplit's .hostname and .port.
    userinfo, _, hosts = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    pairs = [host.rpartition(":") if ":" in host else (host, "", "") for host in hosts.split(",") if host]
    settings = {
        "host": ",".join(host.strip("[]") for host, _, _ in pairs),
        "port": ",".join(port for _, _, port in pairs),
        "user": unquote(user),
        "password": unquote(password),
        "dbname": unquote(parts.path.removeprefix("/")),
        **dict(parse_qsl(parts.query)),
    }
    return "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in settings.items() if value)])


if __name__ == "__main__":
    print(service_section(sys.argv[1], sys.stdin.read()))
