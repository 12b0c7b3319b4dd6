"""Watch it read: what the network holds after each row, as arrays, lines and pictures."""

import contextlib
import dataclasses
import functools
import io
import json
import sys

import jax
import numpy as np
import pytest
from oracle import network_logits
from PIL import Image

import rowrnn
from rowrnn import config as configs
from rowrnn import data
from rowrnn.cli import evaluate as eval_command
from rowrnn.cli import read as read_command
from rowrnn.cli.terminal import ASCII
from rowrnn.config import Config, DataConfig, ModelConfig, TrainConfig
from rowrnn.core import lstm
from rowrnn.core.model import RowRNN, watch
from rowrnn.errors import ConfigError, DataError, RunError
from rowrnn.figures import ReadingArrays, reading_animation, reading_strip
from rowrnn.lab import stats, trainer
from rowrnn.lab.loop import Progress, facts_of
from rowrnn.store import members
from rowrnn.store.checkpoint import CheckpointWriter
from rowrnn.store.members import Spec
from rowrnn.store.rundir import RunDir

CONFIG = Config(
    ModelConfig(6, 12, forget_bias=0.7),
    DataConfig("mnist_sample", validation_size=100),
    train=TrainConfig(precision="highest", batch_size=100, examples=1000),
)


def random_like(tree, seed):
    """Arrays of the shapes and dtypes in a tree; nothing is compiled for them."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: random.normal(0.05, 0.6, leaf.shape).astype(leaf.dtype), tree
    )  # fmt: skip


def kept(path, member):
    """A run directory of a network that nobody has trained."""
    experiment = trainer.prepare(member.config)
    state = trainer.abstract_state(experiment, 1)
    state = random_like(state._replace(key=()), member.seed)._replace(
        step=np.zeros(1, np.int32), key=jax.random.key(0)[None]
    )
    path.mkdir(parents=True)
    (path / "config.toml").write_text(configs.dump(member.config))
    with contextlib.closing(CheckpointWriter(path / "checkpoints", keep=1)) as writer:
        writer.save(state, facts_of(experiment, 1, Progress.start(1)))
    return path


def make_sweep(path, seeds, grid, keeping):
    """The directory of a sweep that has kept the states of its first members."""
    RunDir.create(path, CONFIG).close()
    (path / "sweep.json").write_text(
        json.dumps({"seeds": seeds, "grid": grid, "vary": "both", "settings": {}})
    )
    spec = Spec(CONFIG, tuple(seeds), {name: tuple(values) for name, values in grid.items()})
    for member in members.make_members(spec)[:keeping]:
        kept(path / "states" / member.directory, member)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    (member,) = members.make_members(Spec(CONFIG, (0,)))
    return kept(tmp_path_factory.mktemp("read") / "run", member)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return make_sweep(tmp_path_factory.mktemp("read") / "sweep", [0, 1, 2, 3], {}, keeping=3)


@pytest.fixture(scope="module")
def test_part():
    return data.load(CONFIG.data).test


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_what_is_watched_is_what_numpy_says(pooling):
    config = ModelConfig(6, 4, layers=2, forget_bias=0.7, pooling=pooling)
    images = np.random.default_rng(0).integers(0, 256, (3, 7, 5), dtype=np.uint8)
    shapes = jax.eval_shape(RowRNN(config, 3).init, jax.random.key(0), images)["params"]
    params = random_like(shapes, 1)
    watched = jax.jit(watch, static_argnums=0)(config, params, images)

    logits = network_logits(params, images, forget_bias=0.7, pooling=pooling)
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(watched.probabilities, shares, atol=1e-5)

    # The gates of every layer again, in float64, from the rows that it read.
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    rows = images.transpose(1, 0, 2) / 255 @ params["projection"].kernel + params["projection"].bias
    for layer, after in enumerate(watched.layers):
        cell, c, h = params[f"lstm_{layer}"], np.zeros((3, 4)), np.zeros((3, 4))
        for t, x in enumerate(rows):
            z = np.concatenate([x, h], axis=1) @ cell.kernel + cell.bias
            i, j, f, o = np.split(z, 4, axis=1)
            i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f + 0.7, o))
            c = f * c + i * np.tanh(j)
            h = o * np.tanh(c)
            for name, value in {"i": i, "j": np.tanh(j), "f": f, "o": o, "c": c, "h": h}.items():
                np.testing.assert_allclose(getattr(after, name)[t], value, atol=1e-5, err_msg=name)
        rows = np.asarray(after.h, np.float64)


def test_the_hidden_states_are_those_of_the_recurrence():
    random = np.random.default_rng(0)
    cell = lstm.Affine(*(random.normal(size=size).astype("f") for size in ((9, 16), (16,))))
    xs, carry = random.normal(size=(6, 2, 5)).astype("f"), lstm.zero_carry(2, 4)
    after = jax.jit(lstm.activations)(cell, xs, carry)
    run = jax.jit(functools.partial(lstm.lstm, every_row=True, backend="scan"))
    hs, (c, _) = run(cell, xs, carry)
    np.testing.assert_allclose(after.h, hs, atol=1e-6)
    np.testing.assert_allclose(after.c[-1], c, atol=1e-6)


def test_read_agrees_with_probabilities_and_says_since_when(run, test_part, tmp_path):
    reading = rowrnn.read(run, 7)
    classifier = rowrnn.load(run)
    expected = classifier.probabilities(test_part.images[7:8])[:, 0]
    np.testing.assert_allclose(reading.probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(reading.image, test_part.images[7])
    assert reading.truth == test_part.labels[7]
    assert reading.layers[-1].f.shape == (28, 12)
    assert (reading.name, reading.label) == ("test[7]", expected[-1].argmax())
    np.testing.assert_array_equal(
        rowrnn.read(run, test_part.images[7]).probabilities, reading.probabilities
    )

    best = [2, 7, 7, 2, 7, 7]
    made_up = dataclasses.replace(
        reading, image=reading.image[:6], probabilities=np.eye(10)[best] * 0.9 + 0.01, truth=None
    )
    assert made_up.since == 5
    assert made_up.words() == "it has predicted 7 since row 5 of 6 (91.0 % at the end)"
    assert dataclasses.replace(made_up, truth=1).words().endswith("; but it is 1")
    assert dataclasses.replace(made_up, probabilities=np.eye(10)[[3] * 6]).since == 1

    Image.fromarray(255 - test_part.images[7]).resize((140, 140)).save(tmp_path / "1.png")
    pictured = rowrnn.read(run, tmp_path / "1.png")
    (predicted,), _ = rowrnn.predict(run, [tmp_path / "1.png"])
    np.testing.assert_allclose(pictured.probabilities, predicted.rows, atol=1e-5)
    assert (pictured.inverted, pictured.truth) == (True, None)


def width(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return picture.size[0]


class Screen(io.TextIOWrapper):
    def __init__(self, encoding, tty=False):
        super().__init__(io.BytesIO(), encoding=encoding)
        self.tty = tty

    def isatty(self):
        return self.tty

    def text(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


def shown(monkeypatch, main, *arguments, encoding="utf-8", tty=False, code=0, **environment):
    """What a command prints on a screen of 80 columns."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"COLUMNS": "80", "TERM": "xterm-256color", **environment}.items():
        monkeypatch.setenv(name, value)
    screen = Screen(encoding, tty)
    monkeypatch.setattr(sys, "stdout", screen)
    assert main([str(argument) for argument in arguments]) == code
    monkeypatch.undo()
    return screen.text()


