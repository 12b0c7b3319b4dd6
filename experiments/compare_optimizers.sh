#!/usr/bin/env bash
# bash experiments/compare_optimizers.sh
#
# A scripted study: the quickstart with four optimizers, each with three learning rates, over the
# same 8 seeds; then the best learning rate of each against Adam's, seed by seed.
# Shows: whether the choice of the optimizer matters more than that of its learning rate.
# Last result: muon 0.9761, adamw 0.9651, adam 0.9641, sgd 0.9623 at the best rate of each, 8 seeds;
# muon is better than adam (0.0120, 95 % interval 0.0090 to 0.0150), of the others neither is shown;
# of adam's rates 0.001 gives 0.9318 and 0.01 0.9641 (two cores of an AMD EPYC, 2026-11-27; a quiet
# machine takes about 9 min).
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
    # Exit code 6 says that some members have diverged, which is a result like any other.
    rowrnn sweep experiments/quickstart.toml --seeds 0:8 --train.epochs 10 \
        --data.validation-size 500 --data.rotation 0 --data.scale 0 --data.shear 0 \
        --model.projection-size 128 --model.hidden-size 128 --train.label-smoothing 0 \
        --optimizer.name "$name" --optimizer.warmup-steps 0 \
        --grid "optimizer.learning_rate=$rates" "${target[@]}" || [ $? -eq 6 ]
done

# The learning rate with the highest mean accuracy on the validation images, not on the test ones.
best() {
    python - "$1/results.json" <<'EOF'
import json, statistics, sys
by_rate = {}
for member in json.load(open(sys.argv[1]))["members"]:
    if member["validation_accuracy"] is not None:
        rate = member["optimizer.learning_rate"]
        by_rate.setdefault(rate, []).append(member["validation_accuracy"])
print(max(by_rate, key=lambda rate: statistics.mean(by_rate[rate])))
EOF
}
for name in adam adamw sgd muon; do
    rm -rf "$out/$name-best"
    cp -r "$out/$name" "$out/$name-best"
    # All its members are in the ledger: nothing is trained.
    rate=$(best "$out/$name")
    rowrnn sweep --resume "$out/$name-best" --grid "optimizer.learning_rate=$rate" || [ $? -eq 6 ]
done
for name in adamw sgd muon; do
    echo "== $name against adam"
    # Exit code 1 says that it is worse, which is a result like any other.
    rowrnn compare "$out/adam-best" "$out/$name-best" || [ $? -eq 1 ]
done
