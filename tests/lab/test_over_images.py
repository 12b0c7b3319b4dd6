"""Seeds and images both as samples: against loops, known cases and simulated worlds."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from data_files import TEST_DATA
from scipy.special import expit
from scipy.stats import t, ttest_ind

import rowrnn
from rowrnn import config
from rowrnn.lab import stats
from rowrnn.lab.over_images import (
    grouped,
    grouped_difference,
    interval_of_difference,
    interval_over_images,
)

ROOT = Path(__file__).parents[2]


def world(rng, seeds, images, *, ease, skill, easy, writers=0, hand=0.0):
    """Answers [S, N] and writers [N] of a world in which seeds, images and writers differ."""
    of = np.sort(rng.choice(writers, images)) if writers else np.arange(images)
    hands = rng.normal(0, hand, max(writers, 1))[of if writers else np.zeros(images, int)]
    logits = ease + rng.normal(0, skill, (seeds, 1)) + rng.normal(0, easy, images) + hands
    return rng.random((seeds, images)) < expit(logits), of


def accuracy_of(ease, skill, easy, hand=0.0):
    """The accuracy over all seeds, images and writers, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    spread = math.sqrt(skill**2 + easy**2 + hand**2)
    return float(weights @ expit(ease + spread * nodes) / weights.sum())


# Like the notebook's networks and like good ones, on few images and on many.
WORLDS = [
    (1, 1_000, {"ease": 4.0, "skill": 0.0, "easy": 2.5, "writers": 60, "hand": 1.5}),
    (2, 500, {"ease": 4.0, "skill": 0.4, "easy": 3.0}),
    (4, 1_000, {"ease": 7.0, "skill": 0.3, "easy": 2.5}),
    (8, 500, {"ease": 4.0, "skill": 0.1, "easy": 3.0}),
    (8, 1_000, {"ease": 4.0, "skill": 0.2, "easy": 2.0, "writers": 60, "hand": 1.5}),
    (32, 1_000, {"ease": 4.0, "skill": 0.1, "easy": 3.0}),
]


def covered(seeds, images, settings, rounds):
    """Shares of worlds whose accuracy lies in the interval, and in that of the seeds alone."""
    rng = np.random.default_rng(20)
    aim = accuracy_of(*(settings.get(name, 0.0) for name in ("ease", "skill", "easy", "hand")))
    both, alone = 0, 0
    for _ in range(rounds):
        answers, of = world(rng, seeds, images, **settings)
        low, high = interval_over_images(answers, of if "writers" in settings else None)
        both += low <= aim <= high
        low, high = (
            stats.interval_of_mean(answers.mean(axis=1))
            if seeds > 1
            else stats.wilson_interval(int(answers.sum()), images)
        )
        alone += low <= aim <= high
    return both / rounds, alone / rounds


@pytest.mark.parametrize(("seeds", "images", "settings"), WORLDS)
def test_another_seed_on_other_images_is_covered(seeds, images, settings):
    both, alone = covered(seeds, images, settings, 150)
    # Three standard errors below 95 %.
    assert both >= 0.895
    assert alone < both
    if seeds >= 8 or seeds == 1:
        assert alone < 0.9


@pytest.mark.soak
@pytest.mark.parametrize(
    ("seeds", "images", "settings"),
    [*WORLDS, (8, 10_000, {"ease": 9.0, "skill": 0.2, "easy": 2.8}),
     (64, 10_000, {"ease": 4.0, "skill": 0.2, "easy": 2.0, "writers": 300, "hand": 1.5}),
     (1, 1_000, {"ease": 4.0, "skill": 0.0, "easy": 2.5, "writers": 20, "hand": 1.5})],
)  # fmt: skip
def test_the_intervals_hold_their_level(seeds, images, settings):
    both, alone = covered(seeds, images, settings, 4_000 if images < 10_000 else 1_000)
    print(f"{seeds} seeds, {images} images, {settings}: {both:.1%}, without images {alone:.1%}")
    assert both >= (0.94 if settings.get("writers", 60) >= 60 else 0.93)


@pytest.mark.parametrize("writers", [0, 15])
def test_variance_is_that_of_two_ways_in_loops(writers):
    answers, of = world(
        np.random.default_rng(1), 5, 120, ease=2, skill=1, easy=2, writers=writers, hand=1
    )
    seeds, images = answers.shape
    mean, of_seed, of_image = answers.mean(), answers.mean(axis=1), answers.mean(axis=0)
    kinds = sorted(set(of.tolist()))
    of_seeds = sum((share - mean) ** 2 for share in of_seed) / (seeds - 1) / seeds
    of_images = left = 0.0
    for kind in kinds:
        members = [i for i in range(images) if of[i] == kind]
        of_images += sum(of_image[i] - mean for i in members) ** 2
        for s in range(seeds):
            rest = sum(answers[s, i] - of_seed[s] - of_image[i] + mean for i in members)
            left += rest**2 / seeds / (seeds - 1)
    scale = len(kinds) / (len(kinds) - 1) / images**2
    found = grouped(answers, of)
    assert found.standard_error_by_group**2 == pytest.approx(of_seeds + scale * (of_images - left))
    # Where every image is a group of its own, these are the mean squares of the textbooks.
    if not writers:
        rest = answers - of_seed[:, None] - of_image + mean
        squares = (
            images * np.var(of_seed, ddof=1),
            seeds * np.var(of_image, ddof=1),
            (rest**2).sum() / (seeds - 1) / (images - 1),
        )
        expected = (squares[0] + squares[1] - squares[2]) / answers.size
        assert found.standard_error_by_group**2 == pytest.approx(expected)
        assert found.design_effect == pytest.approx(1)