def test_the_terminal_shows_a_line_for_each_row(run, monkeypatch):
    out = shown(monkeypatch, read_command.main, run, 7, "--json")
    *lines, last = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in out
    reading, summary = rowrnn.read(run, 7), json.loads(last)
    rows = [line for line in lines if line[:3].strip().isdigit()]
    assert [int(line[:3]) for line in rows] == list(range(1, 29))
    for line, probabilities in zip(rows, reading.probabilities, strict=True):
        assert line.endswith(f" {probabilities.argmax()} {100 * probabilities.max():5.1f} %")
        assert line[33 + 2 * int(probabilities.argmax())] in "▁▂▃▄▅▆▇█"
    assert "█" in "".join(line[4:32] for line in rows)
    assert f"predicted {reading.label} since row {reading.since} of 28" in lines[-1]
    np.testing.assert_allclose(summary["probabilities"], reading.probabilities, atol=1e-6)
    np.testing.assert_allclose(summary["layers"][0]["f"], reading.layers[0].f, atol=1e-4)
    assert (summary["label"], summary["since"]) == (reading.label, reading.since)


def test_what_may_make_the_answer_wrong_is_told_as_predict_tells_it(
    run, test_part, tmp_path, monkeypatch
):
    digit = Image.fromarray(255 - test_part.images[7]).resize((140, 140))
    pair = Image.new("L", (400, 200), "white")
    for place in (20, 220):
        pair.paste(digit, (place, 30))
    for name, picture in (("one.png", digit), ("pair.png", pair)):
        picture.save(tmp_path / name)
        reading = rowrnn.read(run, tmp_path / name)
        (predicted,), _ = rowrnn.predict(run, tmp_path / name)
        assert bool(predicted.warning) == (name == "pair.png")
        assert reading.warning == predicted.warning
        first, *_, last = shown(
            monkeypatch, read_command.main, run, tmp_path / name, "--json"
        ).splitlines()
        assert json.loads(last)["warning"] == predicted.summary()["warning"]
        assert first.partition("; warning: ")[2] == predicted.warning
        assert ("warning=" in repr(reading)) == bool(predicted.warning)


