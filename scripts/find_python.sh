#!/usr/bin/env bash
# Prints a Python that lerobot 0.6 accepts (>= 3.12) and that can make virtual environments.
# 3.12 comes first: some robot packages (ur-rtde) have no wheels for newer versions.
set -u

usable() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 12) <= sys.version_info[:2] <= (3, 13))' \
        >/dev/null 2>&1
}

candidates=("${PYTHON:-}" python3.12 python3.13 python3 python)
for version in 3.12 3.13; do
    for path in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version"*/bin/python3 \
        "/opt/pyenv/versions/$version"*/bin/python3 \
        "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}/cpython-$version"*/bin/python3; do
        [ -x "$path" ] && candidates+=("$path")
    done
done

for candidate in "${candidates[@]}"; do
    [ -n "$candidate" ] || continue
    path=$(command -v "$candidate") || continue
    if usable "$path"; then
        echo "$path"
        exit 0
    fi
done
cat >&2 <<'MESSAGE'
No Python 3.12 or 3.13 with venv was found on PATH or under the versions of pyenv and uv.
Install one (Debian 13, Ubuntu 24.04: apt install python3-venv python3-dev; elsewhere:
uv python install 3.12, or pyenv install 3.12), or name it: make setup PYTHON=/path/to/python3.12
MESSAGE
exit 1
