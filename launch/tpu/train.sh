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
# shellcheck source=launch/tpu/slice.sh
source "$(dirname "${BASH_SOURCE[0]}")/slice.sh"

# The other hosts may still hold their chips, waiting for the one that is gone.
until_done "pkill -f 'launch[.]train'; true" "launch.train --multihost" "$@"
