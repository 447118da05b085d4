#!/usr/bin/env bash
# Runs the test suites, the quick ones first, all of them even when one fails: test.sh [pytest's options]
# Each in a process of its own: the suites that run modules inside pytest's process must not find the controller's half
# of Ansible loaded there, with which modules behave otherwise than on a node.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
failed=()
for suite in unit integration e2e; do
    .venv/bin/pytest "$@" "tests/$suite" || failed+=("$suite")
done
if ((${#failed[@]} > 0)); then
    printf 'test: failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
