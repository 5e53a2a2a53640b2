#!/usr/bin/env bash
# A study's grid on GKE, through xpk: SLICES pods of one host each, a sweep in each, whose workers have one GPU or TPU
# chip each; all share the runs through the workdir. xpk starts a pod again on exit code 75.
#
#   CLUSTER=cpt ZONE=us-west4-a IMAGE=REGION-docker.pkg.dev/PROJECT/REPO/cptlaw NAME=pythia-grid TYPE=v5litepod-8 \
#       SLICES=16 CONFIG=configs/pythia.py WORKDIR=/shared/runs/pythia bash launch/gke/grid.sh --config.together=0
#
# TYPE is a type of one host: v5litepod-8, v6e-8, or GPUs such as h100-80gb-8 (SLICES is then the number of nodes).
# The image, WORKDIR and XPK_ARGS are as for launch/gke/train.sh; arguments go to launch.sweep.
set -euo pipefail
: "${CLUSTER:?the cluster}" "${ZONE:?its zone}" "${IMAGE:?the image}" "${NAME:?a name for the workload}"
: "${TYPE:?the accelerator of one host, such as v5litepod-8}" "${SLICES:?how many hosts}"
: "${CONFIG:?the study, such as configs/pythia.py}" "${WORKDIR:?a directory that all pods mount}"

platform=gpu
kind=(--device-type="$TYPE" --num-nodes="$SLICES")
case $TYPE in v[0-9]* | tpu*) platform=tpu kind=(--tpu-type="$TYPE" --num-slices="$SLICES") ;; esac
quoted=$(printf '%q ' "--config=$CONFIG" "--workdir=$WORKDIR" "$@")
checks="--platform=$platform --workdir=$(printf '%q' "$WORKDIR")"
# Slices of one workload would look for each other; each sweep is alone. exec: SIGTERM has to reach the sweep.
alone="unset MEGASCALE_COORDINATOR_ADDRESS MEGASCALE_NUM_SLICES MEGASCALE_SLICE_ID"
read -ra more <<<"${XPK_ARGS:-}"
xpk workload create --cluster="$CLUSTER" --zone="$ZONE" --workload="$NAME" "${kind[@]}" --docker-image="$IMAGE" \
    --max-restarts=100 --restart-on-exit-codes=75 --termination-grace-period-seconds=300 ${more[@]+"${more[@]}"} \
    --command="$alone && python -m launch.checks $checks && exec python -m launch.sweep --sweeps=$SLICES $quoted"
