#!/usr/bin/env bash
# A run or a study by all hosts of a TPU pod slice. From the repository root, with gcloud logged in:
#
#   TPU=NAME ZONE=ZONE scripts/jobs/tpu_pod.sh scripts/attack.py \
#     --config=configs/ml100k_ncf.py --workdir=/mnt/shared/a
#
# All hosts must have mounted the folder of --workdir, from a file system with locks: Filestore, not
# Cloud Storage FUSE. What is committed is copied to the hosts; the first time the requirements are
# installed there. The same command continues a run that was stopped.
set -euo pipefail
archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
git archive --output="$archive" --format=tar HEAD
gcloud compute tpus tpu-vm scp "$archive" "$TPU:fedinv_jax.tar" --zone="$ZONE" --worker=all
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="
  set -e
  mkdir -p fedinv_jax && tar -xf fedinv_jax.tar -C fedinv_jax && cd fedinv_jax
  if [ ! -e .venv/.installed ]; then
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --clear --python=3.12 .venv
    python3 -m uv pip install --quiet --python=.venv -r requirements.txt 'jax[tpu]'
    touch .venv/.installed
  fi
  .venv/bin/python $(printf '%q ' "$@") --distributed"
