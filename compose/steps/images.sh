# shellcheck shell=bash
# The two images that everything derives from: pulled where a registry can be reached, else made here.

base_image=postroom/base:trixie
rust_image=postroom/rust:trixie
debian_keys=/usr/share/keyrings/debian-archive-keyring.gpg

ensure_base_image() {
    [[ $refresh == false ]] && have_image "$base_image" && return
    pull debian:trixie-slim "$base_image" && return
    if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
        die "no image registry can be reached, and only root on Debian or Ubuntu can make the base image"
    fi
    command -v debootstrap >/dev/null || { apt_update && apt_install debootstrap; }
    ensure_debian_keys
    quietly "Making the base image" make_base_image
}

ensure_rust_image() {
    [[ $refresh == false ]] && have_image "$rust_image" && return
    pull rust:1-slim-trixie "$rust_image" && return
    local rustc toolchain
    rustc=$(PATH=$PATH:$HOME/.cargo/bin type -P rustc) && toolchain=$("$rustc" --print sysroot) && [[ $toolchain != /usr ]] ||
        die "no image registry can be reached, and there is no Rust toolchain of rustup's here to make the build image from"
    # The toolchain's folder is the build context; only what the Dockerfile copies is read.
    quietly "Making the Rust image from $("$rustc" --version)" \
        docker buildx build --file "$compose_folder/rust/Dockerfile" --tag "$rust_image" "$toolchain"
}

# A builder in a container of its own would not see the images that are made here.
use_local_builder() {
    BUILDX_BUILDER=$(docker context inspect --format '{{.Name}}')
    export BUILDX_BUILDER
}

# The certificates with which a build downloads: those of this machine, which may stand behind a proxy with its own.
ensure_ca_bundle() {
    local file
    POSTROOM_CA_BUNDLE=$(setting POSTROOM_CA_BUNDLE)
    for file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
        [[ -n $POSTROOM_CA_BUNDLE || ! -r $file ]] || POSTROOM_CA_BUNDLE=$file
    done
    if [[ -z $POSTROOM_CA_BUNDLE ]]; then
        apt_update
        apt_install ca-certificates
        POSTROOM_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt
    fi
    export POSTROOM_CA_BUNDLE
}

have_image() {
    docker image inspect "$1" >/dev/null 2>&1
}

# pull image name: gives up after 20 seconds in which the registry said nothing, and takes its time once it speaks.
pull() {
    local log job='' deadline=$((SECONDS + 20)) code=0
    printf 'Pulling %s ... ' "$1"
    log=$(mktemp)
    start docker pull "$1" >"$log" 2>&1
    while kill -0 "$job" 2>/dev/null; do
        sleep 0.2
        ((SECONDS < deadline)) || grep -q 'Pulling from' "$log" || stop
    done
    wait "$job" || code=$?
    rm -f "$log"
    if ((code == 0)); then
        say "done"
        docker tag "$1" "$2"
    else
        say "no registry can be reached"
    fi
    return "$code"
}

# Debian 13, as small as the official slim image: no manuals, no translations, no package lists.
make_base_image() (
    set -e
    root=$(mktemp -d /var/tmp/postroom-base.XXXXXX)
    trap 'rm -rf "$root"' EXIT
    # In place before the first package, so that dpkg heeds it from the start.
    cp -r "$compose_folder/base/." "$root/"
    debootstrap --variant=minbase --include=ca-certificates --keyring="$debian_keys" \
        trixie "$root" "$(debian_mirror Debian)" /usr/share/debootstrap/scripts/sid
    rm -f "$root/etc/apt/sources.list"
    sed -i -e "s|@MIRROR@|$(debian_mirror Debian)|" -e "s|@SECURITY@|$(debian_mirror Debian-Security)|" \
        "$root/etc/apt/sources.list.d/debian.sources"
    find "$root"/usr/share/{man,info,locale,doc} -type f ! -name copyright -delete
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/*.log
    tar --directory="$root" --numeric-owner --exclude='./dev/*' --create . | docker import --change 'CMD ["bash"]' - "$base_image"
)

# The mirror that this machine itself uses for a label of Debian's, else the public one.
debian_mirror() {
    local uri
    # shellcheck disable=SC2016 # apt fills these in
    uri=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        sed -n "s/^$1 \(http[^ ]*[^/ ]\)\/*$/\1/p" | head -n 1)
    case $1 in
        Debian) echo "${uri:-http://deb.debian.org/debian}" ;;
        Debian-Security) echo "${uri:-http://deb.debian.org/debian-security}" ;;
    esac
}

ensure_debian_keys() {
    [[ -f $debian_keys ]] || { apt_update && apt_install debian-archive-keyring; }
}
