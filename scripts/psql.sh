#!/usr/bin/env bash
# A psql prompt as the application role, through PgBouncer: psql.sh inventories/docker [psql's options]
# Takes the psql of this machine, or the one in the image of the cluster's nodes. The password goes by a service file
# that only its owner can read: in the arguments or the environment every user of the machine could see it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
inventory=$1
shift

service_file=$(mktemp)
trap 'rm -f "$service_file"' EXIT
scripts/dsn.sh "$inventory" | python3 scripts/service_file.py app >"$service_file"

if command -v psql >/dev/null; then
    PGSERVICEFILE=$service_file psql service=app "$@"
    exit
fi

image=$(docker ps --filter label=io.citus_ha.cluster --format '{{.Image}}' | head -n 1)
if [[ -z $image ]]; then
    echo "No psql here and no node of the cluster to borrow it from: apt-get install postgresql-client" >&2
    exit 1
fi
options=(--rm --interactive --network host --user 0 --entrypoint psql
    --volume "$service_file:$service_file:ro" --env "PGSERVICEFILE=$service_file")
if [[ -t 0 ]]; then
    options+=(--tty)
fi
# The CA certificate that the URI names is a file of this machine: the same path must exist in the container.
ca=$(sed -n 's/^sslrootcert=//p' "$service_file")
if [[ -f $ca ]]; then
    options+=(--volume "$ca:$ca:ro")
fi
docker run "${options[@]}" "$image" service=app "$@"
