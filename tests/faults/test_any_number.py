"""Any number in any file of a run or sweep: no traceback, and no JSON that is none."""

import hashlib
import json
import random
import shutil

import pytest
from forged import forge_facts
from in_process import command

TINY = ["--model.projection-size=0", "--model.hidden-size=8", "--train.batch-size=100",
        "--train.examples=1001", "--train.display=none", "--data.validation-size=100",
        "--train.log-every-steps=5", "--optimizer.name=adamw"]  # fmt: skip
NUMBERS = ["0", "-1280", "1" + 400 * "0", str(2**70), "NaN", "Infinity", "-Infinity", "1e308",
           "1e-320", "1.5", "-0.0", "true"]  # fmt: skip
FILES = ["run/result.json", "run/metrics.jsonl", "run/environment.json", "run/checkpoints/10",
         "sweep/results.json", "sweep/sweep.json", "sweep/environment.json", "sweep/metrics.jsonl",
         "sweep/members/*", "run/lock.json"]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("made")
    assert command("train", *TINY, f"--run-dir={directory / 'run'}")[0] == 0
    assert command("sweep", *TINY, "--seeds=0:2", f"--run-dir={directory / 'sweep'}")[0] == 0
    held = {"host": "elsewhere", "pid": 1, "since": "2026-01-01"}
    (directory / "run" / "lock.json").write_text(json.dumps(held))
    return directory


def numbers_in(value, place=()):
    """Where a JSON document has numbers, or null in their place."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return [found for key, part in parts for found in numbers_in(part, (*place, key))]
    return [] if isinstance(value, str | bool) else [place]


def put(document, draw):
    """A document as JSON with another number in one of its places, and that place."""
    place = draw.choice(numbers_in(document))
    part = document
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = "the number"
    number = draw.choice(NUMBERS)
    return json.dumps(document).replace('"the number"', number), (*place, number)


def forge(file, draw):
    """Puts a number into a file, with the digest that then belongs to it; gives where."""
    where = []

    def change(text):
        forged, place = put(json.loads(text), draw)
        where.append(place)
        return forged

    if file.is_dir():
        forge_facts(file, change)
    elif file.suffix == ".jsonl":
        lines = file.read_text().splitlines()
        index = draw.randrange(len(lines))
        lines[index] = change(lines[index])
        file.write_text("\n".join(lines) + "\n")
    elif file.parent.name == "members":
        text = change(json.loads(file.read_text())["record"])
        digest = hashlib.sha256(text.encode()).hexdigest()
        file.write_text(json.dumps({"record": text, "sha256": digest}))
    else:
        file.write_text(change(file.read_text()))
    return where[0]


def lines_of(kind, draw):
    """What reads a directory: the list of all, and one command more."""
    others = {
        "run": [["report", "run"], ["train", "--resume=run"], ["eval", "run"]],
        "sweep": [["report", "sweep"], ["sweep", "--resume=sweep"], ["compare", "sweep", "sweep"]],
    }[kind]
    return [["runs", "."], draw.choice(others)]


@pytest.mark.row(20, 12, 400, slow=True)
def test_any_number_in_any_file_is_told_or_harmless(tmp_path, made, monkeypatch, count, record):
    """0, -1280, 10^400, 2^70, NaN, Infinity, 1e308 and others in the files of a run or sweep: every
    command ends as it may, without a traceback, what it prints is JSON, and `runs` lists all."""
    monkeypatch.chdir(tmp_path)
    told = 0
    for seed in range(count):
        draw = random.Random(seed)
        for name in ("run", "sweep"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
            shutil.copytree(made / name, tmp_path / name)
        pattern = FILES[seed % len(FILES)]
        file = sorted(tmp_path.glob(pattern))[0]
        if pattern == "run/checkpoints/10":
            (tmp_path / "run" / "result.json").unlink()
        about = [seed, pattern, forge(file, draw)]
        for words in lines_of(pattern.split("/")[0], draw):
            code, out, err = command(*words, "--json")
            assert code in (0, 1, 2, 4, 6), (about, words, err)
            last = json.loads(out.splitlines()[-1], parse_constant=pytest.fail)
            assert len(max(out.splitlines() + err.splitlines(), key=len)) < 100_000
            assert 70 * "0" not in out + err, (about, words)
            told += bool(code)
            if words[0] == "runs":
                assert len(last) == 2, (about, last)
    record.update(refused=told)
