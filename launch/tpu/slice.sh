#!/usr/bin/env bash
# What a run and a grid on a Cloud TPU slice have in common; launch/tpu/train.sh and grid.sh read it.
: "${TPU:?the name of the slice}" "${ZONE:?its zone}" "${CHIPS:?how many chips it has}"
: "${CONFIG:?the study, such as configs/qwen.py}" "${WORKDIR:?a directory that all hosts mount}"

state() { gcloud compute tpus tpu-vm describe "$TPU" --zone="$ZONE" --format='value(state)'; }
everywhere() { gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"; }

# until_done LOST PROGRAM [ARGUMENT ...]: checks all hosts as one job, which shows that they share the workdir and its
# locks, and runs PROGRAM on each. On exit code 75 (saved, asks to be started again) and 255 (a host went away, after
# which LOST runs on all) it waits until the slice is READY and starts again; any other code ends it.
until_done() {
    local lost=$1 program=$2 attempt code checks job
    local python=.venv/bin/python
    shift 2
    checks="--multihost --platform=tpu --devices=$CHIPS --workdir=$(printf '%q' "$WORKDIR") --min-gbps=${MIN_GBPS:-0}"
    job="cd cptlaw && $python -m launch.checks $checks && exec $python -m $program"
    job+=" $(printf '%q ' "--config=$CONFIG" "--workdir=$WORKDIR" "$@")"
    for ((attempt = 1; attempt <= ${ATTEMPTS:-100}; attempt++)); do
        until [ "$(state)" = READY ]; do sleep "${WAIT:-60}"; done
        everywhere "$job" && return 0
        code=$?
        echo "attempt $attempt ended with exit code $code" >&2
        case $code in
            75) ;;
            255) everywhere "$lost" ;;
            *) return "$code" ;;
        esac
    done
    return "$code"
}
