#!/usr/bin/env bash
# Installs what pip cannot: Python itself, a C++ compiler, CMake, what actquant-serve is compiled from
# (where it may install anything: the rest is built without), and software rendering for MuJoCo.
# With --for-tests also what compiles for Arm on an x86-64 machine and runs there what was compiled,
# with --for-fuzz clang and its fuzzer (56 MB to fetch, 320 MB installed), with --for-gpu what the
# runtime's Vulkan backend is compiled from, and a Vulkan driver that computes on the processor.
# Does nothing where all of it is there; says what to install where it lacks the right to.
set -eu
here=$(dirname "$0")
missing=()

has() { command -v "$1" >/dev/null; }
fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

as_root=()
can_install=false
if has apt-get; then
    if [ "$(id -u)" -eq 0 ]; then
        can_install=true
    elif has sudo && sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
        can_install=true
    fi
fi

updated=false
update() {
    $updated || ! $can_install || "${as_root[@]}" apt-get update -q >&2
    updated=true
}

# The version, as in 3.13, of the Python that apt would install; empty where it is not known.
offered_python() {
    has apt-cache || return 0
    apt-cache policy python3 2>/dev/null | sed -n 's/^ *Candidate: \([0-9]*\.[0-9]*\).*/\1/p'
}

system_name() { sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release 2>/dev/null || true; }

# Adds what a usable Python lacks to `missing` and sets `version`, or says how to get a Python.
version=
need_python() {
    local python headers prefix
    if python=$("$here/find_python.sh" 2>/dev/null); then
        read -r version headers prefix < <("$python" -c 'import sys, sysconfig
print("%d.%d" % sys.version_info[:2], sysconfig.get_path("include"), sys.base_prefix)')
        [ -e "$headers/Python.h" ] && return
        [ "$prefix" = /usr ] ||
            fail "$python lacks its C headers ($headers/Python.h)." \
                "Install them, or name another Python: make setup PYTHON=/path/to/python3.12"
        missing+=("python$version-dev")
        return
    fi
    update
    version=$(offered_python)
    $can_install || version=${version:-unknown}
    case "$version" in
    3.12 | 3.13 | unknown) missing+=(python3 python3-venv python3-dev) ;;
    *)
        fail "actquant needs Python 3.12 or 3.13 with venv and C headers, and none was found." \
            "$(system_name) offers Python ${version:-in no known version}. Install one beside it, and try again:" \
            "  uv python install 3.12      (https://docs.astral.sh/uv)" \
            "  pyenv install 3.12          (https://github.com/pyenv/pyenv)" \
            "Both are found by themselves. Any other: make setup PYTHON=/path/to/python3.12"
        ;;
    esac
}

need_python
has g++ || missing+=(g++)
has make || missing+=(make)
has cmake || missing+=(cmake)
libraries=$(ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null || true)
need_library() { case "$libraries" in *"$1 "*) ;; *) missing+=("$2") ;; esac }
need_library libEGL.so.1 libegl1
need_library libEGL_mesa.so.0 libegl-mesa0
need_library libGL.so.1 libgl1
# ur-rtde has wheels for Python 3.12 on x86-64; scripts/ur_rtde/install.sh compiles it elsewhere.
if [ "$version $(uname -m)" != "3.12 x86_64" ]; then
    need_library libboost_system.so libboost-system-dev
    need_library libboost_thread.so libboost-thread-dev
    need_library libboost_program_options.so libboost-program-options-dev
fi
need_header() { [ -e "/usr/include/$1" ] || missing+=("$2"); }
if $can_install; then
    need_header boost/beast.hpp libboost-dev
    need_header msgpack.hpp libmsgpack-cxx-dev
    need_header openssl/ssl.h libssl-dev
fi
if [ "${1:-}" = --for-tests ] && [ "$(uname -m)" = x86_64 ]; then
    has aarch64-linux-gnu-g++ || missing+=(g++-aarch64-linux-gnu)
    has qemu-aarch64 || missing+=(qemu-user)
fi
if [ "${1:-}" = --for-gpu ]; then
    has glslc || missing+=(glslc)
    need_header vulkan/vulkan.h libvulkan-dev
    need_header spirv/unified1/spirv.hpp spirv-headers
    need_library libvulkan_lvp.so mesa-vulkan-drivers
fi
# The newest clang that links fuzzers, and that apt offers.
need_clang() {
    local version
    for version in 19 18 17 16 14; do
        compgen -G "/usr/lib/llvm-$version/lib/clang/*/lib/linux/libclang_rt.fuzzer-*.a" >/dev/null && return
    done
    has apt-cache || return 0
    update
    for version in 19 18 17 16 14; do
        if apt-cache show "libclang-rt-$version-dev" >/dev/null 2>&1; then
            missing+=("clang-$version" "libclang-rt-$version-dev")
            return
        fi
    done
}
[ "${1:-}" != --for-fuzz ] || need_clang
[ ${#missing[@]} -eq 0 ] && exit 0

has apt-get || fail "This system has no apt-get. Install what gives you: ${missing[*]}"
$can_install || fail "These system packages are missing: ${missing[*]}" \
    "Install them and try again: sudo apt-get install ${missing[*]}"
echo "Installing system packages: ${missing[*]}"
update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}"
