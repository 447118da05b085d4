#!/usr/bin/env bash
# Says at the end of the tests what they did not try: left_out.sh test|test-all
# Tests that were left out are said by pytest itself, in the lines that begin with "left out:".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ $1 == test ]]; then
    echo "make test leaves out what is marked slow (see above), ansible-test sanity and the molecule scenarios: make test-all runs them."
elif [[ ! -x /usr/sbin/sshd ]]; then
    echo "make test-all left out several Docker machines (tests/e2e/test_multi.py): no sshd here, apt-get install openssh-server"
fi
if [[ $(cd tests/e2e && ../../.venv/bin/python -c 'import playbooks; print(*playbooks.citus_sources())') == standin ]]; then
    echo "Citus was the stand-in: tests that want the real one were skipped. Put its package files into ~/.cache/citus_ha/packages."
fi
echo "In neither: long chaos runs and the benchmarks (make chaos, make bench-deploy, make bench-modules)."
echo "Tested nowhere, as the test machines reach neither: apt.postgresql.org and Citus's repository on machines; Debian 12 beyond"
echo "what is refused there; Ubuntu."
