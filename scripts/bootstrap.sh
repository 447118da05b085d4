#!/usr/bin/env bash
# Makes a checkout usable: `make setup`. Does what is missing, says what it does, and may be run again at any time.
#
#   scripts/bootstrap.sh          everything that the Docker inventories and the tests need on this machine
#   scripts/bootstrap.sh venv     only the Python part: enough to run the playbooks against other machines
#
# Made in the checkout: .venv (Python packages), .collections (citus_ha.cluster by its name), .cache (logs, stamps).
# Made on the machine, only if missing, only on Debian and its kin as root: the venv module of Python, Docker Engine,
# and mmdebstrap where no registry can serve the base image. Everything else is told, not done.
set -Eeuo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly checkout=$PWD
readonly log=$checkout/.cache/bootstrap.log
readonly stamp=$checkout/.venv/.citus_ha
readonly dockerd_log=/var/log/dockerd.log
readonly base_image=debian:trixie-slim
readonly wanted=${1:-all}

say() { printf 'setup: %s\n' "$*"; }

# A refusal says what is missing and the way out; nothing has been changed for it.
die() {
    printf 'setup: error: %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '       %s\n' "$@" >&2
    exit 1
}

# Runs a command whose output matters only when it fails.
quietly() {
    if ! "$@" >>"$log" 2>&1 </dev/null; then
        tail -n 25 "$log" >&2
        die "failed: $*" "The whole output is in $log."
    fi
}

# --- what the machine has -------------------------------------------------------------------------------------------

# shellcheck source=/dev/null
os_release() { ([[ ! -r /etc/os-release ]] || . /etc/os-release && printf '%s' "${!1:-}"); }

is_debian() { command -v apt-get >/dev/null && [[ " $(os_release ID) $(os_release ID_LIKE) " == *" debian "* ]]; }

# pyenv's shims exist for versions that are not selected: only running one tells whether it is there.
python_is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.14 python3.11 /usr/bin/python3; do
        if [[ -n $candidate ]] && command -v "$candidate" >/dev/null && python_is_new_enough "$candidate"; then
            # Seen from inside an activated environment, the Python that this was made from.
            "$candidate" -c 'import sys; print(getattr(sys, "_base_executable", None) or sys.executable)'
            return
        fi
    done
}

