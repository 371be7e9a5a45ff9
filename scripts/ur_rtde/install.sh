#!/usr/bin/env bash
# Installs the release of ur-rtde that robot/ asks for, compiled here where there is no wheel.
#   scripts/ur_rtde/install.sh PYTHON
set -eu
python=$1
here=$(cd "$(dirname "$0")" && pwd)
requirement=$(grep -o 'ur-rtde==[0-9.]*' "$here/../../robot/pyproject.toml")

if "$python" -m pip install --quiet --only-binary ur-rtde "$requirement" 2>/dev/null; then
    exit 0
fi
echo "No wheel of $requirement for this Python and machine: compiling it (some minutes)"
# The release of pybind11 that ur-rtde's own build would clone.
constraint=$(mktemp)
trap 'rm -f "$constraint"' EXIT
echo "pybind11==2.13.6" >"$constraint"
export CMAKE_TOOLCHAIN_FILE="$here/toolchain.cmake"
export CMAKE_BUILD_PARALLEL_LEVEL="${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}"
"$python" -m pip install --quiet --build-constraint "$constraint" "$requirement"
