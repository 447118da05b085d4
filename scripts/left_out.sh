#!/usr/bin/env bash
# Says at the end of the tests what they did not try: left_out.sh test|test-all
set -euo pipefail
if [[ $1 == test ]]; then
    echo "make test leaves out what is marked slow (machines over SSH, several Docker machines, rotation, weakened clusters), ansible-test"
    echo "sanity and the molecule scenarios. make test-all runs them."
elif [[ ! -x /usr/sbin/sshd ]]; then
    echo "make test-all left out several Docker machines (tests/e2e/test_multi.py): no sshd here, apt-get install openssh-server"
fi
echo "Not in make $1: the chaos runs and the benchmarks (make chaos, make bench-deploy, make bench-modules)."
echo "Tested nowhere, as the test machines reach neither: apt.postgresql.org and Citus's repository on machines; Debian 12 beyond"
echo "what is refused there; Ubuntu."
