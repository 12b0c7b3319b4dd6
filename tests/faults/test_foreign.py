"""Files of others in a run or sweep directory: everything goes on, and they stay as they are."""

import json
import random
import shutil

import pytest
from in_process import command, last_json

TINY = ["--model.projection-size=0", "--model.hidden-size=8", "--train.batch-size=100",
        "--train.examples=1001", "--train.display=none", "--data.validation-size=100",
        "--optimizer.name=adamw"]  # fmt: skip
NAMES = (".DS_Store", "Thumbs.db", "notes.txt", "._seed=0", "7.txt", "seed-9.json~", "12.tmp")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run and a sweep that are whole, each with all its parts."""
    directory = tmp_path_factory.mktemp("made")
    run = ["train", *TINY, "--checkpoint.every-steps=5", f"--run-dir={directory / 'run'}"]
    assert command(*run)[0] == 0
    sweep = ["sweep", *TINY, "--seeds=0:3", f"--run-dir={directory / 'sweep'}"]
    assert command(*sweep)[0] == 0
    (directory / "sweep" / "partial").mkdir()
    return directory


def litter(top, draw):
    """Puts files, and directories with files, into every directory below; gives what they hold."""
    put = {}
    for directory in [top, *(path for path in top.rglob("*") if path.is_dir())]:
        for name in draw.sample(NAMES, 2):
            path = directory / name
            if draw.random() < 0.3:
                path.mkdir()
                path /= "within.txt"
            path.write_text(f"of {directory}")
            put[path] = path.read_text()
    return put


@pytest.mark.row(18, 1, 40, slow=True)
def test_files_of_others_are_in_nobodys_way(tmp_path, made, count, record):
    """Each directory of a run and of a sweep has two of them, at times a directory; `--resume`,
    eval, predict, report, runs, compare and extract work, and leave them alone."""
    littered = 0
    for seed in range(count):
        draw = random.Random(seed)
        run, sweep = tmp_path / f"run-{seed}", tmp_path / f"sweep-{seed}"
        shutil.copytree(made / "run", run)
        shutil.copytree(made / "sweep", sweep)
        # As they are cut: a checkpoint or a member is missing at the end.
        (run / "result.json").unlink()
        shutil.rmtree(run / "checkpoints" / "10")
        (sweep / "results.json").unlink()
        for file in draw.sample(sorted((sweep / "members").iterdir()), 2):
            file.unlink()
        put = litter(run, draw) | litter(sweep, draw)
        littered += len(put)
        summary = json.loads((made / "sweep" / "results.json").read_text())["summary"]
        for words in (["train", "--resume", run], ["eval", run], ["report", run], ["runs", run],
                      ["sweep", "--resume", sweep], ["report", sweep], ["runs", sweep],
                      ["compare", sweep, sweep], ["eval", sweep, "--rows"],
                      ["export", run, "--to", tmp_path / f"export-{seed}"]):  # fmt: skip
            code, out, err = command(*words, "--json")
            assert code == 0, (seed, words, err)
            assert "damaged" not in err, (seed, words, err)
            if words[0] == "sweep":
                assert last_json(out)["mean"] == summary["mean"]
                assert last_json(out)["members"] == 3
        (kept,) = (path for path in (sweep / "states").iterdir() if "seed=" in path.name[:5])
        to = tmp_path / f"extracted-{seed}"
        assert command("extract", sweep, kept.name, "--to", to)[0] == 0
        # What lies within a state, a checkpoint or a stack in progress goes with it.
        lost = {path for path, text in put.items() if not path.exists()}
        ends = {path.relative_to(tmp_path).parts[1:-1] for path in lost}
        assert all(
            {"partial", "checkpoints"} & {*parts} or parts[:1] == ("states",) for parts in ends
        )
        for place in (run, sweep, sweep / "states", sweep / "members", sweep / "figures",
                      run / "checkpoints"):  # fmt: skip
            gone = {path.name for path in lost if path.parent == place}
            assert not gone, (seed, place, gone)
    record.update(files=littered)
