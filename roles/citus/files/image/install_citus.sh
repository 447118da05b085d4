#!/bin/sh
# Installs Citus, into the node image or on a machine: install_citus.sh SOURCE PACKAGE POSTGRESQL_VERSION
#   SOURCE   repository  the Citus community repository
#            files       *.deb beside this script
#            standin     an SQL extension beside this script (laboratory only)
set -eu
source=$1 package=$2 postgresql_version=$3
here=$(dirname "$0")
export DEBIAN_FRONTEND=noninteractive

# On a machine apt may be at work by itself: unattended-upgrades.
update() {
    for _try in 1 2 3 4 5 6; do
        apt-get update && return
        sleep 10
    done
    return 1
}
install() {
    apt-get install --yes --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
}
. /etc/os-release

# Citus links it without saying so in its package.
case "$VERSION_CODENAME" in
bookworm | jammy) libcurl=libcurl3-gnutls ;;
*) libcurl=libcurl3t64-gnutls ;;
esac

case "$source" in
repository)
    key=/usr/share/keyrings/citusdata_community.gpg
    update
    install gnupg
    curl --fail --silent --show-error "https://repos.citusdata.com/community/gpgkey" | gpg --yes --dearmor --output "$key"
    echo "deb [signed-by=$key] https://repos.citusdata.com/community/$ID/ $VERSION_CODENAME main" \
        > /etc/apt/sources.list.d/citusdata_community.list
    update
    install "$package" "$libcurl"
    ;;
files)
    update
    install "$here"/*.deb "$libcurl"
    ;;
standin)
    sh "$here/install.sh" "$postgresql_version"
    ;;
*)
    echo "citus_package_source is '$source': it must be repository, files or standin" >&2
    exit 2
    ;;
esac
