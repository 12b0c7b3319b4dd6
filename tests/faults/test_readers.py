"""Whole checkpoints are never called damaged, whatever is in the way of who reads them."""

import contextlib
import os
import threading
import warnings

import pytest
from saved_states import FACTS, abstract, create

from rowrnn.errors import RunError
from rowrnn.store import checkpoint
from rowrnn.store.checkpoint import CheckpointWriter


@pytest.mark.row(17, 20, 500)
def test_a_reader_beside_a_run_that_saves_and_prunes_finds_a_whole_state(tmp_path, count, record):
    """While another saves as fast as it can and keeps a single checkpoint (or two), each reader
    gets a whole state; nothing is called damaged, and nothing is renamed."""
    stop, saved = threading.Event(), 0

    def save():
        nonlocal saved
        writer = CheckpointWriter(tmp_path, 1 + count % 2)
        while not stop.is_set():
            saved += 1
            writer.save(create(step=saved), FACTS | {"validation_accuracy": saved / 1e6})
        writer.close()

    thread = threading.Thread(target=save)
    thread.start()
    try:
        seen = set()
        while checkpoint.newest_facts(tmp_path) is None:
            pass
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            number = 0
            while number < count or len(seen) < count / 10:
                number += 1
                assert thread.is_alive()
                which = ("last", "best")[number % 2]
                state, _ = checkpoint.restore(tmp_path, abstract, which)
                seen.add(int(state.step[0]))
                assert checkpoint.newest_facts(tmp_path) is not None
    finally:
        stop.set()
        thread.join()
    assert not (tmp_path.parent / "damaged").exists()
    record.update(states_seen=len(seen), saves=saved)


@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/proc/self/fd"), reason="no /proc")
def test_what_the_system_refuses_is_named_as_that(tmp_path):
    """A process that may open no more files; the run itself is whole."""
    import resource

    writer = CheckpointWriter(tmp_path / "checkpoints", 2)
    writer.save(create(step=1), FACTS)
    writer.close()
    checkpoint.restore(tmp_path / "checkpoints", abstract)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = max(map(int, os.listdir("/proc/self/fd")))
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        with pytest.raises(RunError, match=r"cannot be read: Too many open files"):
            checkpoint.restore(tmp_path / "checkpoints", abstract)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)
    assert checkpoint.restore(tmp_path / "checkpoints", abstract) is not None


def test_a_checkpoint_without_its_file_is_damaged_all_the_same(tmp_path):
    writer = CheckpointWriter(tmp_path, 2)
    for step in (1, 2):
        writer.save(create(step=step), FACTS)
    writer.close()
    (tmp_path / "2" / "state" / "arrays.safetensors").unlink()
    with pytest.warns(UserWarning, match="2 is damaged: arrays.safetensors is missing; trying"):
        state, _ = checkpoint.restore(tmp_path, abstract)
    assert int(state.step[0]) == 1
