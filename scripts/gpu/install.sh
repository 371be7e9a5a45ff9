#!/usr/bin/env bash
# Compiles the runtime with its Vulkan backend and makes an environment that has it and sees the
# packages of another: install.sh PYTHON FOLDER BUILD.
#
# Not a line of the other's .pth files is read, or its own runtime would be found first.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1 folder=$2 build=$3
# VULKAN_HEADERS names a folder with headers of Vulkan where the system's are older than 1.3.272.
# Tests of results need no fast host code: -O3 takes minutes longer. Kernels have an -O3 of their own.
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE="-O1 -DNDEBUG" \
    ${VULKAN_HEADERS:+-DVulkan_INCLUDE_DIR="$VULKAN_HEADERS"} \
    -DACTQUANT_VULKAN=ON -DACTQUANT_BUILD_SERVER=OFF -DACTQUANT_BUILD_LIBRARY=OFF \
    -DPython_EXECUTABLE="$(realpath -s "$python")" >/dev/null
cmake --build "$build" --parallel 2
rm -rf "$build/python"
cmake --install "$build" --prefix "$build/python" --component actquant_runtime >/dev/null
cp runtime/bindings/actquant_runtime/*.py "$build/python/actquant_runtime/"
test -x "$folder/bin/python" || "$python" -m venv --without-pip "$folder"
theirs=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
own=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf '%s\n' "$(realpath "$build")/python" "$PWD" "$theirs" >"$own/actquant.pth"
"$folder/bin/python" -c 'import actquant_runtime; print(*actquant_runtime.build_info()["devices"])'
