#!/usr/bin/env bash
# Prints the connection URI of the application role through PgBouncer: dsn.sh inventories/docker. The password is in the
# file that the URI names. site.yml and connection_info.yml write both.
set -euo pipefail
inventory=$1
[[ -d $inventory ]] || inventory=$(dirname "$inventory")
file=$inventory/.secrets/app.dsn
if [[ ! -r $file ]]; then
    echo "No $file: bring the cluster up first (make site INVENTORY=$1)." >&2
    exit 1
fi
cat "$file"
