# Sourced by what tries things in a minimal Debian or Ubuntu root. Needs root and mmdebstrap.

need_mmdebstrap() {
    [ "$(id -u)" -eq 0 ] || { echo "This needs root: it makes a root file system." >&2; exit 1; }
    command -v mmdebstrap >/dev/null ||
        { echo "mmdebstrap is missing. Install it: apt-get install mmdebstrap" >&2; exit 1; }
}

host_mirror() {
    local path
    for path in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
        [ ! -f "$path" ] || sed -n 's/^URIs: *//p; s/^deb [^h]*\(http[^ ]*\).*/\1/p' "$path"
    done | sed -n 1p
}

# SUITE FOLDER OPTION...: a root with the network settings of this machine's apt; MIRROR=URL names
# another mirror of the distribution.
make_root() {
    local suite=$1 folder=$2 mirror=${MIRROR:-$(host_mirror)}
    shift 2
    apt-config dump Acquire | grep -E '^Acquire::(https?|Check|Retries)' | grep -v '""' >"$folder.apt" || true
    mmdebstrap --quiet --aptopt="$folder.apt" "$@" "$suite" "$folder" ${mirror:+"$mirror"}
}
