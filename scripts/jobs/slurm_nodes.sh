#!/usr/bin/env bash
# A run or a study by one process on each node of a SLURM job. From the repository root, in an
# environment with the requirements; --workdir is a folder that all nodes share:
#
#   sbatch --nodes=4 scripts/jobs/slurm_nodes.sh scripts/attack.py \
#     --config=configs/ml100k_ncf.py --workdir=runs/a
#
# Options of sbatch (--partition, --time, --cpus-per-task, --gpus-per-node) go before the file. The
# same command continues a run that was stopped.
#SBATCH --job-name=fedinv
#SBATCH --ntasks-per-node=1
set -euo pipefail
# JAX takes one GPU for each task of a node; a single task is to have all of them.
if [ "${SLURM_NTASKS_PER_NODE:-1}" = 1 ] && [ "${SLURM_GPUS_ON_NODE:-0}" -gt 1 ]; then
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
  export JAX_LOCAL_DEVICE_IDS
fi
# srun does not take --cpus-per-task from sbatch.
srun ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} --kill-on-bad-exit \
  python "$@" --distributed
