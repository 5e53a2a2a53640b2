#!/usr/bin/env bash
# One run on a GKE cluster, through xpk (pip install xpk), which starts it again on exit code 75.
#
#   docker build --build-arg ACCELERATOR=tpu -t REGION-docker.pkg.dev/PROJECT/REPO/cptlaw . && docker push ...
#   CLUSTER=cpt ZONE=us-west4-a IMAGE=REGION-docker.pkg.dev/PROJECT/REPO/cptlaw NAME=qwen-4b TYPE=v5litepod-64 \
#       DEVICES=64 CONFIG=configs/qwen.py WORKDIR=/shared/runs/qwen \
#       bash launch/gke/train.sh --size=4b --share=domain=0.3
#
# TYPE is a TPU type, or a GPU type such as h100-80gb-8 with ACCELERATOR=cuda13 in the image. WORKDIR is
# gs://BUCKET/FOLDER (docs/storage.md), or on a Filestore volume that `xpk storage attach` has mounted into the
# workloads; a mounted bucket shows no locks. Arguments go to launch.train. Follow it with `xpk workload list` and in
# Cloud Logging; XPK_ARGS takes more of xpk's own flags.
set -euo pipefail
: "${CLUSTER:?the cluster}" "${ZONE:?its zone}" "${IMAGE:?the image}" "${NAME:?a name for the workload}"
: "${TYPE:?the accelerator, such as v5litepod-64}" "${DEVICES:?how many there are of it}"
: "${CONFIG:?the study, such as configs/qwen.py}" "${WORKDIR:?a directory that all pods mount}"

platform=gpu
kind=--device-type
case $TYPE in v[0-9]* | tpu*) platform=tpu kind=--tpu-type ;; esac
quoted=$(printf '%q ' "--config=$CONFIG" "--workdir=$WORKDIR" "$@")
checks="--multihost --platform=$platform --devices=$DEVICES --workdir=$(printf '%q' "$WORKDIR")"
# exec: SIGTERM has to reach the training, not a shell around it.
read -ra more <<<"${XPK_ARGS:-}"
xpk workload create --cluster="$CLUSTER" --zone="$ZONE" --workload="$NAME" "$kind=$TYPE" --docker-image="$IMAGE" \
    --max-restarts=100 --restart-on-exit-codes=75 --termination-grace-period-seconds=300 ${more[@]+"${more[@]}"} \
    --command="python -m launch.checks $checks && exec python -m launch.train --multihost $quoted"
