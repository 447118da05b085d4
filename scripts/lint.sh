#!/usr/bin/env bash
# All linters, all their findings, then one verdict: make lint. Settings: pyproject.toml, .yamllint.yml, .config/.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
failed=()
run() {
    printf '== %s\n' "$*"
    "$@" || failed+=("$1")
}

run ruff check --quiet .
run ruff format --quiet --diff .
# By its name in the collection: the files import each other by it, and mypy wants one name for each file.
run mypy --package ansible_collections.citus_ha.cluster.plugins
run mypy tests scripts
run yamllint --strict .
run ansible-lint --config-file .config/ansible-lint.yml --quiet
run antsibull-changelog lint
if command -v shellcheck >/dev/null; then
    mapfile -t shell_scripts < <(git ls-files '*.sh' .ci/run)
    run shellcheck "${shell_scripts[@]}"
fi

if ((${#failed[@]} > 0)); then
    printf 'lint: failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
echo "lint: clean"
