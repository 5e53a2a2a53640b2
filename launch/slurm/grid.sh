#!/usr/bin/env bash
# A study's grid as an array job: every task is a sweep on GPUs of its own, and all share the runs through the workdir.
#
#   python -m launch.prepare --config=configs/pythia.py --workdir=/shared/runs/pythia      # once, on a CPU node
#   CONFIG=configs/pythia.py WORKDIR=/shared/runs/pythia sbatch --array=0-7 --gpus=1 --cpus-per-task=8 \
#       --time=24:00:00 launch/slurm/grid.sh
#
# Arguments go to launch.sweep. More tasks may join or leave at any time; WORKDIR's file system must show locks (flock)
# to other nodes, and `launch.checks --multihost` tests that it does. A task that is preempted, or whose time is up, saves,
# exits with 75 and is queued again; each ends when the whole grid is trained, and writes the same runs.csv.
#SBATCH --job-name=cptlaw-grid
#SBATCH --output=%x-%A-%a.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@300
set -uo pipefail
: "${CONFIG:?the study, such as configs/pythia.py}" "${WORKDIR:?a directory that all nodes mount}"
trap : TERM # Slurm sends SIGTERM to the sweep too, and this script must outlive it

srun --ntasks=1 python -m launch.checks --workdir="$WORKDIR" --platform=gpu || exit
srun --ntasks=1 python -m launch.sweep --config="$CONFIG" --workdir="$WORKDIR" "$@"
code=$?
if [ "$code" -eq 75 ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
