import contextlib
import dataclasses
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowrnn import config as configs
from rowrnn.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.errors import ConfigError


def test_defaults_are_valid():
    configs.check(Config())


@pytest.mark.parametrize(
    ("section", "name", "value", "says"),
    [
        ("train", "batch_size", 0, "an integer from 1 to 1,048,576"),
        ("train", "batch_size", 128.0, "an integer"),
        ("train", "batch_size", True, "an integer"),
        ("train", "seed", -1, "from 0 to"),
        ("train", "label_smoothing", 1.0, "up to but not including 1.0"),
        ("train", "epochs", "many", "an integer"),
        ("optimizer", "learning_rate", math.nan, "a number"),
        ("optimizer", "learning_rate", math.inf, "a number"),
        ("optimizer", "learning_rate", -1e-3, "a number"),
        ("optimizer", "learning_rate", 10**40, "a number"),
        ("optimizer", "name", "adamm", "did you mean adam"),
        ("model", "init", 3, "must be one of modern, glorot, notebook"),
        ("model", "hidden_size", 0, "from 1 to 65,536"),
        ("data", "dir", 7, "must be a string"),
    ],
)
def test_a_bad_value_is_named_with_its_field_and_range(section, name, value, says):
    broken = dataclasses.replace(getattr(Config(), section), **{name: value})
    with pytest.raises(ConfigError) as raised:
        configs.check(dataclasses.replace(Config(), **{section: broken}))
    message = str(raised.value)
    assert message.startswith(f"{section}.{name} = {value!r}: ")
    assert says in message


def test_two_lengths_are_refused():
    with pytest.raises(ConfigError, match="only one of the two"):
        configs.check(Config(train=TrainConfig(examples=5, epochs=5)))


def test_idx_needs_a_directory():
    with pytest.raises(ConfigError, match=r"data\.dir is empty"):
        configs.check(Config(data=DataConfig("idx")))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[modle]\nhidden_size = 3", "unknown section [modle]; did you mean model?"),
        ("[model]\nhiden_size = 3", "unknown name model.hiden_size; did you mean hidden_size?"),
        ("[model]\nzzz = 3", "valid names: projection_size"),
        ("model = 3", "must be a table"),
        ("[model]\nlayers = 1\nlayers = 2", "not valid TOML"),
        ("[model", "not valid TOML"),
        ("a = " + "[" * 5000, "not valid TOML"),
        (b"\xff\xfe", "not UTF-8"),
        ("[model]\nlayers = 0", "model.layers = 0"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, says):
    path = tmp_path / "bad.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as raised:
        configs.load(path)
    assert str(path) in str(raised.value)
    assert says in str(raised.value)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "editor.toml"
    path.write_text("[model]\nhidden_size = 3\n", encoding="utf-8-sig")
    assert configs.load(path).model.hidden_size == 3


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match="give the path of a TOML file"):
            configs.load(path)


@given(
    st.builds(
        Config,
        model=st.builds(
            ModelConfig,
            hidden_size=st.integers(1, 65_536),
            dropout=st.floats(0, 1, exclude_max=True),
            init=st.sampled_from(["modern", "notebook"]),
        ),
        data=st.builds(
            DataConfig,
            dir=st.text(st.characters(codec="utf-8", exclude_characters="\0")),
            validation_size=st.none() | st.integers(0, 1000),
        ),
        optimizer=st.builds(OptimizerConfig, learning_rate=st.floats(0, 1e3)),
        train=st.builds(TrainConfig, seed=st.integers(0, 2**32 - 1)),
    )
)
def test_what_is_written_reads_back_the_same(config):
    configs.check(config)
    import tomllib

    assert configs.from_dict(tomllib.loads(configs.dump(config))) == config


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_arbitrary_bytes_raise_nothing_but_config_errors(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("toml") / "any.toml"
    path.write_bytes(content)
    with contextlib.suppress(ConfigError):
        configs.load(path)


def notebook_loop(examples, batch_size):
    """The loop of the notebook, counted."""
    step = 1
    while step * batch_size < examples:
        step += 1
    return step - 1


@given(st.integers(1, 5000), st.integers(1, 200))
def test_examples_follow_the_loop_of_the_notebook(examples, batch_size):
    config = Config(train=TrainConfig(examples=examples, batch_size=batch_size))
    assert configs.total_steps(config, 1000) == max(1, notebook_loop(examples, batch_size))


def test_epochs_drop_the_remainder():
    config = Config(train=TrainConfig(epochs=3, batch_size=128))
    assert configs.total_steps(config, 1000) == 3 * 7
    assert configs.total_steps(Config(), 1280) == 10 * 10


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ConfigError, match=r"train\.batch_size = 128: must be at most 100"):
        configs.check_fits(Config(), 100)


def test_differences_name_the_field():
    new = Config(model=ModelConfig(layers=2))
    assert list(configs.differences(Config(), new)) == [("model.layers", 1, 2)]


def test_the_module_imports_nothing_heavy():
    code = "import rowrnn.config, sys; print(sum(m in sys.modules for m in ('jax', 'numpy')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
