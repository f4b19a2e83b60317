"""Trains on Slurm by submitit (pip install submitit); what is behind the script's name goes to tfnmt-train.

python configs/pipelines/submit.py --flagfile=configs/transformer_base.flags --data=data --run_directory=runs/first

Submitted again with the same flags, training goes on where it was. Without Slurm, the job runs on this machine. Several
nodes are for configs/cluster/slurm.sh.
"""

import sys

import submitit

executor = submitit.AutoExecutor(folder="runs/submitit/%j")
executor.update_parameters(name="tfnmt", timeout_min=24 * 60, nodes=1, tasks_per_node=1, cpus_per_task=8)
job = executor.submit(submitit.helpers.CommandFunction(["tfnmt-train", *sys.argv[1:]]))
print(f"Job {job.job_id}: {job.paths.stderr}")
job.result()  # waits for the end, and fails as the job does
