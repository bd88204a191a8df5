# shellcheck shell=bash
# The client's plugins Compose v2 and Buildx: from the distribution, or else taken out of Debian 13's packages.

ensure_plugins() {
    docker buildx version >/dev/null 2>&1 || add_plugin buildx
    has_compose || add_plugin compose
}

# The first that knows `!override`.
least_compose=2.24.4

has_compose() {
    local version
    version=$(docker compose version --short 2>/dev/null) || return 1
    printf '%s\n' "$least_compose" "${version#v}" | sort --version-sort --check=quiet
}

add_plugin() {
    command -v apt-get >/dev/null || die "docker has no plugin $1: install it"
    local package
    if [[ $EUID -eq 0 ]] && apt_update && package=$(plugin_package "$1"); then
        apt_install "$package"
    else
        quietly "Taking the plugin $1 out of Debian 13's package" take_plugin "$1"
    fi
}

# Prints the distribution's own package of a plugin; fails where there is none. Debian 12's docker-compose is version 1.
plugin_package() {
    local package version
    for package in "docker-$1-v2" "docker-$1"; do
        version=$(apt_version "$package") || continue
        [[ $1 == compose ]] && dpkg --compare-versions "$version" lt "$least_compose" && continue
        echo "$package"
        return 0
    done
    return 1
}

# The programs need nothing but glibc 2.34, so the file alone goes where the client looks for a user's own plugins.
take_plugin() (
    set -e
    plugins=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    ensure_debian_keys
    cd "$work"
    mkdir -p lists/partial archives/partial
    touch status
    echo "deb [signed-by=$debian_keys] $(debian_mirror Debian) trixie main" > sources.list
    # An apt of its own folders: this machine's sources and lists stay as they are, signatures are checked all the same.
    apt=(apt-get -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$work/lists"
        -o Dir::State::Status="$work/status" -o Dir::Cache="$work" -o APT::Sandbox::User=root -o Acquire::Languages=none)
    "${apt[@]}" update
    "${apt[@]}" download "docker-$1"
    mkdir -p "$plugins"
    dpkg-deb --fsys-tarfile "docker-$1"_*.deb | tar -xO "./usr/libexec/docker/cli-plugins/docker-$1" > "$work/plugin"
    install -m 755 "$work/plugin" "$plugins/docker-$1"
)
