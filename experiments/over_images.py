"""What the published sweeps say of another seed on other images.

    python experiments/over_images.py

Shows: beside each mean over seeds its interval for other images too. A sweep run today has it in
`results.json` (`interval_over_images`); those here were run before, and kept the parts of their
variance, from which it follows but for a normal quantile in place of Student's. Writes
`experiments/results/over_images.md`.
Last result: see the table.
"""

import json
import math
from pathlib import Path
from statistics import NormalDist

from rowrnn.lab import stats

RESULTS = Path(__file__).parent / "results"
SWEEPS = ("best192", "best", "fashion-tuned", "fashion", "lstm128", "notebook")
IMAGES = 10_000

HEAD = """\
# Other seeds, other images

`python experiments/over_images.py`: mean test accuracy of each sweep of which the figures are here,
with its 95 % interval for another seed on these 10,000 images (Student's) and for another seed on
other images of that kind (`rowrnn/lab/over_images.py`, by quantiles of the normal distribution in
the part of the images), and which share of the variance over seeds a test part of this size would
show alone, with its chi-squared interval, if accuracies are normal.

| sweep | seeds | mean | another seed, these images | another seed, other images | share |
|---|---|---|---|---|---|
"""


def main():
    """Writes the table."""
    table = HEAD
    for name in SWEEPS:
        document = json.loads((RESULTS / f"{name}-seeds.json").read_text())
        accuracies = [member["test_accuracy"] for member in document["members"]]
        (group,) = document["summary"]["groups"]
        seeds = stats.interval_of_mean(accuracies, resolution=1 / IMAGES)
        both = over_images(accuracies, seeds, group["variance"])
        share, low, high = shares(len(accuracies), group["variance"])
        table += (
            f"| `{name}` | {len(accuracies)} | {sum(accuracies) / len(accuracies):.4f} "
            f"| {seeds[0]:.4f} to {seeds[1]:.4f} | {both[0]:.4f} to {both[1]:.4f} "
            f"| {share:.0%} ({low:.0%} to {high:.0%}) |\n"
        )
    (RESULTS / "over_images.md").write_text(table, encoding="utf-8")
    print(table)


def over_images(accuracies, seeds, parts):
    """The interval for another seed on other images."""
    count, mean = len(accuracies), sum(accuracies) / len(accuracies)
    # The mean squares of seeds and of what is left; all answers have the variance mean (1 - mean).
    of_seeds, left = parts["total"] * IMAGES, parts["finite_test"] * IMAGES
    answers = count * IMAGES * mean * (1 - mean)
    rest = (count - 1) * (of_seeds + (IMAGES - 1) * left)
    variance = ((answers - rest) / (IMAGES - 1) - left) / (count * IMAGES)
    # Wilson's, with as many images as give this variance.
    weight = NormalDist().inv_cdf(0.975) ** 2 * variance / (mean * (1 - mean))
    centre = (mean + weight / 2) / (1 + weight)
    half = math.sqrt(mean * (1 - mean) * weight + weight**2 / 4) / (1 + weight)
    return (
        mean - math.hypot(mean - seeds[0], mean - centre + half),
        mean + math.hypot(seeds[1] - mean, centre + half - mean),
    )


def shares(count, parts):
    """The finite test part's share of the variance over seeds, and its interval."""
    from scipy.stats import chi2

    share = parts["finite_test"] / parts["total"]
    return (share, *(share * chi2.ppf([0.025, 0.975], count - 1) / (count - 1)))


if __name__ == "__main__":
    main()
