#!/usr/bin/env bash
# Prints what is in the node image of an inventory, as CycloneDX: sbom.sh inventories/docker > sbom.cdx.json
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The playbook builds the image where it is missing, and prints its name.
image=$(ANSIBLE_NOCOLOR=1 .venv/bin/ansible-playbook -i "$1" playbooks/image.yml | sed -n "s/.*node image: \([^\"' ]*\).*/\1/p" | head -n 1)
if [[ -z $image ]]; then
    echo "playbooks/image.yml did not say which image the inventory $1 has: run it, and look at what it prints." >&2
    exit 1
fi
exec docker run --rm --network none --entrypoint cat "$image" /usr/share/citus_ha/sbom.cdx.json
