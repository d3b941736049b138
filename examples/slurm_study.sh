#!/bin/sh
# Train a study as a SLURM array: one run a job. Type: sh slurm_study.sh help.toml
#
# The study, its data and its folder are on storage that all nodes share. A job that is stopped
# saves its run: submit again to resume it. Other schedulers work in the same way: they need a
# number from 1 to the number of lines of `mtl study run STUDY --list`.
set -eu

study=$1
runs=$(mtl study run "$study" --list | wc -l)
if [ "$runs" -eq 0 ]; then
    mtl study table "$study"
    exit
fi

sbatch <<JOB
#!/bin/sh
#SBATCH --job-name=study
#SBATCH --array=1-$runs
#SBATCH --cpus-per-task=4
#SBATCH --gpus=1
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
export OMP_NUM_THREADS=4
exec mtl study run "$study" --only \$SLURM_ARRAY_TASK_ID
JOB
echo "$runs runs submitted. When they have ended, type the same command again:"
echo "it submits what is left, or prints the tables."
