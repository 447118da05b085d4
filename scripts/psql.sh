#!/usr/bin/env bash
# A psql prompt as the application role, through PgBouncer: psql.sh inventories/docker [psql's options]
# Takes the psql of this machine, or else the one in the image of a node that runs here. The password is in neither
# the arguments nor the environment: the URI names the file that it is in.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
uri=$(scripts/dsn.sh "$1")
shift

if command -v psql >/dev/null; then
    exec psql "$uri" "$@"
fi

image=
if command -v docker >/dev/null; then
    image=$(docker ps --filter label=io.citus_ha.cluster --format '{{.Image}}' | head -n 1)
fi
if [[ -z $image ]]; then
    echo "No psql on this machine, nor a node to borrow it from: apt-get install postgresql-client" >&2
    exit 1
fi
options=(--rm --interactive --network host --user "$(id -u)" --entrypoint psql)
if [[ -t 0 ]]; then
    options+=(--tty)
fi
# The files that the URI names must be at the same paths in the container.
for parameter in sslrootcert passfile sslcert sslkey; do
    if [[ $uri =~ [?\&]$parameter=([^\&]+) && -f ${BASH_REMATCH[1]} ]]; then
        options+=(--volume "${BASH_REMATCH[1]}:${BASH_REMATCH[1]}:ro")
    fi
done
exec docker run "${options[@]}" "$image" "$uri" "$@"
