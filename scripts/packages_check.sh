#!/usr/bin/env bash
# Tries the packages in dist/ (`make wheels deb`) where they are to run: in minimal roots of Debian 13
# with Python and without a compiler. Each wheel is installed, runs a policy, and says how long a new
# process takes to begin; the .deb packages are installed, and a C program is linked with the library.
# What is for 64-bit Arm runs under QEMU's user mode on x86-64, registered in a namespace of its own.
# At last the source archive is built without a network. Root, network for apt and pip, 2 GB of disk.
#   scripts/packages_check.sh POLICY.gguf [FOLDER]       FOLDER: where the packages are, dist/
# WORK=DIR is where the roots are made, MIRROR=URL another mirror of Debian.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/bare_root.sh"
SUITE=trixie PYTHON=3.13

# ROOT COMMAND...: a command in the root, of any processor that EMULATOR emulates.
inside() {
    local root=$1
    shift
    [ -z "${EMULATOR:-}" ] || {
        mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
        # 64-bit little-endian ELF, executable or shared, machine 183
        printf '%s' ':aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:' \
            '\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:' \
            "$EMULATOR:F" >/proc/sys/fs/binfmt_misc/register
    }
    mkdir -p "$root/proc" "$root/dev" "$root/tmp"
    mount --rbind /dev "$root/dev"
    mount -t proc proc "$root/proc"
    exec chroot "$root" /usr/bin/env -i HOME=/tmp LANG=C.UTF-8 PATH=/opt/actquant/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        PYTHONPATH=/opt/actquant "$@"
}

run() { # ROOT COMMAND...
    local user=()
    # Emulators are registered for a user namespace alone, on kernels from 6.7.
    [ -z "${EMULATOR:-}" ] || user=(--user --map-root-user)
    unshare "${user[@]}" --mount --pid --fork --kill-child "$here/packages_check.sh" --inside "$@"
}

# ROOT WHEEL PROCESSOR: by this machine's pip, for the other's Python; pip under QEMU takes minutes.
install_wheel() {
    local root=$1 wheel=$2 processor=$3 platforms=() glibc
    for glibc in 41 40 39 38 37 36 35 34 31 28 27 24 17; do
        platforms+=(--platform "manylinux_2_${glibc}_$processor")
    done
    "$here/../.venv/bin/python" -m pip install --quiet --no-compile --no-warn-conflicts --target "$root/opt/actquant" \
        --only-binary :all: --python-version "$PYTHON" "${platforms[@]}" \
        --platform "manylinux2014_$processor" "$wheel[serve]"
    # The commands that pip writes call this machine's Python.
    sed -i '1s|^#!/.*python.*|#!/usr/bin/python3|' "$root/opt/actquant/bin/actquant"
}

check_wheel() { # ROOT WHEEL PROCESSOR
    local root=$1 wheel=$2 processor=$3
    install_wheel "$root" "$wheel" "$processor"
    echo "$(basename "$wheel"): $(stat -c %s "$wheel") bytes; with its dependencies" \
        "$(du -sb "$root/opt/actquant" | cut -f1) bytes"
    run "$root" actquant-run /policy.gguf --golden
    run "$root" actquant inspect /policy.gguf >/dev/null
    run "$root" actquant serve --help >/dev/null
    run "$root" python3 /cold_start.py /policy.gguf
    run "$root" python3 /cold_start.py /policy.gguf
    rm -rf "$root/opt/actquant"
}

