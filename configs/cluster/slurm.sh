#!/bin/bash
# A cluster on Slurm: the first task is the chief, the next two are parameter servers, the others are workers.
#
#   sbatch --ntasks=7 configs/cluster/slurm.sh --strategy=bmuf --flagfile=configs/transformer_base.flags \
#     --data=/shared/data --run_directory=/shared/runs/first
#
# Activate the environment before sbatch. Data, run directory and environment must be where every node sees them. TensorFlow's servers authenticate nobody: trust the network.
#SBATCH --job-name=tfnmt
#SBATCH --cpus-per-task=8
set -euo pipefail

readonly PARAMETER_SERVERS=2
# Jobs that share a node must not share ports: each has 64 of its own, below those that Linux gives away by itself.
readonly PORT=$((10000 + SLURM_JOB_ID * 64 % 20000))

# The address of each task: its node and a port of its own there.
mapfile -t nodes < <(srun --ntasks="$SLURM_NTASKS" bash -c 'echo "$SLURM_PROCID $(hostname)"' | sort -n | cut -d' ' -f2)
addresses=()
for task in "${!nodes[@]}"; do
  addresses+=("${nodes[$task]}:$((PORT + task))")
done

join() { local IFS=,; printf '%s' "$*"; }
chief=${addresses[0]}
servers=$(join "${addresses[@]:1:PARAMETER_SERVERS}")
workers=$(join "${addresses[@]:1+PARAMETER_SERVERS}")

# A task that ends badly ends the job. Submitted again, it goes on from the newest checkpoint. Lines begin with the task.
srun --label --kill-on-bad-exit=1 bash -c '
  if ((SLURM_PROCID == 0)); then job=chief index=0
  elif ((SLURM_PROCID <= '"$PARAMETER_SERVERS"')); then job=ps index=$((SLURM_PROCID - 1))
  else job=worker index=$((SLURM_PROCID - 1 - '"$PARAMETER_SERVERS"')); fi
  exec tfnmt-train --chief_hosts='"$chief"' --ps_hosts='"$servers"' --worker_hosts='"$workers"' \
    --job_name=$job --task_index=$index "$@"' tfnmt "$@"
