#!/usr/bin/env bash
# Runs the driver against URSim, UR's own simulator, in Docker, and writes where it answers otherwise
# than the fake controller: scripts/ursim.sh [MODEL] [VERSION] [OUT.json], as in
#   scripts/ursim.sh ur3e 5.21.1 ursim.json
# Never run so far: the machine it was written on has no Docker. `ursim_check.py` itself was run
# against the fake controller.
set -euo pipefail

model=${1:-ur3e} version=${2:-latest} out=${3:-ursim.json}
here=$(cd "$(dirname "$0")" && pwd)
name=actquant-ursim net=actquant-ursim address=192.168.58.101
case $model in
    ur3 | ur5 | ur10) image=universalrobots/ursim_cb3 robot=${model^^} ;;
    *) image=universalrobots/ursim_e-series robot=${model^^} robot=${robot%E} ;;
esac

command -v docker >/dev/null || { echo "docker is not installed" >&2; exit 1; }
clean_up() {
    docker rm -f "$name" >/dev/null 2>&1 || true
    docker network rm "$net" >/dev/null 2>&1 || true
}
trap clean_up EXIT
clean_up
docker network create --subnet 192.168.58.0/24 "$net" >/dev/null
docker run -d --name "$name" --net "$net" --ip "$address" -e ROBOT_MODEL="$robot" "$image:$version" >/dev/null

echo "PolyScope starts: http://$address:6080/vnc.html"
echo "There: power on, release the brakes; e-Series: Settings, System, Remote Control, Enable; then Remote."
read -rp "Enter when the arm says Normal and Remote: "
python "$here/../benchmarks/ursim_check.py" "$address" --model "$model" --by-hand --out "$out"
