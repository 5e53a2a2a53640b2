#!/usr/bin/env bash
# One run over all GPUs of one or more nodes, one process a GPU.
#
#   VENV=/shared/cptlaw-env CONFIG=configs/llama_8b.py WORKDIR=/shared/runs/llama sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 \
#       --time=24:00:00 launch/slurm/train.sh --size=8b --share=domain=0.3
#
# Arguments go to launch.train. WORKDIR is on a file system that all nodes mount. Slurm sends SIGTERM when it preempts
# the job and five minutes before its time is up: the processes save together and exit with 75, and the job is queued
# again.
#
# Once, on a node with a network, in a folder that all nodes mount; JAX brings CUDA 13 with it, the nodes need the driver
# (580 or newer) alone:
#   python3.12 -m venv /shared/cptlaw-env && . /shared/cptlaw-env/bin/activate
#   pip install -r requirements/lock-3.12.txt
#   pip install "jax[cuda13]==$(python -c 'import jax; print(jax.__version__)')"
#   pip install --no-deps -e .
# VENV=/shared/cptlaw-env then activates it in the job. Without VENV the job has the environment that sbatch was called
# in (conda, modules, a container), whose python must have the same packages.
#SBATCH --job-name=cptlaw
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@300
set -uo pipefail
: "${CONFIG:?the study, such as configs/llama_8b.py}" "${WORKDIR:?a directory that all nodes mount}"
if [ -n "${VENV:-}" ]; then
    source "$VENV/bin/activate" || exit
fi
trap : TERM # Slurm sends SIGTERM to the processes too, and this script must outlive them

# Every process sees all GPUs of its node and takes the one of its local rank. --wait: after the first process has
# ended, the others have two minutes; a crash of one must not leave the rest of the job waiting for it.
step=(srun --kill-on-bad-exit=0 --wait=120 --gpu-bind=none)

"${step[@]}" python -m launch.checks --multihost --workdir="$WORKDIR" --platform=gpu \
    --devices="$SLURM_NTASKS" --expect-processes="$SLURM_NTASKS" --min-gbps="${MIN_GBPS:-0}" || exit
"${step[@]}" python -m launch.train --multihost --config="$CONFIG" --workdir="$WORKDIR" "$@"
code=$?
if [ "$code" -eq 75 ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