def test_the_variance_is_that_of_sweeps_drawn_again():
    # A finite world from which seeds and writers are drawn with their images: the estimates must
    # average to the variance of the mean over such draws.
    rng = np.random.default_rng(2)
    people, of = world(rng, 300, 6_000, ease=2, skill=0.6, easy=1, writers=600, hand=1)
    places = [np.flatnonzero(of == kind) for kind in range(600)]
    means, estimates = [], []
    for _ in range(400):
        drawn = [places[kind] for kind in rng.integers(0, 600, 30)]
        columns = np.concatenate(drawn)
        names = np.repeat(np.arange(30), list(map(len, drawn)))
        answers = people[np.ix_(rng.integers(0, 300, 4), columns)]
        means.append(answers.mean())
        estimates.append(grouped(answers, names).standard_error_by_group ** 2)
    # The variance of 400 means is known to 7 %.
    assert np.mean(estimates) == pytest.approx(np.var(means, ddof=1), rel=0.2)


def test_images_of_a_group_that_are_all_alike_count_once():
    rng = np.random.default_rng(3)
    of_group = rng.random(400) < 0.8
    found = grouped(np.repeat(of_group, 5)[None], np.repeat(np.arange(400), 5))
    assert found.design_effect == pytest.approx(5 * 400 / 399 * 1_999 / 2_000)
    assert found.effective_images == pytest.approx(2_000 / found.design_effect)
    low, high = stats.wilson_interval(int(of_group.sum()), 400)
    assert found.interval_by_group == pytest.approx((low, high), abs=1e-3)
    assert found.names == list(range(400))
    assert found.counts == [5] * 400
    assert found.accuracy == of_group.tolist()


def test_groups_that_say_nothing_change_nothing():
    answers, _ = world(np.random.default_rng(4), 1, 10_000, ease=3, skill=0, easy=1)
    found = grouped(answers, np.random.default_rng(5).integers(0, 500, 10_000))
    assert found.design_effect == pytest.approx(1, abs=0.15)
    assert found.interval_by_group == pytest.approx(
        stats.wilson_interval(int(answers.sum()), 10_000), abs=1e-3
    )


def test_one_seed_has_wilsons_interval():
    answers = np.arange(1_000) % 40 > 0
    assert interval_over_images([answers]) == stats.wilson_interval(975, 1_000)


def test_seeds_that_are_all_alike_leave_the_images():
    answers = np.tile(np.arange(1_000) % 40 > 0, (4, 1))
    low, high = interval_over_images(answers)
    assert (low, high) == pytest.approx(stats.wilson_interval(975, 1_000), abs=1e-3)