check_debs() { # ROOT ARCHITECTURE COMPILER
    local root=$1 architecture=$2 compiler=$3 deb debs=()
    for deb in "$packages"/*_"$architecture".deb; do
        echo "$(basename "$deb"): $(stat -c %s "$deb") bytes; $(dpkg-deb --field "$deb" Depends)"
        dpkg-deb --extract "$deb" "$work/deb-$architecture"
        cp "$deb" "$root/"
        debs+=("/$(basename "$deb")")
    done
    # An emulated root is not configured: dpkg cannot work in it.
    if [ -z "${EMULATOR:-}" ]; then
        run "$root" dpkg --install "${debs[@]}"
    else
        cp -a "$work/deb-$architecture/." "$root/"
    fi
    "$compiler" -std=c99 -Wall -Wextra -Werror "$here/packages/open_policy.c" -o "$root/open_policy" \
        -I "$work/deb-$architecture/usr/include" \
        -L "$work/deb-$architecture/usr/lib/$processor-linux-gnu" -lactquant
    run "$root" /open_policy /policy.gguf
    run "$root" /usr/bin/actquant-run /policy.gguf --golden
    run "$root" /usr/bin/actquant-bench /policy.gguf
    # For Arm it is packed only where it could be built.
    [ ! -e "$root/usr/bin/actquant-serve" ] || run "$root" python3 /serve_policy.py /policy.gguf
}

check_sdist() {
    local ggml
    ggml=$(echo "$here"/../build/*/*/cmake/ggml-source/*/vendor/llama.cpp/ggml)
    ggml=${GGML_SOURCE_DIR:-${ggml%% *}}
    # Without its own build environment: that would be fetched.
    unshare --net env PIP_NO_INDEX=1 "$here/../.venv/bin/python" -m pip wheel --quiet --no-cache-dir --no-deps \
        --no-build-isolation --wheel-dir "$work/offline" "-Ccmake.define.GGML_SOURCE_DIR=$ggml" \
        "$packages"/actquant-*.tar.gz
    ls "$work/offline"
}

main() {
    local policy=${1:-} processor architecture wheel compiler
    [ -f "$policy" ] || { sed -n '2,9s/^# *//p' "$0" >&2; exit 2; }
    need_mmdebstrap
    packages=$(cd "${2:-$here/../dist}" && pwd)
    work=$(mktemp -d "${WORK:-/var/tmp}/packages_check.XXXXXX")
    trap 'rm -rf --one-file-system "$work"' EXIT
    for wheel in "$packages"/actquant-*.whl; do
        case $wheel in
        *x86_64.whl) processor=x86_64 architecture=amd64 compiler=x86_64-linux-gnu-gcc ;;
        *aarch64.whl) processor=aarch64 architecture=arm64 compiler=aarch64-linux-gnu-gcc ;;
        *) echo "$wheel: for which processor?" >&2; exit 1 ;;
        esac
        echo "Making a minimal root of $SUITE, $architecture"
        if [ "$processor" = "$(uname -m)" ]; then
            unset EMULATOR
            make_root "$SUITE" "$work/root" --variant=minbase --include=python3
        else
            make_root "$SUITE" "$work/root" --variant=extract --architectures="$architecture" \
                --include=coreutils,dash,python3,libstdc++6
            # Static, so that it runs in another root, and not installed: it would be for all.
            (cd "$work" && apt-get download -q qemu-user-static 2>/dev/null &&
                dpkg-deb --extract qemu-user-static_*.deb qemu)
            export EMULATOR=$work/qemu/usr/bin/qemu-$processor-static
            local name
            for name in bin sbin lib; do
                [ -e "$work/root/$name" ] || ln -s "usr/$name" "$work/root/$name"
            done
        fi
        for name in cc gcc g++ clang; do
            [ ! -e "$work/root/usr/bin/$name" ] || { echo "the root has $name" >&2; exit 1; }
        done
        cp "$policy" "$work/root/policy.gguf"
        cp "$here"/packages/{cold_start,serve_policy}.py "$work/root/"
        check_wheel "$work/root" "$wheel" "$processor"
        check_debs "$work/root" "$architecture" "$compiler"
        rm -rf --one-file-system "$work/root"
    done
    check_sdist
}

if [ "${1:-}" = --inside ]; then
    shift
    inside "$@"
else
    main "$@"
fi
