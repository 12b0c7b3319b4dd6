"""What Python callers give by mistake is refused by name, and what is NumPy's is taken."""

import jax
import numpy as np
import pytest
from in_process import compiled_once

import rowrnn
from rowrnn.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.errors import ConfigError, DataError

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


@pytest.mark.parametrize("seeds", [3, [1.5], [True], ["0"], "01", [None], np.zeros(1)])
def test_seeds_are_integers(tmp_path, seeds):
    with pytest.raises(ConfigError, match=r"must be (an integer|integers)"):
        rowrnn.sweep(CONFIG, seeds, run_dir=tmp_path / "new")


@pytest.mark.parametrize("grid", [[1], {"model.hidden_size": 8}, "x"])
def test_a_grid_is_lists_by_name(tmp_path, grid):
    with pytest.raises(ConfigError, match=r"^grid = .*: must be lists of values by name"):
        rowrnn.sweep(CONFIG, [0], grid=grid, run_dir=tmp_path / "new")


def test_seeds_and_grids_of_numpy_are_taken(run, tmp_path):
    swept = rowrnn.sweep(
        CONFIG,
        np.arange(2),
        grid={"optimizer.learning_rate": np.array([1e-3, 1e-2])},
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


def test_small_mistakes(run, tmp_path):
    with pytest.raises(ConfigError, match=r"^split = 'bogus': must be one of test"):
        rowrnn.evaluate(run, split="bogus")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="there is none"):
        rowrnn.load(run).logits(IMAGES[:0])
    assert rowrnn.load(run, 3).step == 3  # type: ignore[arg-type]
    _, (problem,) = rowrnn.predict(run, str(tmp_path / "none.png"))
    assert "none.png: No such file" in str(problem)
