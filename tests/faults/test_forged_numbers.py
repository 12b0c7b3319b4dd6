"""Numbers that no run can have, in every file that is read: damage, told by name, no traceback."""

import hashlib
import json
import re
import shutil
import warnings

import pytest
from forged import forge_facts

import rowrnn
from rowrnn import cli
from rowrnn.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.lab.sweep import SweepSettings

CONFIG = Config(
    ModelConfig(0, 8),
    DataConfig("mnist_sample", validation_size=100),
    OptimizerConfig("adamw"),
    TrainConfig(batch_size=100, examples=501, log_every_steps=5, display="none"),
)
# As JSON has them: what no count, time, share or loss can be.
NEVER = ["-1099511627776", "1e400", "-Infinity", "NaN", "1" + 40 * "0", "1" + 400 * "0", "true"]
DAMAGED = re.compile(
    r"is damaged|is not the result|is not a result|does not say|no network that|cannot be read|"
    r"not a whole"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, a sweep, an export and a record of `rowrnn bench`, all intact."""
    directory = tmp_path_factory.mktemp("made")
    rowrnn.train(CONFIG, directory / "run")
    settings = SweepSettings("map", 1, "all")
    rowrnn.sweep(CONFIG, (0, 1), settings=settings, run_dir=directory / "sweep")
    assert cli.run(["export", str(directory / "run"), "--to", str(directory / "export")]) == 0
    entry = {"name": "step", "case": {}, "unit": "s", "samples": [1.0, 1.1, 1.2]}
    document = {"format": 1, "suite": "lstm", "settings": {}, "wrong": [], "figures": [entry]}
    (directory / "export" / "record.json").write_text(json.dumps(document))
    return directory


def put(document, place, number):
    """A document as JSON, with a number in one place, spelt as it is given."""
    document = json.loads(json.dumps(document))
    part = document
    for key in place[:-1]:
        part = part[key]
    assert isinstance(part[place[-1]], int | float | None), place
    part[place[-1]] = "the number"
    return json.dumps(document).replace('"the number"', number)


def forge(file, place, number):
    """Puts a number into a file, with the SHA-256 that belongs to what it then says."""
    if file.is_dir():
        forge_facts(file, lambda text: put(json.loads(text), place, number))
        return
    document = json.loads(file.read_text())
    if file.parent.name == "members":
        text = put(json.loads(document["record"]), place, number)
        document = {"record": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
        file.write_text(json.dumps(document))
    else:
        file.write_text(put(document, place, number))


RESULT = ["seed", "steps", "examples", "epochs", "train_loss", "validation_accuracy", "params",
          "test_accuracy", "test_loss", "first256_accuracy", "devices", "compile_s", "train_s",
          "examples_per_s", "wall_s"]  # fmt: skip
PROGRESS = [("step",), ("train_s",), ("wall_s",), ("diverged", 0),
            ("curves", 0, "train_loss", 0, 0), ("curves", 0, "train_loss", 0, 1)]  # fmt: skip
RECORD = ["seed", "steps", "train_loss", "validation_accuracy", "test_accuracy", "test_loss",
          "first256_accuracy", "wall_s"]  # fmt: skip
# The directories of checkpoints.
FACTS = ["run/checkpoints/*", "sweep/states/*/checkpoints/*"]
STATE = "sweep/states/seed=0"

# Files, the place of a number in them, and the commands that read it.
CASES = [
    *(("run/result.json", (name,), ["train --resume=run"]) for name in RESULT),
    *(("run/result.json", (name,), ["runs run", "report run"])
      for name in ("test_accuracy", "wall_s", "examples_per_s")),
    *((FACTS[0], ("progress", *place), ["train --resume=run"]) for place in PROGRESS),
    *((FACTS[0], place, ["predict run picture.png"])
      for place in [("steps",), ("classes",), ("shape", 0), ("members",),
                    ("validation_accuracy",)]),
    (FACTS[0], ("steps",), ["eval run", "report run"]),
    (FACTS[1], ("shape", 1), [f"eval {STATE}"]),
    *(("sweep/members/*", (name,), ["report sweep"]) for name in RECORD),
    ("sweep/members/*", ("curve", "train_loss", 0, 0), ["report sweep", "sweep --resume=sweep"]),
    ("sweep/members/*", ("curve", "train_loss", 0, 1), ["report sweep"]),
    ("sweep/sweep.json", ("seeds", 1), ["runs sweep", "report sweep", "sweep --resume=sweep"]),
    ("sweep/sweep.json", ("settings", "chunk"), ["sweep --resume=sweep"]),
    *(("sweep/results.json", ("summary", name), ["runs sweep"])
      for name in ("members", "completed", "mean", "wall_s", "examples_per_s")),
    ("sweep/results.json", ("summary", "groups", 0, "mean"), ["runs sweep"]),
    ("sweep/results.json", ("summary", "groups", 0, "interval", 0), ["runs sweep"]),
    ("sweep/results.json", ("members", 0, "test_accuracy"), ["compare sweep sweep"]),
    ("sweep/results.json", ("members", 0, "seed"), ["compare sweep sweep"]),
    *(("export/config.json", ("rowrnn", *place), ["predict export picture.png"])
      for place in [("step",), ("classes",), ("shape", 0)]),
    ("export/record.json", ("figures", 0, "samples", 1),
     ["bench compare export/record.json export/record.json", "report export/record.json"]),
]  # fmt: skip
COMMANDS = [(pattern, place, command) for pattern, place, several in CASES for command in several]


def run_quietly(command, capsys):
    """The exit code and all that a command says."""
    capsys.readouterr()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        code = cli.run(command.split())
    out, err = capsys.readouterr()
    return code, " ".join([out, err, *(str(warning.message) for warning in told)])


@pytest.mark.parametrize(
    ("pattern", "place", "command", "number"),
    # Each number in turn; those that read little take three, the others one.
    [
        ("run/result.json", ("train_s",), "train --resume=run", "0"),
        (FACTS[0], ("progress", "train_s"), "train --resume=run", "0"),
    ]
    + [
        (*case, NEVER[(k + 2 * again) % len(NEVER)])
        for k, case in enumerate(COMMANDS)
        for again in range(3 if case[2].split()[0] in ("runs", "predict", "compare") else 1)
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_a_number_that_cannot_be_is_damage(
    made, tmp_path, monkeypatch, capsys, pattern, place, command, number
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.logging, "disable", lambda: None)
    top = pattern.split("/")[0]
    shutil.copytree(made / top, tmp_path / top)
    if "checkpoints" in pattern:
        (tmp_path / "run" / "result.json").unlink(missing_ok=True)
    for file in tmp_path.glob(pattern):
        forge(file, place, number)
    code, said = run_quietly(command, capsys)
    about = f"{number}: {code}, {said[:2000]}"
    assert DAMAGED.search(said), about
    # A report names the file of a record that is damaged, and no more.
    named = any(f"{name} = " in said for name in place)
    assert named or (command, pattern) == ("report sweep", "sweep/members/*"), about
    assert code in (0, 2, 4), about


@pytest.mark.parametrize("number", NEVER)
def test_a_line_of_the_log_with_such_a_step_is_passed_over(made, tmp_path, number):
    shutil.copytree(made / "run", tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as log:
        log.write(f'{{"step": {number}, "diverged": 1.0}}\n')
    (found,) = rowrnn.runs(tmp_path)
    assert (found.state, found.step) == ("stopped", 5)
