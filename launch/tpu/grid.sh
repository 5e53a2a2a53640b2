#!/usr/bin/env bash
# A study's grid on a Cloud TPU slice: a sweep on each host, whose workers have one chip each; all share the runs through
# the workdir. Several slices may work on one workdir. First launch/tpu/setup.sh.
#
#   python -m launch.prepare --config=configs/pythia.py --workdir=/shared/runs/pythia      # once, on any machine
#   TPU=cpt ZONE=us-west4-a CHIPS=64 HOSTS=16 CONFIG=configs/pythia.py \
#       WORKDIR=/shared/runs/pythia bash launch/tpu/grid.sh --config.together=0
#
# Arguments go to launch.sweep: --config.devices_per_run=4 for a model that needs four chips (1, 2, 4 or all of a host's).
# On exit code 75 (saved, asks to be started again) and 255 (a host went away) it waits until the slice is READY and
# starts again; any other code ends it. Each host ends when the whole grid is trained, and writes the same runs.csv.
set -uo pipefail
# shellcheck source=launch/tpu/slice.sh
source "$(dirname "${BASH_SOURCE[0]}")/slice.sh"
: "${HOSTS:?how many hosts the slice has}"

# Sweeps of other hosts may still be at work: they save, and their workers with them, and all start again.
until_done "pkill -TERM -f 'launch[.]sweep'; while pgrep -f 'cptlaw[.]execution' >/dev/null; do sleep 1; done" \
    "launch.sweep --sweeps=$HOSTS" "$@"
