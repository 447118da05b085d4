#!/usr/bin/env bash
# ansible-test sanity on the checkout as it is: make sanity. Arguments go to it, such as --test validate-modules.
#
# ansible-test wants a real path that ends with the collection's name, so it gets a copy. Its first run fetches pip and
# the linters that it pins, from ci-files.testing.ansible.com and PyPI, and keeps them in ~/.ansible/test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT
copy=$top/ansible_collections/citus_ha/cluster
mkdir -p "$copy"
# What git knows or would add, so that caches and generated secrets stay out
git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do [[ ! -e $file ]] || printf '%s\0' "$file"; done |
    tar --create --null --files-from=- --file=- | tar --extract --directory="$copy"
# One Python: each that it finds would want its own copy of the linters.
python=$(python -c 'import sys; print("{}.{}".format(*sys.version_info))')
cd "$copy"
ansible-test sanity --local --color no --python "$python" "$@"
