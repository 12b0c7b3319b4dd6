"""What comes with rowrnn by name: configs and suites. `.ci/run` tries the wheel."""

import subprocess
import sys
from pathlib import Path

import pytest

from rowrnn import bench, config
from rowrnn.bench import suites
from rowrnn.cli import run
from rowrnn.errors import ConfigError

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path.stem for path in ROOT.glob("experiments/*.toml") if "bench_" not in path.stem)
SUITES = sorted(path.stem for path in ROOT.glob("experiments/bench_*.toml"))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_has_a_name(tmp_path, monkeypatch, name):
    expected = config.load(ROOT / "experiments" / f"{name}.toml")
    monkeypatch.chdir(tmp_path)
    assert config.load(name) == expected


def test_a_file_of_ones_own_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text("[train]\nseed = 7\n")
    assert config.load("quickstart").train.seed == 7


def test_a_name_that_is_nearly_one_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"No such file .* did you mean quickstart"):
        config.load("experiments/quickstart.toml")
    with pytest.raises(ConfigError, match="rowrnn train --list"):
        config.load("mine.toml")
    with pytest.raises(ConfigError, match="did you mean lstm_small"):
        bench.run("lstm_smal")


def test_a_suite_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = suites.load(str(ROOT / "experiments" / "bench_lstm_small.toml"))
    assert suites.load("lstm_small") == expected != suites.load("lstm")


@pytest.mark.parametrize(
    ("command", "names"), [("train", CONFIGS), ("bench", [s.partition("_")[2] for s in SUITES])]
)
def test_list_shows_each_in_a_line_of_a_narrow_terminal(capsys, command, names):
    assert run([command, "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == names
    assert all(len(line) <= 80 and line.endswith(".") for line in lines)


def test_version_and_list_need_no_metadata(tmp_path):
    # What a checkout is on a path that Python was told of.
    package = tmp_path / "rowrnn"
    package.symlink_to(ROOT / "rowrnn")
    tool = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import importlib.metadata as m;"
    tool += "m.version = None; from rowrnn.cli import run; run(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", tool, "--version"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "rowrnn 0.1.0\n", done.stderr
