#!/usr/bin/env bash
# Runs molecule scenarios, all of them even when one fails: molecule.sh [SCENARIO...]
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
export MOLECULE_GLOB='molecule/*/molecule.yml'
failed=()
(($# > 0)) || set -- $(cd molecule && dirname -- */molecule.yml)
for scenario; do
    .venv/bin/molecule test --scenario-name "$scenario" || failed+=("$scenario")
done
if ((${#failed[@]} > 0)); then
    printf 'molecule: failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
