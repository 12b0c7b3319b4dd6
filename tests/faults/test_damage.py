"""Row 2: checkpoints that are not what was saved."""

import os
import random
import shutil
import warnings
from collections import Counter

import pytest
from in_process import steps_in
from saved_states import FACTS, abstract, create

from rowrnn.errors import DamagedError, RunError
from rowrnn.store import checkpoint
from rowrnn.store.checkpoint import CheckpointWriter

STEPS = (1, 2, 3)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """A directory of three checkpoints and the bytes of their arrays."""
    directory = tmp_path_factory.mktemp("intact") / "checkpoints"
    writer = CheckpointWriter(directory, 10)
    contents = {}
    for step in STEPS:
        state = create(step, step)
        writer.save(state, FACTS | {"progress": {"says": f"the state of step {step}"}})
        contents[step] = bytes_of(state)
    writer.close()
    return directory, contents


def bytes_of(state):
    return {name: array.tobytes() for name, array in checkpoint.to_arrays(state).items()}


def files_of(step_directory):
    return sorted(path for path in step_directory.rglob("*") if path.is_file())


def damage(directory, step, kind, draw):
    """Changes one checkpoint; every byte of it is as likely to be hit as any other."""
    files = files_of(directory / str(step))
    file = draw.choices(files, [path.stat().st_size for path in files])[0]
    content = file.read_bytes()
    at = draw.randrange(len(content))
    if kind == "flip":
        changed = bytearray(content)
        changed[at] ^= 1 << draw.randrange(8)
        file.write_bytes(changed)
    elif kind == "truncate":
        os.truncate(file, at)
    elif kind == "empty":
        os.truncate(file, 0)
    elif kind == "delete":
        file.unlink()
    elif kind == "swap a file":
        other = directory / str(draw.choice([s for s in STEPS if s != step]))
        file.write_bytes((other / file.relative_to(directory / str(step))).read_bytes())
    else:
        other = draw.choice([s for s in STEPS if s != step])
        (directory / str(step)).rename(directory / "aside")
        (directory / str(other)).rename(directory / str(step))
        (directory / "aside").rename(directory / str(other))
        return {step, other}
    return {step}


def restore(directory):
    """What is restored, or the error that says why nothing is."""
    try:
        return checkpoint.restore(directory, abstract), None
    except RunError as error:
        return None, error


KINDS = ("flip", "flip", "truncate", "empty", "delete", "swap a file", "swap the steps")


@pytest.mark.row(2, 20, 1000)
def test_damage_is_never_restored_silently(tmp_path, intact, count, record):
    """Flips, truncation, empty, deleted and swapped files: the newest intact step is used."""
    directory, contents = intact
    outcomes, harmless = Counter(), Counter()
    for number in range(count):
        draw = random.Random(f"{count} {number}")
        work = tmp_path / "work"
        shutil.copytree(directory, work)
        # Mostly the newest, sometimes the newest two, or all.
        depth = draw.choices([1, 2, 3], [8, 2, 1])[0]
        damaged, kind = set(), draw.choice(KINDS)
        for step in sorted(STEPS, reverse=True)[:depth]:
            if step not in damaged:
                damaged |= damage(work, step, kind, draw)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            restored, problem = restore(work)
        said = "\n".join(str(warning.message) for warning in caught)
        if restored is None:
            assert damaged == set(STEPS), (number, kind)
            assert problem.exit_code == 4
            assert "no intact checkpoint is left" in str(problem)
            outcomes["none intact, said so"] += 1
            named = set(STEPS)
        else:
            step = int(restored[0].step[0])
            assert bytes_of(restored[0]) == contents[step], (number, kind, step)
            assert step >= max(set(STEPS) - damaged, default=1), (number, kind, step)
            # A hit where nothing is said about the state, such as a time of day, does no harm.
            (harmless if step in damaged else outcomes)[kind] += 1
            named = {other for other in STEPS if other > step}
        for step in named:
            assert f"{os.sep}{step} is damaged" in said, (number, kind, step, said)
        shutil.rmtree(work)
    record |= {"an older step was used": dict(outcomes), "harmless": dict(harmless)}


NOTES = ["[" * 100_000, '{"a":' * 100_000, "[1]", "3", '{"metrics": [1]}', "", "{", "{}", "\0",
         '{"init_timestamp_nsecs": "x"}', '{"init_timestamp_nsecs": 1' + "0" * 5_000 + "}",
         '{"validation_accuracy": "x"}', '{"metrics": {"validation_accuracy": NaN}}',
         ]  # fmt: skip


@pytest.mark.parametrize("place", range(len(NOTES)))
def test_what_orbax_notes_is_named_where_it_is_damaged(tmp_path, place):
    """It is read where a run goes on; a checkpoint is whole without it, the best one too."""
    work, notes = tmp_path / "work", tmp_path / "work" / "1" / "_CHECKPOINT_METADATA"

    def go_on(*steps):
        writer = CheckpointWriter(work, 1)
        for step in steps:
            accuracy = 0.9 if step == 1 else 0.5
            writer.save(create(step, step), FACTS | {"validation_accuracy": accuracy})
        writer.close()

    go_on(1, 2)
    notes.write_text(NOTES[place])
    # As earlier versions had it.
    (work / "1" / "metrics").mkdir(exist_ok=True)
    (work / "1" / "metrics" / "metrics").write_text(NOTES[place])
    try:
        go_on(3)
    except DamagedError as error:
        said = str(error)
        notes.unlink()
        shutil.rmtree(work / "1" / "metrics")
    else:
        said = ""
    if said:
        assert said.startswith(f"{work}: Orbax cannot read what it noted of a checkpoint there (")
        assert "remove _CHECKPOINT_METADATA and metrics from each" in said
    go_on(4, 5)
    assert steps_in(work) == [1, 5]
    assert checkpoint.restore(work, abstract, "best") is not None
