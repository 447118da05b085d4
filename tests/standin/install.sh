#!/bin/sh
# Installs the stand-in extension "citus": install.sh POSTGRESQL_VERSION
# Laboratory and tests only; README.md says what it is and what it is not.
# DESTDIR (default: none) goes before the target folders.
set -eu
version=$1
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
extension="${DESTDIR:-}/usr/share/postgresql/$version/extension"
library="${DESTDIR:-}/usr/lib/postgresql/$version/lib"

if [ -e "$extension/citus.control" ] && ! grep -q 'Stand-in' "$extension/citus.control"; then
    echo "Real Citus is installed in $extension: the stand-in does not replace it." >&2
    exit 1
fi
for needed in dblink.so postgres_fdw.so tcn.so; do
    if [ ! -e "$library/$needed" ]; then
        echo "$library/$needed is missing: install the package postgresql-$version first." >&2
        exit 1
    fi
done

umask 0022
mkdir -p "$extension" "$library"
cp "$here/citus.control" "$extension/citus.control"
cat "$here"/sql/*.sql > "$extension/citus--14.0-1.sql"
# Patroni and everyone else puts "citus" into shared_preload_libraries, and PostgreSQL does not start
# without a library of that name. The stand-in has no C code and needs no compiler: tcn is a contrib
# module that does nothing when it is loaded (no hook, no setting, no background worker).
ln -sf tcn.so "$library/citus.so"
