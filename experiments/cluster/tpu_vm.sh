#!/usr/bin/env bash
# bash experiments/cluster/tpu_vm.sh NAME ZONE start RUN_DIR CONFIG.toml SEEDS [FLAG ...]
# bash experiments/cluster/tpu_vm.sh NAME ZONE stop
#
# A sweep over all hosts of a Cloud TPU slice that exists already: the same command on each, which
# find each other by what the slice tells jax. Nothing is created or deleted. `start` returns when
# the sweep has ended, with its exit code; called again, it goes on with it. `stop` lets all save
# and leave with 75.
# Tried: with a stand-in for gcloud that runs the commands here; bash -n; shellcheck.
# Not tried: on a TPU.
#
# Before: ssh-add ~/.ssh/google_compute_engine, and on every worker, at the same path CHECKOUT (the
# variable, default ~/rowrnn), a checkout with a virtual environment, Python 3.11 or newer
# (images with Ubuntu 22.04 bring 3.10): pip install -e '.[tpu]'.
# RUN_DIR and TFDS_DATA_DIR must be absolute paths on a file system that all workers have mounted:
# Filestore or another NFS. A bucket mounted by gcsfuse is not one to write runs to: its locks hold
# on one host alone, so that nothing keeps a second writer away, and renaming a directory is not
# atomic, so that a kill can leave half a checkpoint. To read data sets from it will do.
set -euo pipefail

usage="NAME ZONE start RUN_DIR CONFIG.toml SEEDS [FLAG ...], or NAME ZONE stop"
name=${1:?$usage} zone=${2:?$usage} verb=${3:?$usage}
shift 3

on() { # WORKERS COMMAND
    gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker="$1" --command="$2"
}

case $verb in
    stop)
        # Told by one, all stop after the same step. The number is that of a process that holds the
        # lock, not of one that has gone.
        # shellcheck disable=SC2016
        on 0 'if flock --nonblock ~/.rowrnn.lock true; then echo "nothing runs" >&2; exit 1; fi
            kill -TERM "$(cat ~/.rowrnn.pid)"'
        exit
        ;;
    start) ;;
    *)
        echo "$usage" >&2
        exit 2
        ;;
esac
run=${1:?$usage} config=${2:?$usage} seeds=${3:?$usage}
shift 3

# One worker decides for all of them.
found=$(on 0 "if [ -e $(printf %q "$run/sweep.json") ]; then echo resume; else echo new; fi")
case ${found##*$'\n'} in
    resume) target=(--resume "$run") ;;
    new) target=("$config" --run-dir "$run") ;;
    *)
        echo "worker 0 answered: $found" >&2
        exit 1
        ;;
esac

# gcloud runs a command again where the connection breaks. The sweep outlives that, since it writes
# to a file; and the lock, which it inherits, keeps a second one away.
command="cd ${CHECKOUT:-~/rowrnn}; . .venv/bin/activate
exec 9>> ~/.rowrnn.lock
flock --nonblock 9 || { echo \"\$(hostname): rowrnn runs here already\" >&2; exit 1; }
echo \$\$ > ~/.rowrnn.pid
${TFDS_DATA_DIR:+export TFDS_DATA_DIR=$(printf %q "$TFDS_DATA_DIR")}
mkdir -p $(printf %q "$(dirname "$run")")
exec rowrnn sweep $(printf '%q ' "${target[@]}" --seeds "$seeds" "$@")\\
    < /dev/null >> $(printf %q "$run").\$(hostname).log 2>&1"
echo "output: $run.HOSTNAME.log on the workers" >&2
code=0
on all "set -eu; $command" || code=$?
if [ "$code" -ne 0 ]; then
    echo "exit code $code; if no worker still runs, the same command goes on with it" >&2
fi
exit "$code"
