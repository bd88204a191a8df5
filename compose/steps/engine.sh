# shellcheck shell=bash
# A Docker engine that answers: the one that is there, or the distribution's, installed and started.

engine_log=/var/log/dockerd.log

ensure_engine() {
    choose_client
    engine_answers && return
    [[ -z ${DOCKER_HOST:-} ]] || die "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST"
    [[ $EUID -eq 0 ]] || die "no Docker engine answers: start it, let this user use it, or run compose/up as root"
    command -v dockerd >/dev/null || install_engine
    choose_client
    start_engine
}

# The client that was packaged with the engine, where there is one: a newer one elsewhere in the path was not tried with it.
choose_client() {
    docker_client=$(type -P docker || true)
    if [[ -x /usr/bin/docker ]] && PATH=/usr/bin:/usr/sbin type -P dockerd >/dev/null; then
        docker_client=/usr/bin/docker
    fi
}

docker() {
    command "${docker_client:-docker}" "$@"
}

compose() {
    local files=(--file "$compose_folder/compose.yaml")
    [[ $cluster == false ]] || files+=(--file "$compose_folder/cluster.yaml")
    docker compose "${files[@]}" "$@"
}

engine_answers() {
    [[ -n $docker_client ]] && timeout 20 "$docker_client" version --format '{{.Server.Version}}' >/dev/null 2>&1
}

install_engine() {
    command -v apt-get >/dev/null || die "there is no Docker engine here, and only Debian and Ubuntu are known: install Docker"
    apt_update
    local packages=(docker.io iptables)
    # Debian 13 packs the client apart.
    apt_version docker-cli >/dev/null && packages+=(docker-cli)
    apt_install "${packages[@]}"
}

apt_update() {
    [[ -n ${apt_is_updated:-} ]] || quietly "Reading the package lists" read_package_lists
    apt_is_updated=yes
}

# apt waits for the lock of dpkg, and not for that of its lists, which a timer of the system may hold.
read_package_lists() {
    local deadline=$((SECONDS + 120)) said
    until said=$(apt-get update 2>&1); do
        printf '%s\n' "$said"
        [[ $said == *"Could not get lock"* ]] && ((SECONDS < deadline)) || return 1
        sleep 1
    done
}

apt_install() {
    quietly "Installing $*" install_packages "$@"
}

# An installation that was interrupted must be finished before apt does anything else.
install_packages() {
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install --yes --no-install-recommends "$@")
    "${install[@]}" || { DEBIAN_FRONTEND=noninteractive dpkg --configure -a && "${install[@]}"; }
}

# The version that apt would install of a package; fails where there is none.
apt_version() {
    apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p' | grep -vx '(none)'
}

start_engine() {
    if [[ -d /run/systemd/system ]]; then
        quietly "Starting the Docker engine" systemctl start docker
    else
        forget_dead_engine
        # A session of its own, no terminal, no job and no lock of ours: it outlives this script.
        (PATH=$(working_iptables)$PATH setsid dockerd </dev/null >>"$engine_log" 2>&1 9<&- &)
    fi
    quietly "Waiting for the Docker engine" wait_for_engine || die "the Docker engine does not answer; its log is $engine_log"
}

wait_for_engine() {
    local deadline=$((SECONDS + 90))
    until engine_answers; do
        ((SECONDS < deadline)) || { tail -n 20 "$engine_log"; return 1; }
        sleep 0.5
    done
}

# After a power cut the pid files may name processes that are something else by now, which dockerd would believe.
forget_dead_engine() {
    local file name
    for file in /run/docker.pid /run/docker/containerd/containerd.pid; do
        [[ -s $file ]] || continue
        name=$(cat "/proc/$(cat "$file")/comm" 2>/dev/null || true)
        [[ $name == dockerd || $name == containerd ]] || rm -f "$file"
    done
}

# Where the kernel lacks nftables, a folder for the front of the path in which `iptables` is the legacy variant.
working_iptables() {
    if ! iptables -t nat -S >/dev/null 2>&1 && iptables-legacy -t nat -S >/dev/null 2>&1; then
        local folder=/run/postroom-iptables name
        mkdir -p "$folder"
        for name in iptables ip6tables iptables-save iptables-restore; do
            ln -sf "$(type -P "${name/tables/tables-legacy}")" "$folder/$name"
        done
        printf '%s:' "$folder"
    fi
}
