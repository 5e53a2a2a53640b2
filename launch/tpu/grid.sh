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
: "${TPU:?the name of the slice}" "${ZONE:?its zone}" "${CHIPS:?how many chips it has}" "${HOSTS:?how many hosts}"
: "${CONFIG:?the study, such as configs/pythia.py}" "${WORKDIR:?a directory that all hosts mount}"

state() { gcloud compute tpus tpu-vm describe "$TPU" --zone="$ZONE" --format='value(state)'; }
everywhere() { gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"; }

quoted=$(printf '%q ' "--config=$CONFIG" "--workdir=$WORKDIR" "$@")
# The hosts are checked as one job, which shows that they share the workdir and its locks, and then work apart.
checks="--multihost --platform=tpu --devices=$CHIPS --workdir=$(printf '%q' "$WORKDIR") --min-gbps=${MIN_GBPS:-0}"
python=.venv/bin/python
job="cd cptlaw && $python -m launch.checks $checks && exec $python -m launch.sweep --sweeps=$HOSTS $quoted"

for ((attempt = 1; attempt <= ${ATTEMPTS:-100}; attempt++)); do
    until [ "$(state)" = READY ]; do sleep "${WAIT:-60}"; done
    everywhere "$job" && exit 0
    code=$?
    echo "attempt $attempt ended with exit code $code" >&2
    case $code in
        75) ;;
        # Sweeps of other hosts may still be at work: they save, and their workers with them, and all start again.
        255) everywhere "pkill -TERM -f 'launch[.]sweep'; while pgrep -f 'cptlaw[.]execution' >/dev/null; do sleep 1; done" ;;
        *) exit "$code" ;;
    esac
done
exit "$code"
