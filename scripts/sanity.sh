#!/usr/bin/env bash
# ansible-test sanity and antsibull-docs on the checkout as it is: make sanity. Arguments go to ansible-test, such as
# --test validate-modules.
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

# It has many requirements of its own, which nothing else here needs.
docs=$PWD/.cache/antsibull-docs-2.28.0
if [[ ! -x $docs/bin/antsibull-docs ]]; then
    python -m venv "$docs"
    "$docs/bin/pip" install --quiet "antsibull-docs==${docs##*-}"
fi
ANSIBLE_COLLECTIONS_PATH=$top "$docs/bin/antsibull-docs" lint-collection-docs --plugin-docs --skip-rstcheck "$copy"

cd "$copy"
ansible-test sanity --local --color no --python "$python" "$@"
