"""What Python callers give by mistake is refused by name, and what is NumPy's is taken."""

import jax
import numpy as np
import pytest
from in_process import compiled_once

import rowrnn
from rowrnn.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.errors import ConfigError, DataError
from rowrnn.lab.sweep import SweepSettings

CONFIG = Config(
    ModelConfig(0, 8),
    DataConfig("mnist_sample", validation_size=100),
    OptimizerConfig("adamw"),
    TrainConfig(batch_size=100, examples=301, display="none"),
)
IMAGES = np.zeros((2, 28, 28), np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with compiled_once():
        yield rowrnn.train(CONFIG, tmp_path_factory.mktemp("doors") / "run").run_dir


@pytest.mark.parametrize("image", [1.5, True, None, [1], np.float64(2), b"x"])
def test_an_index_is_an_integer(run, image):
    with pytest.raises(ConfigError, match=r"^image = .*: must be an index from 0, the path of"):
        rowrnn.read(run, image)
    assert rowrnn.read(run, np.int64(3)).name == "test[3]"


@pytest.mark.parametrize("config", [{}, {"model": {}}, "x", CONFIG.train])
def test_a_config_is_a_config(run, tmp_path, config):
    for call in (
        lambda: rowrnn.train(config, tmp_path / "new"),
        lambda: rowrnn.train(config, resume=run),
        lambda: rowrnn.sweep(config, [0], run_dir=tmp_path / "new"),
        lambda: rowrnn.make_train(config, None),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match=r"^config = .*: must be a rowrnn\.Config"):
            call()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("model", [{}, 3, None, DataConfig()])
def test_a_section_of_a_config_is_that(tmp_path, model):
    with pytest.raises(ConfigError, match=r"^model = .*: must be a ModelConfig"):
        rowrnn.train(Config(model=model), tmp_path / "new")


@pytest.mark.parametrize("path", [3, None, b"run", "a\0b", [], ("a", "b")])
def test_a_path_is_a_path(run, path):
    calls = [rowrnn.load, rowrnn.evaluate, rowrnn.runs, rowrnn.report, rowrnn.compare,
             lambda path: rowrnn.extract(path, "seed=0", "to"),
             lambda path: rowrnn.extract("sweep", "seed=0", path),
             lambda path: rowrnn.predict(path, []), lambda path: rowrnn.export(run, path),
             lambda path: rowrnn.export_web(run, path), lambda path: rowrnn.read(path, 0),
             lambda path: rowrnn.report(run, path)]  # fmt: skip
    if path is not None:  # It chooses one.
        calls += [lambda path: rowrnn.train(CONFIG, path),
                  lambda path: rowrnn.train(resume=path),
                  lambda path: rowrnn.train(CONFIG, init_from=path),
                  lambda path: rowrnn.sweep(CONFIG, [0], run_dir=path),
                  lambda path: rowrnn.sweep(resume=path),
                  lambda path: rowrnn.evaluate(run, groups=path)]  # fmt: skip
    for call in calls:
        with pytest.raises(ConfigError, match=r" = .*: must be a path, as text or pathlib\.Path"):
            call(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "map"}, "settings = .*: must be a rowrnn.SweepSettings"),
        (SweepSettings(chunk=1.5), "chunk = 1.5: must be an integer"),  # type: ignore[arg-type]
        (SweepSettings(chunk="2"), "chunk = '2': must be an integer"),  # type: ignore[arg-type]
        (SweepSettings(strategy=3), "strategy = 3: must be one of"),  # type: ignore[arg-type]
    ],
)
def test_settings_are_settings(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        rowrnn.sweep(CONFIG, [0], settings=settings, run_dir=tmp_path / "new")


@pytest.mark.parametrize("seeds", [3, [1.5], [True], ["0"], "01", [None], [[0]], np.zeros(1)])
def test_seeds_are_integers(tmp_path, seeds):
    with pytest.raises(ConfigError, match=r"must be (an integer|integers)"):
        rowrnn.sweep(CONFIG, seeds, run_dir=tmp_path / "new")


@pytest.mark.parametrize("grid", [[1], {"model.hidden_size": 8}, "x", {3: [1]}])
def test_a_grid_is_lists_by_name(tmp_path, grid):
    with pytest.raises(ConfigError, match=r"must be lists of values by name|unknown name 3"):
        rowrnn.sweep(CONFIG, [0], grid=grid, run_dir=tmp_path / "new")


@pytest.mark.slow
def test_seeds_and_grids_of_numpy_are_taken(run, tmp_path):
    swept = rowrnn.sweep(
        CONFIG,
        np.arange(2),
        grid={"optimizer.learning_rate": np.array([1e-3, 1e-2], np.float32)},
        run_dir=tmp_path / "sweep",
    )
    assert swept.seeds.tolist() == [0, 0, 1, 1]
    again = rowrnn.sweep(resume=tmp_path / "sweep", seeds=np.arange(2, dtype=np.uint8))
    assert again.summary["reused"] == 4


def test_what_answers_on_the_host_says_so_within_jit(run):
    network = rowrnn.load(run)
    for answer in (network.logits, network.probabilities, network.watch):
        with pytest.raises(ConfigError, match="answers on the host, not within"):
            jax.jit(answer)(IMAGES)


def test_what_runs_programs_or_writes_says_so_within_jit(run, tmp_path):
    for call in (
        lambda: rowrnn.train(CONFIG, tmp_path / "new"),
        lambda: rowrnn.train(resume=run),
        lambda: rowrnn.sweep(CONFIG, [0], run_dir=tmp_path / "new"),
        lambda: rowrnn.evaluate(run),
    ):
        with pytest.raises(
            ConfigError, match=r"^within jax\.jit .*; call this outside\. .*make_tr"
        ):
            jax.eval_shape(call)
    assert not (tmp_path / "new").exists()


class Refuses:
    """What an array of another library may do, such as one of another device."""

    dtype, shape = "float32", (2, 28, 28)

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("it is of another device")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (Refuses(), "images are no array: it is of another device"),
        (np.ma.masked_array(IMAGES, IMAGES < 1), "images are masked here and there"),
        (jax.random.key(0), "images are key<fry>, and must be uint8"),
    ],
)
def test_images_are_an_array(run, images, message):
    with pytest.raises(DataError, match=message):
        rowrnn.load(run).logits(images)


def test_labels_may_be_of_pandas(run):
    pandas = pytest.importorskip("pandas")
    labels = pandas.Series([1, 2], index=[7, 8])
    network = rowrnn.load(run)
    expected = network.correct_after_rows(IMAGES, np.array([1, 2]))
    np.testing.assert_array_equal(network.correct_after_rows(IMAGES, labels), expected)


def test_small_mistakes(run, tmp_path):
    with pytest.raises(ConfigError, match=r"^split = 'bogus': must be one of test"):
        rowrnn.evaluate(run, split="bogus")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^parallel = 3: must be a ParallelConfig"):
        rowrnn.evaluate(run, devices=3)  # type: ignore[arg-type]
    for paths in (3, b"x.png"):
        with pytest.raises(ConfigError, match=r"^paths = .*: must be a path or several"):
            rowrnn.predict(run, paths)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^margin = 'x': must lie between 0 and 1"):
        rowrnn.compare(run, run, margin="x")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="there is none"):
        rowrnn.load(run).logits(IMAGES[:0])
    assert rowrnn.load(run, 3).step == 3  # type: ignore[arg-type]
    _, (problem,) = rowrnn.predict(run, str(tmp_path / "none.png"))
    assert "none.png: No such file" in str(problem)
    assert "picture a\0b" in str(rowrnn.predict(run, "a\0b")[1][0])