def test_it_reads_without_unicode_and_without_colour(run, monkeypatch):
    plain = shown(monkeypatch, read_command.main, run, 7, encoding="ascii")
    assert plain.isascii()
    assert "#" in plain
    assert max(map(len, plain.splitlines())) <= 80
    coloured = shown(
        monkeypatch, read_command.main, run, 7, tty=True, COLORTERM="truecolor"
    )  # fmt: skip
    assert "\x1b[48;2;" in coloured
    assert "░" not in coloured  # the pixels are colour blocks
    bare = shown(monkeypatch, read_command.main, run, 7, tty=True, NO_COLOR="1")
    assert "\x1b" not in bare
    assert "░" in bare


@pytest.mark.parametrize(("shape", "classes", "units"), [((40, 64), 26, 200), ((5, 3), 2, 1)])
def test_any_size_fits(run, shape, classes, units, tmp_path):
    random = np.random.default_rng(0)
    layer = lstm.Activations(*random.uniform(size=(6, shape[0], units)))
    reading = dataclasses.replace(
        rowrnn.read(run, 0),
        image=random.integers(0, 256, shape, dtype=np.uint8),
        probabilities=random.dirichlet(np.ones(classes), shape[0]),
        layers=(layer,),
    )
    lines = [line.plain for line in read_command._lines(reading, ASCII, coloured=False)]
    assert max(map(len, lines)) <= 80
    assert len({len(line) for line in lines[1:] if line[-8] == " "}) <= 2
    arrays = ReadingArrays(reading.image, reading.probabilities, layer.h, {"gate": layer.f})
    reading_strip(arrays, tmp_path / "strip.png", "no formula: $x^$", 2)
    assert width(tmp_path / "strip.png") > 400


def test_the_animation_reveals_a_row_in_each_frame(tmp_path):
    image = np.full((4, 4), 255, np.uint8)
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.01, 0.99]])
    arrays = ReadingArrays(image, probabilities, np.zeros((4, 3)), {"gate": np.full((4, 3), 1.0)})
    reading_animation(arrays, tmp_path / "reading.gif", "four rows")
    with Image.open(tmp_path / "reading.gif") as gif:
        assert (gif.n_frames, gif.info["loop"]) == (4, 0)
        durations, orange, white = [], [], []
        for frame in range(4):
            gif.seek(frame)
            durations.append(gif.info["duration"])
            pixels = np.asarray(gif.convert("RGB")).astype(int)
            orange.append((abs(pixels - [0xD5, 0x5E, 0]).sum(axis=-1) < 12).sum())
            # The left third, where the digit is; the paper around it is white too.
            white.append((pixels[100:300, 70:300] == 255).all(axis=-1).mean())
    assert durations[-1] > 5 * durations[0]
    assert max(durations[:-1]) < 500
    # The bar of the best class is as long as its probability.
    np.testing.assert_allclose(np.array(orange) / max(orange), [0.91, 0.81, 0.71, 1], atol=0.03)
    assert (np.diff(white) > 0.15).all()


def test_pictures_are_written_where_asked(run, monkeypatch, tmp_path):
    to = tmp_path / "a\x1b.png"
    out = shown(monkeypatch, read_command.main, run, 3, "--to", to, "--split", "validation")
    assert "\x1b" not in out
    assert r"a\x1b.png" in out
    assert width(to) > 800


