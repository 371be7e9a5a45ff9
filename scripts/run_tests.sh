#!/usr/bin/env bash
# Runs the test suite: run_tests.sh ROOM... names the rooms whose tests run in real time.
#
# Those wait more than they compute, and must not be kept waiting: they run one after the other, the
# rest meanwhile on two workers at the lowest priority, in a session of its own, since Linux weighs
# whole sessions against each other (autogroup, sched(7)). What the real-time tests say comes last.
#
# An arm's control loop keeps its deadlines only where nothing else runs, and not always in a virtual
# machine, which may stand still for a tenth of a second: such a test may try again, and is listed.
#
# tests/gpu needs a build of its own (`make gpu`).
set -euo pipefail
cd "$(dirname "$0")/.."

pytest=(.venv/bin/python -m pytest -q --durations=20 --durations-min=5)
spread=(-n 2 --dist loadscope --no-loadscope-reorder --max-worker-restart 0)
said=$(mktemp)
setsid bash -c '{ echo 19 > /proc/self/autogroup; } 2> /dev/null || true; exec nice -n 19 "$@"' - \
    "${pytest[@]}" "${spread[@]}" tests --ignore=tests/gpu "${@/#/--ignore=}" &
others=$!
trap 'kill -- "-$others" 2> /dev/null || true; rm -f "$said"' EXIT

status=0
"${pytest[@]}" --reruns 1 -r fR "$@" > "$said" 2>&1 || status=1
wait "$others" || status=1
cat "$said"
exit "$status"
