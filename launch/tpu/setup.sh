#!/usr/bin/env bash
# Installs this checkout on all hosts of a Cloud TPU slice, and mounts the file system that they share, if any.
#
#   gcloud compute tpus queued-resources create cpt --node-id=cpt --zone=us-west4-a \
#       --accelerator-type=v5litepod-64 --runtime-version=v2-alpha-tpuv5-lite --spot
#   TPU=cpt ZONE=us-west4-a NFS=10.0.0.2:/share bash launch/tpu/setup.sh
#
# NFS is a Filestore share; leave it out for a workdir in a bucket (gs://BUCKET/FOLDER, docs/storage.md). Run it again
# for a slice made anew, and after a change here.
#
# What is sent is the checkout as it lies here: also files that are changed or new and not committed, such as a config of
# your own, which are listed. What git ignores (runs/, .venv/) stays.
set -euo pipefail
: "${TPU:?the name of the slice}" "${ZONE:?its zone}" "${NFS:=}"

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [ -n "$(git status --porcelain)" ]; then
    echo "sent as they are here, not as they were committed:" >&2
    git status --short >&2
fi
tar=$(mktemp)
trap 'rm -f "$tar"' EXIT
# A file that was deleted and not committed is still listed.
git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do if [ -e "$file" ]; then printf '%s\0' "$file"; fi; done |
    tar cf "$tar" --null -T -
gcloud compute tpus tpu-vm scp "$tar" "$TPU:cptlaw.tar" --zone="$ZONE" --worker=all
# The image's Python may be older than 3.11, so uv brings one.
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="
set -e
if [ -n '$NFS' ]; then
  sudo apt-get install -qq -y nfs-common
  sudo mkdir -p /shared
  mountpoint -q /shared || sudo mount -o rw '$NFS' /shared
fi
mkdir -p cptlaw
tar xf cptlaw.tar -C cptlaw
cd cptlaw
pip install -q --user uv
python3 -m uv venv -q --python 3.12 .venv
python3 -m uv pip install -q --python .venv -r requirements/lock-3.12.txt
python3 -m uv pip install -q --python .venv \"jax[tpu]==\$(.venv/bin/python -c 'import jax; print(jax.__version__)')\"
python3 -m uv pip install -q --python .venv --no-deps -e ."
