# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Print what is installed in this image as a CycloneDX 1.5 document: run while the image is built."""

from __future__ import annotations

import json
import subprocess
import sys
from urllib.parse import quote

FIELDS = ("Package", "Version", "Architecture", "source:Package", "source:Version", "Maintainer", "db:Status-Status")


def component(record: str, distribution: str) -> dict[str, object] | None:
    """One installed package; None for one of which only the configuration is left."""
    name, version, architecture, source, source_version, maintainer, status = record.split("\t")
    if status != "installed":
        return None
    qualifiers = f"arch={architecture}&distro={distribution}"
    if (source, source_version) != (name, version):
        qualifiers += f"&upstream={quote(f'{source}@{source_version}', safe='')}"
    purl = f"pkg:deb/{distribution.partition('-')[0]}/{quote(name)}@{quote(version, safe='.')}?{qualifiers}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "supplier": {"name": maintainer},
    }


def document(listed: str, distribution: str, labels: dict[str, str]) -> dict[str, object]:
    """The whole list."""
    components = [entry for record in listed.splitlines() if (entry := component(record, distribution))]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {"type": "container", "name": "citus_ha/node", "bom-ref": "citus_ha/node"},
            "properties": [{"name": f"io.citus_ha.{name}", "value": value} for name, value in labels.items()],
        },
        "components": components,
    }


def main() -> None:
    """Arguments are NAME=VALUE pairs that describe the image."""
    form = "\t".join(f"${{{field}}}" for field in FIELDS) + "\n"
    listed = subprocess.run(
        ["dpkg-query", "--show", f"--showformat={form}"], check=True, capture_output=True, text=True
    ).stdout
    with open("/etc/os-release", encoding="utf-8") as file:
        release = dict(line.rstrip("\n").split("=", 1) for line in file if "=" in line)
    distribution = f"{release['ID']}-{release.get('VERSION_ID', '')}".replace('"', "")
    json.dump(document(listed, distribution, dict(pair.split("=", 1) for pair in sys.argv[1:])), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
