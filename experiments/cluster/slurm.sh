#!/usr/bin/env bash
#SBATCH --job-name=rowrnn-sweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --dependency=singleton
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#
# sbatch -J NAME experiments/cluster/slurm.sh CONFIG.toml SEEDS [FLAG ...]
# sbatch -J seeds experiments/cluster/slurm.sh experiments/lstm128.toml 0:1000
#
# A sweep over all GPUs of all nodes, kept in runs/NAME, that outlives the time limit: it is saved
# before the limit, put back into the queue and goes on. Submit it from the checkout, which must lie
# on a file system that all nodes see; data sets are prepared before, on the login node:
# rowrnn data prepare mnist.
# Tried: with stand-ins for srun and scontrol (arguments, first start and resumption, exit codes);
# bash -n; shellcheck. Not tried: on a Slurm cluster.
#
# One task for each GPU, as jax counts on: under Slurm it gives a process the GPU whose number is
# its SLURM_LOCALID, so that each must see all GPUs of its node. With --gpus-per-task=1 each sees
# one, which is number 0 to all of them, and task 1 asks for number 1 in vain; with one task for
# a node, jax would leave all GPUs but the first alone. (Where --gpus-per-task must be, export
# JAX_LOCAL_DEVICE_IDS=0.) Without GPUs, drop --gpus-per-node: a task is then one CPU device, or as
# many as --parallel.devices says.
#
# --signal has no "B:", so that Slurm signals the tasks and not this script, up to a minute earlier
# than said. --dependency=singleton lets a second job of this NAME wait for the first.
# scancel JOB stops for good; what is not saved within KillWait (30 s) is lost.
# scancel --signal=TERM JOB saves first and puts the job back into the queue: cancel it there.
set -euo pipefail

config=${1:?CONFIG.toml SEEDS [FLAG ...]}
seeds=${2:?CONFIG.toml SEEDS [FLAG ...]}
shift 2

environment=${VIRTUAL_ENV:-.venv}
# shellcheck disable=SC1091
. "$environment/bin/activate"

# Decided here, once, and not by each task: they must all do the same.
run=runs/$SLURM_JOB_NAME
if [ -e "$run/sweep.json" ]; then
    target=(--resume "$run")
else
    target=("$config" --run-dir "$run")
fi

# --kill-on-bad-exit=0: where one has stopped, the others may still save; where one is lost, jax ends
# the others within about 35 s (parallel.heartbeat_seconds is 30); --wait ends one that is left.
# --cpus-per-task: since Slurm 22.05 srun does not take it over from sbatch.
code=0
srun --kill-on-bad-exit=0 --wait=120 --label \
    ${SLURM_GPUS_PER_NODE:+--gpu-bind=none} \
    ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
    rowrnn sweep "${target[@]}" --seeds "$seeds" "$@" || code=$?

case $code in
    75)
        echo "saved; $SLURM_JOB_ID goes back into the queue" >&2
        scontrol requeue "$SLURM_JOB_ID" ||
            echo "it cannot be requeued here: submit it again, under the same name" >&2
        ;;
    # One that a signal has killed, as for want of memory, and those that jax has ended then (134).
    7 | 1[3-9]? | 253)
        echo "a process was lost (exit code $code): submit it again, under the same name" >&2
        ;;
esac
exit "$code"