@pytest.mark.parametrize("right", [0, 3, 4])
def test_intervals_stay_within_0_and_1(right):
    # The accuracies of two seeds that are far apart reach far beyond.
    answers = np.zeros((2, 8), bool)
    answers[0, :right] = answers[1, : 2 * right] = True
    low, high = interval_over_images(answers)
    assert 0 <= low <= answers.mean() <= high <= 1
    everything = grouped(np.ones((1, 8), bool), np.arange(8) // 2)
    assert everything.interval_by_group[0] < 0.6  # Four groups, of which all are right.
    assert everything.interval_by_group[1] == 1
    assert everything.design_effect is everything.effective_images is None


def test_what_seeds_and_images_share_cancels_in_a_difference():
    rng = np.random.default_rng(6)
    a, of = world(rng, 6, 2_000, ease=3, skill=0, easy=3, writers=40, hand=2)
    # The second sweep gets a few more images right, and is otherwise the first.
    b = a | (rng.random(a.shape) < 0.1)
    apart = b.mean(axis=1) - a.mean(axis=1)
    over_seeds = stats.interval_of_mean(apart)
    low, high = interval_of_difference(a, b, over_seeds, paired=True, groups=of)
    assert low < over_seeds[0] < apart.mean() < over_seeds[1] < high
    wide = interval_of_difference(a, b, over_seeds, paired=False, groups=of)
    alone = interval_over_images(a, of)
    assert high - low < 0.5 * (alone[1] - alone[0])
    assert wide[1] - wide[0] < 0.5 * (alone[1] - alone[0])
    # Of single seeds the difference of each image is all there is.
    one, other = a[:1], b[:1]
    steps = other[0].astype(float) - one[0]
    error = steps.std(ddof=1) / math.sqrt(2_000)
    found = interval_of_difference(one, other, (steps.mean(),) * 2, paired=True)
    assert (found[1] - found[0]) / 2 == pytest.approx(t.ppf(0.975, 1_999) * error, rel=0.05)
    by_group = grouped_difference(one, other, (steps.mean(),) * 2, paired=True, groups=of)
    assert by_group.accuracy == pytest.approx([steps[of == kind].mean() for kind in by_group.names])
    assert by_group.design_effect == pytest.approx(
        (by_group.standard_error_by_group / error) ** 2, rel=1e-3
    )


@pytest.mark.parametrize("paired", [True, False])
def test_differences_on_other_images_are_covered(paired):
    rng, aim, found, alone = np.random.default_rng(10), 0.0, 0, 0
    for _ in range(150):
        # Two sweeps that are equally good, asked the same images, which are harder for one of them.
        hard = rng.normal(0, 3, 400)
        sides = [rng.random((5, 400)) < expit(4 + hard + rng.normal(0, 1.5, 400)) for _ in range(2)]
        means = [side.mean(axis=1) for side in sides]
        if paired:
            seeds = stats.interval_of_mean(means[1] - means[0])
        else:
            seeds = tuple(ttest_ind(*means[::-1], equal_var=False).confidence_interval())
        low, high = interval_of_difference(*sides, seeds, paired=paired)
        found += low <= aim <= high
        alone += seeds[0] <= aim <= seeds[1]
    assert found / 150 >= 0.895
    assert alone / 150 < 0.8


def share_covered(seeds, images, skill, rounds):
    """How often the interval of the finite test part's share of the variance has the true one."""
    rng, ease = np.random.default_rng(8), np.random.default_rng(9).normal(3, 2, images)
    many = expit(ease + rng.normal(0, skill, (2_000, 1)))
    total = many.mean(axis=1).var() + (many * (1 - many)).mean() / images
    answer = many.mean(axis=0)
    of_answers = (answer * (1 - answer)).mean() / images
    aim = (images * of_answers - total) / (images - 1) / total
    found = 0
    for _ in range(rounds):
        answers = rng.random((seeds, images)) < expit(ease + rng.normal(0, skill, (seeds, 1)))
        interval = stats.variance_parts(answers).finite_share_interval
        # Of seeds that are all equally good it is not known.
        found += interval is not None and interval[0] <= aim <= interval[1]
    return found / rounds


@pytest.mark.parametrize(("seeds", "skill"), [(4, 0.0), (8, 0.05), (16, 0.2)])
def test_the_share_of_the_test_part_is_covered(seeds, skill):
    # Three standard errors of 200 sweeps on either side of 95 %.
    assert 0.9 <= share_covered(seeds, 500, skill, 200) <= 0.995


@pytest.mark.soak
@pytest.mark.parametrize("seeds", [3, 4, 8, 16, 64])
@pytest.mark.parametrize("skill", [0.0, 0.05, 0.2])
def test_the_interval_of_the_share_holds_its_level(seeds, skill):
    found = share_covered(seeds, 1_000, skill, 4_000)
    print(f"{seeds} seeds, skill {skill}: {found:.1%}")
    assert found == pytest.approx(0.95, abs=0.015)


@pytest.mark.slow
def test_writers_widen_the_interval_of_the_notebooks_network(tmp_path):
    writers = TEST_DATA / "qmnist" / "qmnist-test-labels-idx2-int.gz"
    for path in (writers, TEST_DATA / "mnist"):
        if not path.exists():
            pytest.skip(f"{path} is not there")
    notebook = config.load(ROOT / "experiments" / "notebook_2015.toml")
    values = {"data.dataset": "idx", "data.dir": str(TEST_DATA / "mnist"), "train.display": "none"}
    rowrnn.train(config.replace(notebook, values), tmp_path / "run")
    found = rowrnn.evaluate(tmp_path / "run", groups=writers)
    of_writers = found.grouped
    assert len(of_writers.names) == 297
    # Of sixteen such networks the standard errors were 1.63 to 1.88 times as large.
    assert 1.4 < math.sqrt(of_writers.design_effect) < 2.2
    assert of_writers.interval_by_group[0] < found.interval[0] - 0.001
    assert found.interval[1] + 0.001 < of_writers.interval_by_group[1]


def test_figures_of_groups_are_plain_numbers():
    answers, of = world(np.random.default_rng(7), 2, 60, ease=2, skill=0, easy=1, writers=5)
    summary = grouped(answers, of).summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["groups"] == len(summary["by_group"]) == 5
    assert sum(group["images"] for group in summary["by_group"]) == 60


@pytest.mark.parametrize(
    ("correct", "groups"),
    [
        (np.ones((2, 8)), None),
        (np.ones(8, bool), None),
        (np.ones((2, 1), bool), None),
        (np.ones((0, 8), bool), None),
        (np.ones((2, 8), bool), np.arange(7)),
        (np.ones((2, 8), bool), np.arange(8.0)),
        (np.ones((2, 8), bool), np.ones((8, 1), int)),
        (np.ones((2, 8), bool), np.zeros(8, int)),
    ],
)
def test_what_are_no_answers_or_groups_is_refused(correct, groups):
    with pytest.raises(ValueError, match="must be"):
        interval_over_images(correct, groups)
