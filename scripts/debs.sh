#!/usr/bin/env bash
# Writes libactquant, actquant-tools and actquant-server as packages of Debian's into dist/, for this
# machine's kind of processor and, on x86-64, for 64-bit Arm. They run on every x86-64 with AVX2, and
# every 64-bit Arm. For Arm the server is left out where there is no libssl-dev:arm64.
#   scripts/debs.sh [FOLDER]        CMAKE_BUILD_PARALLEL_LEVEL=N jobs at a time, all cores without
# With GGML_SOURCE_DIR=<llama.cpp's folder ggml> nothing is fetched.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist}
command -v dpkg-shlibdeps >/dev/null ||
    { echo "dpkg-shlibdeps is missing. Install it: apt-get install dpkg-dev" >&2; exit 1; }
mkdir -p "$out"
rm -f "$out"/libactquant_*.deb "$out"/actquant-tools_*.deb "$out"/actquant-server_*.deb
out=$(cd "$out" && pwd)

mkdir -p build/deb
processors=("$(uname -m)")
[ "${processors[0]}" != x86_64 ] || processors+=(aarch64)
for processor in "${processors[@]}"; do
    built=build/deb/$processor
    options=(-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF -DACTQUANT_BUILD_PYTHON=OFF
        -DCMAKE_INSTALL_PREFIX=/usr "-DCMAKE_INSTALL_LIBDIR=lib/$processor-linux-gnu"
        "-DPython_EXECUTABLE=$PWD/.venv/bin/python" "-DGGML_SOURCE_DIR=${GGML_SOURCE_DIR:-}")
    if [ "$processor" != "$(uname -m)" ]; then
        options+=("-DCMAKE_TOOLCHAIN_FILE=$PWD/runtime/cmake/$processor-linux-gnu.cmake")
    else
        options+=(-DACTQUANT_BUILD_SERVER=ON)
    fi
    cmake -S . -B "$built" "${options[@]}" >"$built.log"
    grep actquant-serve "$built.log" || true
    cmake --build "$built" --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}"
    packing=()
    if [ "$processor" != "$(uname -m)" ]; then
        # dpkg-shlibdeps would name the cross compiler's packages. The sources and the versions of the
        # compilers are the same: so are the symbols that they need.
        needed=$(dpkg-deb --field "$out"/actquant-tools_*_amd64.deb Depends)
        by_server=$(dpkg-deb --field "$out"/actquant-server_*_amd64.deb Depends)
        packing=(-D CPACK_DEBIAN_PACKAGE_SHLIBDEPS=OFF -D "CPACK_DEBIAN_PACKAGE_DEPENDS=$needed"
            -D "CPACK_DEBIAN_ACTQUANT_SERVER_PACKAGE_DEPENDS=$by_server")
    fi
    cpack --config "$built/CPackConfig.cmake" -B "$out" "${packing[@]}"
    rm -rf "$out/_CPack_Packages"
done
ls -l "$out"/*.deb
