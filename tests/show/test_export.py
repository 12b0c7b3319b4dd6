"""A network outside of rowrnn: what others read must be the network that was trained."""

import errno
import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import rowrnn
from rowrnn import cli, data, files
from rowrnn import config as configs
from rowrnn.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.errors import ConfigError, RunError
from rowrnn.lab import evaluate
from rowrnn.store import weights

CONFIG = Config(
    ModelConfig(8, 16, layers=2, forget_bias=0.5),
    DataConfig("mnist_sample"),
    OptimizerConfig("adamw", 3e-3, ema_decay=0.9),
    TrainConfig(batch_size=100, examples=1001, display="none"),
)
# Compiled in half the time, for what any network shows.
LITTLE = configs.replace(CONFIG, {"model.layers": 1, "optimizer.ema_decay": 0.0})

# What a user without rowrnn has to write.
SCRIPT = """
import sys
sys.modules["rowrnn"] = None
import jax, numpy as np
from jax import export
from pathlib import Path
network = export.deserialize(bytearray(Path("model.jaxexport").read_bytes()))
images = np.load("images.npy")
for count in (1, 7, len(images)):
    logits = np.asarray(jax.jit(network.call)(images[:count]))
np.save("logits.npy", logits)
print(sorted(network.platforms))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trained run, and what the command line exports of it."""
    directory = tmp_path_factory.mktemp("export")
    run, network = directory / "run", directory / "network"
    rowrnn.train(CONFIG, run)
    page = str(directory / "digit.html")
    assert cli.run(["export", str(run), "--to", str(network), "--web", page]) == 0
    return run, network


@pytest.fixture(scope="module")
def page(made):
    """The page of the same run."""
    return made[0].with_name("digit.html")


@pytest.fixture(scope="module")
def images():
    return data.load(DataConfig()).test.images[:50]


