#!/usr/bin/env bash
# A run or a study divided among the tasks of a SLURM array. From the repository root, in an
# environment with the requirements; --workdir is a folder that all nodes share:
#
#   run=(scripts/study.py --config=configs/study_interval.py --workdir=runs/interval)
#   job=$(sbatch --parsable --array=0-7 scripts/jobs/slurm_array.sh "${run[@]}")
#
# The task that ends last writes the report. A second job joins the rows into one file, if all
# tasks succeeded; if not, submit the same array again, which goes on:
#
#   sbatch --dependency="afterok:$job" scripts/jobs/slurm_array.sh "${run[@]}" --merge
#
# Options of sbatch (--partition, --time, --cpus-per-task, --gpus-per-node=1) go before the file.
#SBATCH --job-name=fedinv
#SBATCH --kill-on-invalid-dep=yes
set -euo pipefail
python "$@"
