#!/usr/bin/env bash
# Tries the README's two commands on a machine with nothing installed: makes a minimal Debian or
# Ubuntu root, clones the current commit into it, and runs `make setup`, `make demo` and `make test`
# there. Says how long each took; fails where one of them fails. Root, network and 15 GB of disk.
#   scripts/fresh_machine.sh SUITE [TARGET...]     as in: scripts/fresh_machine.sh trixie demo
# The host's settings for the network apply inside: proxies, mirrors, certificates, pip's
# configuration. MIRROR=URL names another mirror of the distribution, WORK=DIR where the root is made.
set -euo pipefail
source "$(dirname "$0")/bare_root.sh"

inside() { # ROOT TARGET...: in a mount namespace of its own, which takes its mounts with it
    local root=$1 passed failed=0 target started
    shift
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    while read -r path; do
        mkdir -p "$root$path"
        mount --bind -o ro "$path" "$root$path"
    done < <(pip_folders)
    mapfile -t passed < <(env | grep -iE '^(PIP_[A-Z_]*|[a-z]*_proxy)=' || true)
    for target in "$@"; do
        started=$SECONDS
        if chroot "$root" env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            LANG=C.UTF-8 TERM="${TERM:-dumb}" "${passed[@]}" make -C /root/actquant "$target"; then
            summary+=("make $target: $((SECONDS - started)) s")
        else
            summary+=("make $target: FAILED after $((SECONDS - started)) s")
            failed=1
            [ "$target" != setup ] || break
        fi
    done
    printf '%s\n' "" "${summary[@]}"
    return $failed
}

pip_files() {
    local path
    for path in /etc/pip.conf /etc/xdg/pip/* "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf"; do
        [ ! -f "$path" ] || echo "$path"
    done
}

# Folders of this machine that pip's configuration names, which exist nowhere else.
pip_folders() {
    local path
    { pip_files | xargs -r -d '\n' cat; env | grep '^PIP_' || true; } |
        grep -oE '(^|[ =]|file://)/[^ ]+' | sed -E 's#^(file:/|[ =])?/#/#' | sort -u |
        while read -r path; do
            path=${path%/simple} # an index keeps its files beside its pages
            [ ! -d "$path" ] || echo "$path"
        done
}

copy_network_settings() { # ROOT
    local root=$1 path
    cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
    for path in /usr/local/share/ca-certificates/*.crt; do
        [ ! -f "$path" ] || cp "$path" "$root/usr/local/share/ca-certificates/"
    done
    chroot "$root" update-ca-certificates >/dev/null 2>&1
    while read -r path; do
        # root's home is /root there
        install -D -m 644 "$path" "$root${path/#$HOME\//\/root\/}"
    done < <(pip_files)
}

main() {
    local suite=${1:-} repository
    [ -n "$suite" ] || { sed -n '2,7s/^# *//p' "$0" >&2; exit 2; }
    shift
    need_mmdebstrap
    repository=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
    [ -z "$(git -C "$repository" status --porcelain)" ] ||
        echo "Changes that are not committed are not tried." >&2
    work=$(mktemp -d "${WORK:-/var/tmp}/fresh_machine.XXXXXX")
    trap clean_up EXIT
    trap 'exit 130' INT TERM HUP

    echo "Making a minimal root of $suite"
    make_root "$suite" "$work/root" --variant=minbase --include=ca-certificates,make,git
    copy_network_settings "$work/root"
    git clone --quiet --no-local "$repository" "$work/root/root/actquant"

    [ $# -gt 0 ] || set -- setup demo test
    echo "$suite, $(git -C "$repository" rev-parse --short HEAD), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg)"
    # In the background, so that a signal ends the wait; unshare itself takes nothing but KILL.
    unshare --mount --propagation private --pid --fork --kill-child \
        "$0" --inside "$work/root" "$@" </dev/null &
    namespace=$!
    wait "$namespace"
}

# The namespace's processes end with it, and its mounts: none is left below the folder.
clean_up() {
    if [ -n "$namespace" ]; then
        kill -KILL "$namespace" 2>/dev/null || true
        wait "$namespace" 2>/dev/null || true
        sleep 1
    fi
    rm -rf --one-file-system "$work"
}

summary=()
namespace=
if [ "${1:-}" = --inside ]; then
    shift
    inside "$@"
    exit
else
    main "$@"
    exit
fi
