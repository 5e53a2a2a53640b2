#!/usr/bin/env bash
# One run over all hosts of a Cloud TPU slice, from a machine that stays up (a small VM, in tmux): it starts the run
# again when the slice was preempted or under maintenance. First launch/tpu/setup.sh.
#
#   TPU=cpt ZONE=us-west4-a CHIPS=64 CONFIG=configs/qwen.py WORKDIR=/shared/runs/qwen \
#       bash launch/tpu/train.sh --size=4b --share=domain=0.3
#
# Arguments go to launch.train. On exit code 75 (saved, asks to be started again) and 255 (a host went away) it waits
# until the slice is READY and starts again; any other code ends it.
set -uo pipefail
: "${TPU:?the name of the slice}" "${ZONE:?its zone}" "${CHIPS:?how many chips it has}"
: "${CONFIG:?the study, such as configs/qwen.py}" "${WORKDIR:?a directory that all hosts mount}"

state() { gcloud compute tpus tpu-vm describe "$TPU" --zone="$ZONE" --format='value(state)'; }
everywhere() { gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"; }

quoted=$(printf '%q ' "--config=$CONFIG" "--workdir=$WORKDIR" "$@")
checks="--multihost --platform=tpu --devices=$CHIPS --workdir=$(printf '%q' "$WORKDIR") --min-gbps=${MIN_GBPS:-0}"
python=.venv/bin/python
job="cd cptlaw && $python -m launch.checks $checks && exec $python -m launch.train --multihost $quoted"

for ((attempt = 1; attempt <= ${ATTEMPTS:-100}; attempt++)); do
    until [ "$(state)" = READY ]; do sleep "${WAIT:-60}"; done
    everywhere "$job" && exit 0
    code=$?
    echo "attempt $attempt ended with exit code $code" >&2
    case $code in
        75) ;;
        # The other hosts may still hold their chips, waiting for the one that is gone.
        255) everywhere "pkill -f 'launch[.]train'; true" ;;
        *) exit "$code" ;;
    esac
done
exit "$code"