docker_answers() { command -v docker >/dev/null && docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# The roles pull the base image, or build it by mmdebstrap: one of both must be possible.
base_image_available() {
    command -v mmdebstrap >/dev/null && [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] && return
    docker image inspect "$base_image" >/dev/null 2>&1 && return
    [[ -e .cache/registry-answers ]] && return
    # 401 is Docker Hub's answer to a request without a token; a proxy that forbids it says 403, no network nothing.
    [[ -n $python ]] && "$python" - <<'PYTHON' 2>/dev/null && touch .cache/registry-answers
import sys, urllib.error, urllib.request
try:
    status = urllib.request.urlopen("https://registry-1.docker.io/v2/", timeout=5).status
except urllib.error.HTTPError as error:
    status = error.code
except OSError:
    status = 0
sys.exit(status not in (200, 401))
PYTHON
}

# --- Debian packages ------------------------------------------------------------------------------------------------

# need PACKAGE... REASON
need() {
    packages+=("${@:1:$#-1}")
    reasons+=("- ${*: -1}")
}

need_docker() {
    docker_answers && return
    [[ -n ${DOCKER_HOST:-} ]] && return
    # Somebody else's engine runs; start_docker says how to be let in.
    [[ -S /var/run/docker.sock && ! -w /var/run/docker.sock ]] && return
    if ! command -v dockerd >/dev/null; then
        need docker.io iptables ca-certificates "Docker Engine"
        # Where the kernel enforces AppArmor, Docker loads its profile with this tool or starts no container.
        if grep -qs Y /sys/module/apparmor/parameters/enabled; then
            packages+=(apparmor)
        fi
    fi
    # The client is a package of its own since Debian 13.
    if ! command -v docker >/dev/null && [[ $(os_release ID) == debian && $(os_release VERSION_ID) != 12 ]]; then
        packages+=(docker-cli)
    fi
}

install_packages() {
    local missing
    missing=$(printf '       %s\n' "${reasons[@]}")
    missing=${missing#       }
    is_debian || die "this machine is not Debian, and something is missing that you have to install:" "$missing" \
        "On Debian 12 and 13 the packages are: ${packages[*]}"
    ((EUID == 0)) || die "something is missing that only root can install:" "$missing" \
        "Run as root:  apt-get update && apt-get install --no-install-recommends ${packages[*]}" \
        "then \`make setup\` again."
    say "installing Debian packages: ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    quietly apt-get -o DPkg::Lock::Timeout=300 update
    if [[ -d /run/systemd/system || -e /usr/sbin/policy-rc.d ]]; then
        quietly apt-get -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${packages[@]}"
    else
        # Without systemd the package's init script may fail and leave the package half configured (its ulimit calls
        # are refused in containers): Docker is started below instead, so its package need not.
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 0755 /usr/sbin/policy-rc.d
        quietly apt-get -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${packages[@]}"
        rm -f /usr/sbin/policy-rc.d
        trap - EXIT
    fi
}

# --- steps ----------------------------------------------------------------------------------------------------------

make_venv() {
    local want
    # A link is somebody's own environment: theirs to fill, and never cleared.
    [[ -L .venv ]] && return
    # The path is part of it: the scripts of an environment name their interpreter by its absolute path.
    want="$(sha256sum requirements.txt | cut -d' ' -f1) $checkout"
    [[ -e $stamp && $(<"$stamp") == "$want" ]] && .venv/bin/python -c '' 2>/dev/null && return
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1 || [[ "$(head -n1 .venv/bin/pip)" != "#!$checkout/"* ]]; then
        say "making the virtual environment .venv with $("$python" --version) ($python)"
        quietly "$python" -m venv --clear .venv
    fi
    rm -f "$stamp"
    say "installing Ansible and the tools of requirements.txt into .venv (about a minute)"
    # The hashes in requirements.txt make pip refuse any other file.
    # --no-compile: most of the package `ansible` is never imported; the rest is compiled when it first is.
    quietly .venv/bin/python -m pip install --disable-pip-version-check --no-compile -r requirements.txt
    printf '%s\n' "$want" >"$stamp"
}

link_collection() {
    local link=.collections/ansible_collections/citus_ha/cluster
    [[ $(readlink "$link" 2>/dev/null) == ../../.. ]] && return
    mkdir -p "${link%/*}"
    ln -sfn ../../.. "$link"
    say "linked citus_ha.cluster to this checkout ($link)"
}

start_docker() {
    docker_answers && return
    if [[ -n ${DOCKER_HOST:-} ]]; then
        die "no Docker Engine answers at DOCKER_HOST=$DOCKER_HOST." "Start it there, or unset DOCKER_HOST."
    elif [[ -S /var/run/docker.sock && ! -w /var/run/docker.sock ]]; then
        die "the user $(id -un) may not use Docker: no access to /var/run/docker.sock." \
            "Run as root:  usermod -aG docker $(id -un)   (the group docker amounts to root), then log in again."
    elif ((EUID != 0)); then
        die "Docker is installed, but its engine does not run." "Run as root:  systemctl start docker"
    elif [[ -d /run/systemd/system ]]; then
        say "starting Docker Engine (systemctl enable --now docker)"
        quietly systemctl enable --now docker
        wait_for_docker
    else
        say "starting Docker Engine directly, as there is no systemd (log: $dockerd_log)"
        local files
        files=$(ulimit -Hn)
        [[ $files != unlimited ]] && ((files < 1048576)) || files=1048576
        # The limit reaches the containers: PgBouncer with a thousand clients needs more than the usual 1,024.
        # 9 is the lock of this script, which the engine must not inherit.
        (
            ulimit -n "$files" 2>/dev/null || true
            exec setsid dockerd >>"$dockerd_log" 2>&1 </dev/null 9>&-
        ) &
        # Who reads this file ends what was started here: .ci/run.
        echo $! >.cache/dockerd.pid
        wait_for_docker $!
    fi
}

wait_for_docker() {
    local pid=${1:-} deadline=$((SECONDS + 60))
    until docker_answers; do
        if [[ -n $pid ]] && ! kill -0 "$pid" 2>/dev/null; then
            rm -f .cache/dockerd.pid
            tail -n 4 "$dockerd_log" >&2
            die "dockerd ended right after it was started; its last words are above, the whole log is $dockerd_log."
        fi
        ((SECONDS < deadline)) || die "Docker Engine does not answer, 60 s after its start." \
            "Look at:  journalctl -u docker   or $dockerd_log"
        sleep 0.2
    done
}

# --- main -----------------------------------------------------------------------------------------------------------

[[ $wanted == all || $wanted == venv ]] || die "unknown argument: $wanted" "Usage: scripts/bootstrap.sh [venv]"

mkdir -p .cache
exec 9>.cache/bootstrap.lock
flock 9 # two makes at once: the second finds everything done

packages=()
reasons=()
python=$(find_python)
if [[ -z $python ]]; then
    need python3 python3-venv "Python >= 3.11 with its venv module"
elif [[ ! -e $stamp ]] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    # Debian ships these two apart from Python, for each of its versions.
    need "$(basename "$(readlink -f "$python")")-venv" "the venv module of $python"
fi
if [[ $wanted == all ]]; then
    need_docker
    base_image_available || need mmdebstrap debian-archive-keyring "mmdebstrap for the base image: no registry answers"
fi
((${#packages[@]} == 0)) || install_packages
[[ -n $python ]] || python=$(find_python)
[[ -n $python ]] || die "no Python >= 3.11 found." \
    "Debian 12 and 13 have it; elsewhere install one and name it:  make setup PYTHON=/path/to/python3"

make_venv
link_collection
if [[ $wanted == all ]]; then
    start_docker
    say "ready"
fi
