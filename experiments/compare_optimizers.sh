#!/usr/bin/env bash
# bash experiments/compare_optimizers.sh
#
# A scripted study: the quickstart with four optimizers, each with three learning rates, over the
# same 8 seeds; then the best learning rate of each against Adam's, seed by seed.
# Shows: whether the choice of the optimizer matters more than that of its learning rate.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-runs/optimizers}
for name in adam adamw sgd muon; do
    case $name in
        sgd) rates=1e-1,3e-1,1 ;;
        muon) rates=3e-3,1e-2,3e-2 ;;
        *) rates=1e-3,3e-3,1e-2 ;;
    esac
    # What an earlier call has done already is not done again.
    if [ -d "$out/$name" ]; then target=(--resume "$out/$name"); else target=(--run-dir "$out/$name"); fi
    rowrnn sweep experiments/quickstart.toml --seeds 0:8 --train.epochs 10 \
        --data.validation-size 500 --optimizer.name "$name" \
        --grid "optimizer.learning_rate=$rates" "${target[@]}"
done
for name in adamw sgd muon; do
    echo "== $name against adam"
    # Exit code 1 says that it is worse, which is a result like any other.
    rowrnn compare "$out/adam" "$out/$name" || [ $? -eq 1 ]
done
