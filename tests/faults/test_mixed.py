"""A sweep or run that goes on under another jax, or on another processor, says so everywhere."""

import hashlib
import json
import random

import pytest
from in_process import command, last_json
from stopping import stop_at

import rowrnn
from rowrnn.store import rundir

TINY = ["--model.projection-size=0", "--model.hidden-size=8", "--train.batch-size=100",
        "--train.examples=1001", "--train.display=none", "--data.validation-size=100",
        "--optimizer.name=adamw"]  # fmt: skip


def elsewhere(machine, draw):
    """Another machine: one of jax, jaxlib and the processor is another."""
    parts = machine.split(", ", 2)
    place = draw.randrange(3)
    parts[place] = ["jax 0.9.1", "jaxlib 0.9.2", "Another Processor"][place]
    return ", ".join(parts)


def rewrite_record(file, change):
    record = json.loads(json.loads(file.read_text())["record"])
    text = json.dumps(change(record))
    digest = hashlib.sha256(text.encode()).hexdigest()
    file.write_text(json.dumps({"record": text, "sha256": digest}))


@pytest.mark.row(16, 1, 20)
def test_a_sweep_that_goes_on_elsewhere_names_the_mixture(tmp_path, count, record):
    """Records say what they were made with; a resume under another jax, jaxlib or processor runs
    what is missing and nothing else, says so in one line, and so do results, compare, report."""
    out = tmp_path / "first"
    assert command("sweep", *TINY, "--seeds=0:2", f"--run-dir={out}")[0] == 0
    (here,) = json.loads((out / "results.json").read_text())["summary"]["machines"]
    environment = json.loads((out / "environment.json").read_text())
    assert here.startswith(f"jax {environment['versions']['jax']}, jaxlib ")
    assert environment["processor"] in here
    files = {file: file.read_text() for file in sorted((out / "members").iterdir())}
    for seed in range(count):
        other = elsewhere(here, random.Random(seed))
        for file, text in files.items():
            file.write_text(text)
            rewrite_record(file, lambda found, other=other: found | {"machine": other})
        for file in set((out / "members").iterdir()) - files.keys():
            file.unlink()
        (out / "environment.json").write_text(json.dumps(environment | {"machines": [other]}))
        code, said, told = command("sweep", "--resume", out, "--seeds=0:3", "--json")
        assert code == 0, told
        summary = last_json(said)
        assert summary["reused"] == 2
        assert summary["machines"] == sorted([here, other])
        lines = [line for line in told.splitlines() if "was begun on" in line]
        assert lines == [
            f"rowrnn: warning: machine {here}: {out} was begun on {other}; it goes on, and its "
            "last digits may differ from those of a run on one machine"
        ]
        assert "trained on 2 kinds of machine" in told
        code, said, told = command("compare", out, out, "--json")
        assert last_json(said)["machines"] == sorted([here, other])
        assert f"{min(here, other)}; {max(here, other)}" in told
        assert other in command("report", out)[1]


def test_a_member_that_goes_on_elsewhere_is_of_both(tmp_path, monkeypatch):
    out, other = tmp_path / "sweep", "jax 0.9.1, jaxlib 0.9.2, Another Processor"
    with monkeypatch.context() as patched:
        patched.setattr(rundir, "machine_of", lambda _: other)
        stop_at(patched, 3)
        assert command("sweep", *TINY, "--seeds=0:1", f"--run-dir={out}")[0] == 75
    code, said, told = command("sweep", "--resume", out, "--json")
    assert code == 0, told
    machines = last_json(said)["machines"]
    assert len(machines) == 2
    assert other in machines
    (kept,) = (out / "states").iterdir()
    assert sorted(json.loads((kept / "environment.json").read_text())["machines"]) == machines


def test_a_run_that_goes_on_elsewhere_names_the_mixture(tmp_path):
    path = tmp_path / "run"
    assert command("train", *TINY, f"--run-dir={path}")[0] == 0
    (path / "result.json").unlink()
    environment = json.loads((path / "environment.json").read_text())
    (here,) = environment["machines"]
    other = here.replace("jax 0", "jax 9")
    (path / "environment.json").write_text(json.dumps(environment | {"machines": [other]}))
    with pytest.warns(UserWarning, match="^machine .* was begun on .*; it goes on"):
        result = rowrnn.train(resume=path)
    assert result.machines == [other, here]
    assert json.loads((path / "result.json").read_text())["machines"] == [other, here]
    assert other in command("report", path)[1]