def tensors_of(path):
    """The tensors of a safetensors file, as its format says: length, JSON, bytes."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "np"}
    return {
        name: np.frombuffer(
            content[8 + length :][slice(*entry["data_offsets"])], "<f4"
        ).reshape(entry["shape"])
        for name, entry in header.items()
        if entry["dtype"] == "F32"
    }  # fmt: skip


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def in_numpy(directory, images):
    """The logits in float64 from the two files and what the model card says of them."""
    config = json.loads((directory / "config.json").read_text())
    found = tensors_of(directory / "model.safetensors")
    tensor = {name: array.astype(np.float64) for name, array in found.items()}
    rows = images.transpose(1, 0, 2) * config["pixel_scale"]
    rows = rows @ tensor["projection.kernel"] + tensor["projection.bias"]
    for layer in range(config["num_hidden_layers"]):
        kernel, bias = tensor[f"lstm_{layer}.kernel"], tensor[f"lstm_{layer}.bias"]
        c = h = np.zeros((images.shape[0], config["hidden_size"]))
        states = []
        for x in rows:
            i, j, f, o = np.split(np.concatenate([x, h], axis=1) @ kernel + bias, 4, axis=1)
            c = sigmoid(f + config["forget_bias"]) * c + sigmoid(i) * np.tanh(j)
            h = sigmoid(o) * np.tanh(c)
            states.append(h)
        rows = states
    read = rows[-1] if config["pooling"] == "last" else np.mean(rows, axis=0)
    return read @ tensor["readout.kernel"] + tensor["readout.bias"]


def test_numpy_computes_the_same_from_the_files_alone(made, images):
    run, network = made
    np.testing.assert_allclose(
        in_numpy(network, images), rowrnn.load(run).logits(images), atol=1e-5
    )


@pytest.mark.slow
def test_the_files_say_what_is_read_out(tmp_path, images):
    config = configs.replace(LITTLE, {"model.pooling": "mean", "train.examples": 201})
    rowrnn.train(config, tmp_path / "run")
    network = rowrnn.export(tmp_path / "run", tmp_path / "network")
    expected = rowrnn.load(network).logits(images)
    np.testing.assert_allclose(in_numpy(network, images), expected, atol=1e-5)
    assert "of the mean of its hidden states" in (network / "README.md").read_text()


def test_the_network_comes_back_to_the_bit(made, images):
    run, network = (rowrnn.load(path) for path in made)
    for ours, theirs in zip(
        jax.tree.leaves(network.params), jax.tree.leaves(run.params), strict=True
    ):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
    np.testing.assert_array_equal(network.logits(images), run.logits(images))
    for name in ("step", "dataset", "fingerprint", "shape", "classes", "config"):
        assert getattr(network, name) == getattr(run, name)


def test_jax_alone_runs_the_program(made, images, tmp_path):
    run, network = made
    shutil.copy(network / "model.jaxexport", tmp_path)
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['cpu', 'cuda', 'tpu']"
    np.testing.assert_allclose(
        np.load(tmp_path / "logits.npy"), rowrnn.load(run).logits(images), atol=1e-5
    )


def test_predict_takes_what_was_exported(made, images, tmp_path, capsys):
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in images.shape)
    (tmp_path / "digits").write_bytes(header + images.tobytes())
    answers = []
    for path in made:
        assert cli.run(["predict", str(path), str(tmp_path / "digits"), "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert answers[0] == answers[1]


def test_the_model_card_says_how_good_it_is_and_where_it_comes_from(made):
    run, network = made
    card, found = (network / "README.md").read_text(), rowrnn.evaluate(run)
    low, high = found.interval
    assert f"{100 * found.accuracy:.2f} % of the 1,000 test images" in card
    assert f"interval {100 * low:.2f} to {100 * high:.2f} %" in card
    for heading in ("Use", "Data", "Recipe", "Accuracy", "Limits"):
        assert f"\n## {heading}\n" in card
    assert found.dataset in card
    assert rowrnn.load(run).fingerprint in card
    assert "2 LSTM layers of 16" in card
    # The code in it is what a reader would run.
    code = card.split("```python\n")[1].split("```")[0]
    here = os.getcwd()
    try:
        os.chdir(network)
        namespace = {}
        exec(code, namespace)
    finally:
        os.chdir(here)
    assert namespace["logits"].shape == (4, 10)


def test_where_the_data_lay_is_not_told(made, images, tmp_path, monkeypatch):
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in images.shape)
    secret = tmp_path / "my customers" / "digits"
    secret.mkdir(parents=True)
    for part in ("train", "t10k"):
        (secret / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = bytes([0, 0, 8, 1, 0, 0, 0, len(images)]) + bytes(i % 10 for i in range(50))
        (secret / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    config = configs.replace(
        LITTLE,
        {"data.dataset": "idx", "data.dir": str(secret), "train.batch_size": 10,
         "train.examples": 21, "data.validation_size": 0},
    )  # fmt: skip
    rowrnn.train(config, tmp_path / "run")
    path = rowrnn.export(tmp_path / "run", tmp_path / "network")
    assert all(b"my customers" not in file.read_bytes() for file in path.iterdir())
    assert rowrnn.load(path).config.data.dir == "digits"

    # Where it is the current directory, there is no name; where it lies now can be said.
    monkeypatch.chdir(secret)
    rowrnn.train(configs.replace(config, {"data.dir": "."}), tmp_path / "here")
    assert rowrnn.load(rowrnn.export(tmp_path / "here", tmp_path / "there")).config.data.dir == "."
    monkeypatch.chdir(tmp_path)
    moved = ["export", str(tmp_path / "here"), "--to", str(tmp_path / "moved")]
    assert cli.run([*moved, "--data.dir", str(secret)]) == 0
    assert "are classified correctly" in (tmp_path / "moved" / "README.md").read_text()


def test_the_page_says_how_good_it_is(made, page):
    found, html = rowrnn.evaluate(made[0]), " ".join(page.read_text().split())
    assert f"{100 * found.accuracy:.2f} % of the 1,000 test images are classified correctly" in html
    assert "2 LSTM layers of 16 units, trained on mnist_sample." in html
    assert "Draw a digit" in html


def test_an_export_gives_the_page_that_its_run_gives(made, page, tmp_path, capsys):
    again = tmp_path / "again.html"
    assert cli.run(["export", str(made[1]), "--web", str(again), "--json"]) == 0
    assert again.read_bytes() == page.read_bytes()
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (answer["path"], answer["web"]) == (None, str(again))


def test_nothing_is_overwritten(made, page, tmp_path, capsys):
    (run, network), before = made, page.read_bytes()
    new, link = tmp_path / "new.html", tmp_path / "link.html"
    link.symlink_to(tmp_path / "elsewhere")
    for arguments, words in (
        (["--to", network], "is not empty"),
        (["--web", page], "is there already"),
        (["--web", page, "--to", tmp_path / "new"], "is there already"),
        (["--web", new, "--to", network], "is not empty"),
        (["--web", link], "is there already"),
        (["--web", tmp_path / "no" / "such.html"], "No such file"),
    ):
        assert cli.run(["export", str(run), *map(str, arguments)]) == 4
        assert words in capsys.readouterr().err
    assert page.read_bytes() == before
    assert list(tmp_path.iterdir()) == [link]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--to DIR, --web FILE.html or both"),
        (["--web", "digit"], "must end in .html"),
        (["--web", "new/page/digit.html", "--to", "new"], "lies in the directory of --to"),
    ],
)
def test_what_to_write_has_to_be_said(arguments, words, capsys):
    assert cli.run(["export", "run", *arguments]) == 2
    assert words in capsys.readouterr().err


def header_of(content):
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header, body):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def claim(path, **change):
    header, body = header_of(path.read_bytes())
    header["lstm_0.kernel"] |= change
    path.write_bytes(with_header(header, body))


def drop(path):
    header, body = header_of(path.read_bytes())
    del header["readout.bias"]
    path.write_bytes(with_header(header, body))


def in_config(path, change):
    file = path.with_name("config.json")
    document = json.loads(file.read_text())
    change(document["rowrnn"])
    file.write_text(json.dumps(document))


BAD = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "terabytes": lambda path: claim(path, shape=[10**6, 10**6], data_offsets=[0, 4 * 10**12]),
    "other shape": lambda path: claim(path, shape=[64, 24]),
    "other type": lambda path: claim(path, dtype="I32"),
    "a tensor less": drop,
    "a huge header": lambda path: path.write_bytes(struct.pack("<Q", 2**62)),
    "a link": lambda path: (path.rename(path.with_name("x")), path.symlink_to("x")),
    "deep": lambda path: path.with_name("config.json").write_text("[" * 10_000),
    "no config": lambda path: path.with_name("config.json").unlink(),
    "a list": lambda path: path.with_name("config.json").write_text("[]"),
    "a huge network": lambda path: in_config(
        path, lambda document: document["config"]["model"].update(hidden_size=100_000)
    ),
    "huge images": lambda path: in_config(path, lambda d: d.update(shape=[28, 10**9])),
    "no classes": lambda path: in_config(path, lambda d: d.update(classes=0)),
    "a word": lambda path: in_config(path, lambda d: d.update(step="many")),
    "other data": lambda path: in_config(path, lambda d: d.update(dataset="# mine\ud800")),
    "too few names": lambda path: in_config(path, lambda d: d.update(class_names=["a", "b"])),
    "a name of lines": lambda path: in_config(
        path, lambda d: d.update(class_names=[f"\x1b[2J{label}" for label in range(10)])
    ),
    "no digest": lambda path: in_config(path, lambda d: d.update(fingerprint="`; <b>")),
}


@pytest.mark.parametrize("damage", BAD)
def test_what_is_no_network_is_refused(made, tmp_path, damage):
    shutil.copytree(made[1], tmp_path / "network")
    BAD[damage](tmp_path / "network" / "model.safetensors")
    with pytest.raises(RunError, match=r"holds no network that can be read|is a link"):
        rowrnn.load(tmp_path / "network")


def test_colours_that_do_not_fit_the_rows_are_refused(made, tmp_path):
    shutil.copytree(made[1], tmp_path / "network")
    path = tmp_path / "network" / "model.safetensors"
    in_config(
        path, lambda document: document["config"]["data"].update(channels=3, pictures="as_is")
    )
    with pytest.raises(RunError, match="rows hold 28 values, which is no multiple of 3"):
        rowrnn.load(tmp_path / "network")


def test_a_network_that_gives_no_numbers_is_named(made, images, tmp_path, capsys):
    shutil.copytree(made[1], tmp_path / "network")
    params, origin = weights.read(made[1])
    forged = jax.tree.map(lambda leaf: leaf + np.float32(np.nan), params)
    (tmp_path / "network" / "model.safetensors").write_bytes(weights.to_bytes(forged))
    assert origin.step == weights.read(tmp_path / "network")[1].step
    for command in ("read", "predict"):
        Image.fromarray(images[0]).save(tmp_path / "digit.png")
        arguments = [command, str(tmp_path / "network"), str(tmp_path / "digit.png")]
        assert cli.run(arguments) == 4, command
        assert "answers are not finite" in capsys.readouterr().err


def test_a_directory_that_cannot_be_written_is_left_as_it_was(made, tmp_path, monkeypatch):
    real = files.write_whole

    def write_whole(path, content):
        if path.name == "model.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    monkeypatch.setattr(files, "write_whole", write_whole)
    with pytest.raises(RunError, match="was not written: No space left"):
        rowrnn.export(made[0], tmp_path / "network")
    assert list((tmp_path / "network").iterdir()) == []
    monkeypatch.undo()
    assert rowrnn.load(rowrnn.export(made[0], tmp_path / "network")).step == 10


def test_the_accuracy_is_that_of_the_checkpoint_that_is_exported(tmp_path, monkeypatch):
    """Though another is the last one by then."""
    run, new = tmp_path / "run", tmp_path / "network"
    rowrnn.train(configs.replace(CONFIG, {"checkpoint.every_steps": 5}), run)
    real = evaluate.evaluate

    def and_then_another(*given, **named):
        found = real(*given, **named)
        assert found.step == 10
        shutil.rmtree(run / "checkpoints" / "10")
        return found

    monkeypatch.setattr(evaluate, "evaluate", and_then_another)
    assert cli.run(["export", str(run), "--to", str(new)]) == 4
    assert not new.exists()


@given(content=st.binary(max_size=200), flips=st.lists(st.integers(0, 400), max_size=3))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_bytes_raise_anything_but_our_own_errors(made, tmp_path_factory, content, flips):
    work = tmp_path_factory.mktemp("bytes") / "network"
    shutil.copytree(made[1], work)
    file = work / "model.safetensors"
    changed = bytearray(file.read_bytes())
    for place in flips:
        changed[place] ^= 0x15
    file.write_bytes(bytes(changed) if flips else content)
    try:
        rowrnn.load(work)
    except RunError:
        pass
    finally:
        shutil.rmtree(work.parent)


# What jax2onnx loads warns at import of what it finds outdated, and would not be loaded.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_onnx_gives_the_same_logits_for_any_number_of_images(tmp_path, images, pooling):
    pytest.importorskip("jax2onnx", reason="jax2onnx is not installed: pip install 'rowrnn[onnx]'")
    onnxruntime = pytest.importorskip("onnxruntime")
    rowrnn.train(configs.replace(CONFIG, {"model.pooling": pooling}), tmp_path / "run")
    run, network = str(tmp_path / "run"), tmp_path / "network"
    assert cli.run(["export", run, "--to", str(network), "--onnx"]) == 0

    session = onnxruntime.InferenceSession(network / "model.onnx")
    expected = rowrnn.load(run).logits(images)
    for count in (1, 7, len(images)):
        (logits,) = session.run(["logits"], {"images": images[:count]})
        np.testing.assert_allclose(logits, expected[:count], atol=1e-5)


def test_onnx_is_for_float32(tmp_path, made):
    pytest.importorskip("jax2onnx", reason="jax2onnx is not installed: pip install 'rowrnn[onnx]'")
    rowrnn.train(configs.replace(CONFIG, {"model.dtype": "bfloat16"}), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"model\.dtype = 'bfloat16': model\.onnx needs"):
        rowrnn.export(tmp_path / "run", tmp_path / "network", onnx=True)
    assert not (tmp_path / "network").exists()


def test_onnx_without_what_it_needs_is_told(tmp_path, made, monkeypatch, capsys):
    run, _ = made
    assert cli.run(["export", str(run), "--onnx"]) == 2
    assert "--to DIR" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.run(["export", str(run), "--to", str(tmp_path / "network"), "--onnx"]) == 2
    assert "pip install 'rowrnn[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "network").exists()
