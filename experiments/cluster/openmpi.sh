#!/usr/bin/env bash
# bash experiments/cluster/openmpi.sh HOSTFILE PROCESSES RUN_DIR CONFIG.toml SEEDS [FLAG ...]
# bash experiments/cluster/openmpi.sh hosts 8 runs/seeds experiments/lstm128.toml 0:1000
#
# A sweep over hosts that Open MPI reaches, one process for each slot of HOSTFILE, such as
# "node1 slots=4" for a host with four GPUs. The same command goes on with it, after exit code 75
# too. MPI only starts the processes; what they tell each other goes through jax.
# Tried: with a stand-in for mpirun that sets Open MPI's variables; bash -n; shellcheck.
# Not tried: with Open MPI itself.
#
# Everything is told by flags. Without them jax looks for OMPI_MCA_orte_hnp_uri, which Open MPI 5 no
# longer sets, and takes the host of mpirun for that of process 0.
#
# To stop: kill -TERM "$(cat RUN_DIR.pid)" on the first host. All save and leave with 75. Do not
# signal mpirun, by Ctrl-C either: it gives processes a second or so before it kills them. It also
# ends all others when one leaves with any other code than 0, and then says itself which was lost.
set -euo pipefail

usage="HOSTFILE PROCESSES RUN_DIR CONFIG.toml SEEDS [FLAG ...]"
hostfile=${1:?$usage} processes=${2:?$usage} run=${3:?$usage} config=${4:?$usage} seeds=${5:?$usage}
shift 5

# Process 0 is on the first host.
first=$(awk '!/^[ \t]*(#|$)/ { print $1; exit }' "$hostfile")
coordinator=${first:?no host in $hostfile}:${PORT:-12345}

if [ -e "$run/sweep.json" ]; then
    target=(--resume "$run")
else
    target=("$config" --run-dir "$run")
fi
mkdir -p "$(dirname "$run")"

# Each process has the GPU of its place on its host; jax would give it all, or ask the cluster.
# For one process to a host that takes all GPUs, leave the export out.
# Bound to a core or two, as by default, a process without GPU would have no more than that.
code=0
# shellcheck disable=SC2016
mpirun -n "$processes" --hostfile "$hostfile" --bind-to none \
    -x PATH ${TFDS_DATA_DIR:+-x TFDS_DATA_DIR} \
    bash -c '
        [ "$OMPI_COMM_WORLD_RANK" != 0 ] || echo $$ > "$0.pid"
        export JAX_LOCAL_DEVICE_IDS=$OMPI_COMM_WORLD_LOCAL_RANK
        exec rowrnn sweep "$@" --parallel.process "$OMPI_COMM_WORLD_RANK"
    ' "$run" "${target[@]}" --seeds "$seeds" "$@" \
    --parallel.coordinator "$coordinator" --parallel.processes "$processes" || code=$?
rm -f "$run.pid"
if [ "$code" -ne 0 ]; then
    echo "exit code $code; the same command goes on with what was saved" >&2
fi
exit "$code"
