#!/bin/bash
# Ranks on Slurm: every task is one, and mpirun starts them through Slurm, which needs a Horovod with MPI (README.md).
#
#   sbatch --ntasks=4 configs/cluster/slurm_ranks.sh --strategy=ring_allreduce \
#     --flagfile=configs/transformer_base.flags --data=/shared/data --run_directory=/shared/runs/first
#
# Activate the environment before sbatch. Data, run directory and environment must be where every node sees them.
#SBATCH --job-name=tfnmt
#SBATCH --cpus-per-task=8
set -euo pipefail

exec mpirun --bind-to none --tag-output -x PATH tfnmt-train --threads="$SLURM_CPUS_PER_TASK" "$@"
