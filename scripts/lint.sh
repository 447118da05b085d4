#!/usr/bin/env bash
# All linters, all their findings, then one verdict: make lint. Settings: pyproject.toml, .config/.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
failed=()
run() {
    printf '== %s\n' "$*"
    "$@" || failed+=("$1")
}

run ruff check --quiet .
run ruff format --check --quiet .
# By its name in the collection: the files import each other by it, and mypy wants one name for each file.
run mypy --package ansible_collections.citus_ha.cluster.plugins
# Suite by suite, as two may have files of the same name. A test without -> None is as clear.
for folder in scripts roles/*/files tests/*/ tests/bench/callback_plugins; do
    if compgen -G "$folder/*.py" >/dev/null; then
        run mypy --allow-untyped-defs --allow-incomplete-defs "$folder"
    fi
done
# A copy of the collection in somebody's home would be looked at instead of this one.
export ANSIBLE_HOME=$PWD/.ansible
run yamllint --strict --config-file .config/yamllint.yml .
run ansible-lint --config-file .config/ansible-lint.yml --yamllint-file .config/yamllint.yml
run antsibull-changelog lint
if command -v shellcheck >/dev/null; then
    mapfile -t shell_scripts < <(git ls-files '*.sh' .ci/run)
    run shellcheck --external-sources "${shell_scripts[@]}"
fi

if ((${#failed[@]} > 0)); then
    printf 'lint: failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
echo "lint: clean"
