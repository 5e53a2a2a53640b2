#!/usr/bin/env bash
# Installs this checkout on all hosts of a Cloud TPU slice, and mounts the file system that they share, if any.
#
#   gcloud compute tpus queued-resources create cpt --node-id=cpt --zone=us-west4-a \
#       --accelerator-type=v5litepod-64 --runtime-version=v2-alpha-tpuv5-lite --spot
#   TPU=cpt ZONE=us-west4-a NFS=10.0.0.2:/share bash launch/tpu/setup.sh
#
# NFS is a Filestore share; leave it out for a workdir in a bucket (gs://BUCKET/FOLDER, docs/storage.md). Run it again
# for a slice made anew.
set -euo pipefail
: "${TPU:?the name of the slice}" "${ZONE:?its zone}" "${NFS:=}"

git archive --prefix=cptlaw/ -o /tmp/cptlaw.tar HEAD
gcloud compute tpus tpu-vm scp /tmp/cptlaw.tar "$TPU:cptlaw.tar" --zone="$ZONE" --worker=all
# The image's Python may be older than 3.11, so uv brings one.
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="
set -e
if [ -n '$NFS' ]; then
  sudo apt-get install -qq -y nfs-common
  sudo mkdir -p /shared
  mountpoint -q /shared || sudo mount -o rw '$NFS' /shared
fi
tar xf cptlaw.tar
cd cptlaw
pip install -q --user uv
python3 -m uv venv -q --python 3.12 .venv
python3 -m uv pip install -q --python .venv -r requirements/lock-3.12.txt
python3 -m uv pip install -q --python .venv \"jax[tpu]==\$(.venv/bin/python -c 'import jax; print(jax.__version__)')\"
python3 -m uv pip install -q --python .venv --no-deps -e ."