@pytest.mark.parametrize(
    ("arguments", "kind", "code", "says"),
    [
        (["{run}", "1000"], ConfigError, 2, "give an index from 0 to 999"),
        (["{run}", "-1"], ConfigError, 2, "give an index from 0 to 999"),
        (["{run}", "100", "--split=validation"], ConfigError, 2, "from 0 to 99"),
        (["{run}", "0", "--to=a.jpg"], ConfigError, 2, "must end in .gif"),
        (["{run}", "0", "--to=none/a.png"], RunError, 4, "No such file"),
        (["{run}", "none.png"], DataError, 3, "none.png"),
        (["{run}", "9" * 5000], DataError, 3, "picture"),
        (["none", "0"], RunError, 4, "none"),
        (["{sweep}", "0"], RunError, 4, "is a sweep"),
    ],
)
def test_mistakes(run, sweep, arguments, kind, code, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [argument.format(run=run, sweep=sweep) for argument in arguments]
    with pytest.raises(kind, match=says) as raised:
        read_command.main(given)
    assert raised.value.exit_code == code


def test_an_array_must_be_an_image(run):
    with pytest.raises(DataError, match=r"float64\[28, 28\]; it must be uint8\[28, 28\]"):
        rowrnn.read(run, np.zeros((28, 28)))


def accuracies(path, part):
    """After each row, from the probabilities themselves."""
    probabilities = rowrnn.load(path).probabilities(part.images)
    return (probabilities.argmax(axis=-1) == part.labels[None]).mean(axis=1)


def test_eval_gives_accuracy_after_each_row(run, test_part, monkeypatch):
    expected = accuracies(run, test_part)
    out = shown(monkeypatch, eval_command.main, run, encoding="ascii")
    assert "row" not in json.loads((run / "eval-test.json").read_text())
    assert not (run / "eval-test-rows.png").exists()
    with_rows = shown(monkeypatch, eval_command.main, run, "--rows", "--json", encoding="ascii")
    summary = json.loads(with_rows.splitlines()[-1])
    np.testing.assert_allclose(summary["rows"], expected)
    assert summary["rows"][-1] == pytest.approx(summary["test_accuracy"], abs=0.0011)
    assert json.loads((run / "eval-test.json").read_text()) == summary
    assert width(run / "eval-test-rows.png") > 500
    # The rest is as it was.
    assert out.splitlines()[:14] == with_rows.splitlines()[:14]
    table = [line.split() for line in with_rows.splitlines() if line.strip()]
    assert ["28", f"{expected[-1]:.4f}", "=" * round(30 * expected[-1])] in table


def test_blocks_do_not_change_the_count(run, test_part, monkeypatch):
    classifier = rowrnn.load(run)
    whole = classifier.correct_after_rows(test_part.images, test_part.labels)
    monkeypatch.setattr("rowrnn.lab.classifier._BLOCK", 300)
    sizes, program = [], classifier._after_rows

    def counted(params, block):
        sizes.append(len(block))
        return program(params, block)

    monkeypatch.setattr(type(classifier), "_after_rows", property(lambda _: counted))
    np.testing.assert_array_equal(
        classifier.correct_after_rows(test_part.images, test_part.labels), whole
    )
    assert sizes == [300, 300, 300, 100]


def test_eval_rows_of_a_sweep(sweep, test_part, monkeypatch):
    out = shown(monkeypatch, eval_command.main, sweep, "--rows", "--json")
    summary = json.loads(out.splitlines()[-1])
    (rows,) = summary["rows"]
    assert rows["members"] == ["seed=0", "seed=1", "seed=2"]  # the fourth was not kept
    expected = [accuracies(sweep / "states" / name, test_part) for name in rows["members"]]
    np.testing.assert_allclose(rows["accuracy"], expected)
    np.testing.assert_allclose(rows["mean"], np.mean(expected, axis=0))
    one_image = {"resolution": 1 / 1000}
    intervals = [stats.interval_of_mean(row, **one_image) for row in np.array(expected).T]
    np.testing.assert_allclose(rows["interval"], np.clip(intervals, 0, 1))
    assert json.loads((sweep / "eval-test.json").read_text()) == summary
    assert width(sweep / "eval-test-rows.png") > 500
    assert "test accuracy of 3 networks on 1,000 images" in out
    assert "95 % interval" in out


def test_points_of_a_grid_are_not_mixed(tmp_path, monkeypatch):
    sweep = make_sweep(
        tmp_path / "grid", [0, 1], {"optimizer.learning_rate": [0.1, 0.2]}, keeping=3
    )
    out = shown(monkeypatch, eval_command.main, sweep, "--rows", "--json")
    rows = json.loads(out.splitlines()[-1])["rows"]
    assert [(point["point"], len(point["members"])) for point in rows] == [
        ("learning_rate=0.1", 2),
        ("learning_rate=0.2", 1),
    ]
    assert rows[1]["interval"] is None


def test_a_sweep_that_kept_nothing(tmp_path):
    sweep = make_sweep(tmp_path / "none", [0, 1], {}, keeping=0)
    with pytest.raises(RunError, match=r"kept the state of no member.*--keep all") as raised:
        eval_command.main([str(sweep), "--rows"])
    assert raised.value.exit_code == 4
    with pytest.raises(RunError, match="is a sweep, not a single run"):
        eval_command.main([str(sweep)])
