#!/usr/bin/env bash
# Makes an environment that has ROS 2 and sees the packages of another: install.sh PYTHON FOLDER.
#
# It is one of its own, since these wheels start every Python anew with paths of their libraries.
set -euo pipefail
python=$1 folder=$2
"$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --no-compile -r "$(dirname "$0")/requirements.txt"
theirs=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
own=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "import site; site.addsitedir('$theirs')" > "$own/actquant.pth"
"$folder/bin/python" -c 'import rclpy, actquant_runtime'
