#!/usr/bin/env bash
# Runs the test suites that need Docker, the quick ones first, all of them even when one fails: test.sh [pytest's options]
# Each in a process of its own: the suites that run modules inside pytest's process must not find the controller's half
# of Ansible loaded there, with which modules behave otherwise than on a node.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
failed=()
run() {
    local name=$1
    shift
    .venv/bin/pytest "$@" || failed+=("$name")
}
run integration "$@" tests/integration
# One process for these two: they share a cluster, which the last test of the second removes.
run "security and e2e" "$@" tests/security tests/e2e/test_cluster.py
run e2e "$@" --ignore=tests/e2e/test_cluster.py tests/e2e
if ((${#failed[@]} > 0)); then
    printf 'test: failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
