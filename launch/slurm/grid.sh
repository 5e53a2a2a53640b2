#!/usr/bin/env bash
# A study's grid on Slurm: a sweep on every node of the job, whose workers have one GPU each; all share the runs through
# the workdir.
#
#   python -m launch.prepare --config=configs/pythia.py --workdir=/shared/runs/pythia      # once, on a CPU node
#   export VENV=/shared/cptlaw-env CONFIG=configs/pythia.py WORKDIR=/shared/runs/pythia
#   sbatch --array=0-7 --gpus=1 --cpus-per-task=8 --time=24:00:00 launch/slurm/grid.sh     # single GPUs, as they get free
#   sbatch --nodes=4 --gpus-per-node=8 --cpus-per-task=64 --time=24:00:00 launch/slurm/grid.sh          # whole nodes
#   sbatch --array=0-3 --nodes=1 --gpus-per-node=8 --cpus-per-task=64 ... launch/slurm/grid.sh  # nodes, as they get free
#
# Arguments go to launch.sweep: --config.devices_per_run=2 for a model that needs two GPUs, --config.together=0 for small
# ones. More tasks may join or leave at any time; WORKDIR's file system must show locks (flock) to other nodes, and
# `launch.checks --multihost` tests that it does. A task that is preempted, or whose time is up, saves, exits with 75 and
# is queued again; each ends when the whole grid is trained, and writes the same runs.csv.
#
# Once, on a node with a network, in a folder that all nodes mount; JAX brings CUDA 13 with it, the nodes need the driver
# (580 or newer) alone:
#   python3.12 -m venv /shared/cptlaw-env && . /shared/cptlaw-env/bin/activate
#   pip install -r requirements/lock-3.12.txt
#   pip install "jax[cuda13]==$(python -c 'import jax; print(jax.__version__)')"
#   pip install --no-deps -e .
# VENV=/shared/cptlaw-env then activates it in the job. Without VENV the job has the environment that sbatch was called
# in (conda, modules, a container), whose python must have the same packages.
#SBATCH --job-name=cptlaw-grid
#SBATCH --output=%x-%A-%a.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@300
set -uo pipefail
: "${CONFIG:?the study, such as configs/pythia.py}" "${WORKDIR:?a directory that all nodes mount}"
if [ -n "${VENV:-}" ]; then
    source "$VENV/bin/activate" || exit
fi
trap : TERM # Slurm sends SIGTERM to the sweeps too, and this script must outlive them

# Since Slurm 22.05 a step does not take over --cpus-per-task, and all workers of a node would share one core.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
sweeps=$((${SLURM_ARRAY_TASK_COUNT:-1} * ${SLURM_JOB_NUM_NODES:-1}))
# Every sweep sees all GPUs of its node. --wait=0: the sweeps of other nodes go on when one has nothing left to take.
step=(srun --ntasks="${SLURM_JOB_NUM_NODES:-1}" --ntasks-per-node=1 --gpu-bind=none --kill-on-bad-exit=0 --wait=0)

"${step[@]}" python -m launch.checks --workdir="$WORKDIR" --platform=gpu || exit
"${step[@]}" python -m launch.sweep --sweeps="$sweeps" --config="$CONFIG" --workdir="$WORKDIR" "$@"
code=$? # the highest of all sweeps
if [ "$code" -eq 75 ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
