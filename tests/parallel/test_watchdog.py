"""Who is lost, who hangs and who has left, as the processes of a job see each other."""

import dataclasses
import json
import os
import queue
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import pytest

from rowrnn.parallel import watchdog
from rowrnn.parallel.watchdog import Status, Watchdog


class Shelf:
    """A store of this process alone; as that of jax, it overwrites where told to."""

    def __init__(self):
        self.texts = {}

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self.texts
        self.texts[key] = value

    def key_value_dir_get(self, key):
        return [(name, text) for name, text in list(self.texts.items()) if name.startswith(key)]

    def status(self, index):
        return Status(**json.loads(self.texts[f"rowrnn/watch/{index}"]))


def alone(count=2, index=0, stall_s=60.0):
    """A watchdog that is only shown what others would have published."""
    return Watchdog(Shelf(), index, count, stall_s, pytest.fail)


def status(index, tick=0, beat=0, busy=False, **values):
    return Status(f"node{index}", 100 + index, tick, beat, busy, f"rowrnn.f{index}", **values)


def look(dog, *each, elapsed_s=0.5):
    return dog.look(dict(enumerate(each)), elapsed_s)


def test_one_without_a_sign_of_life_for_14_looks_is_lost_and_no_sooner():
    dog = alone()
    for tick in range(14):
        assert look(dog, status(0, tick), status(1, 5)) is None
    problem = look(dog, status(0, 14), status(1, 5))
    assert problem == "process 1 (pid 101 on node1) was lost: no sign of life for 7 s"


def test_a_sign_of_life_begins_the_14_looks_again():
    dog = alone(stall_s=1e6)
    for tick in range(100):
        assert look(dog, status(0, tick), status(1, tick // 14)) is None


def test_nobody_accuses_itself():
    dog = alone(index=1, stall_s=1e6)
    assert all(look(dog, status(0, tick), status(1, 5)) is None for tick in range(100))


def test_one_that_was_paused_itself_accuses_nobody():
    dog = alone()
    for tick in range(14):
        assert look(dog, status(0, tick), status(1, 5), elapsed_s=3600.0) is None
    assert look(dog, status(0, 14), status(1, 6), elapsed_s=3600.0) is None


@pytest.mark.parametrize("code", [1, 2, 3, 4, 7, 130])
def test_one_that_left_alone_is_named_with_code_and_reason_after_6_looks(code):
    dog = alone(count=3)
    gone = status(1, left=code, reason="no such file")
    for tick in range(5):
        assert look(dog, status(0, tick, tick), gone, status(2, tick, tick)) is None
    problem = look(dog, status(0, 5, 5), gone, status(2, 5, 5))
    expected = f"process 1 (pid 101 on node1) left with exit code {code}: no such file"
    assert problem == expected


@pytest.mark.parametrize("code", [0, 5, 75])
def test_one_that_left_for_a_reason_that_all_have_is_not_missed(code):
    dog = alone()
    # One that is done waits for the others, and is heard of.
    for tick in range(200):
        assert (
            look(dog, status(0, tick, tick), status(1, tick if code == 0 else 5, left=code)) is None
        )


def test_one_that_was_done_and_dies_while_it_waits_is_lost():
    dog = alone()
    for tick in range(14):
        assert look(dog, status(0, tick, tick), status(1, 5, left=0)) is None
    problem = look(dog, status(0, 14, 14), status(1, 5, left=0))
    assert problem == "process 1 (pid 101 on node1) was lost: no sign of life for 7 s"


@pytest.mark.parametrize("code", [0, 5, 75])
def test_one_that_left_hides_no_hang_and_does_not_hang(code):
    dog = alone(stall_s=3.0)
    gone = status(1, busy=True, left=code)
    for tick in range(6):
        assert look(dog, status(0, tick, 5), gone) is None
    problem = look(dog, status(0, 6, 5), gone)
    assert problem == "no progress for 3 s: process 0 (pid 100 on node0) hangs in rowrnn.f0"


def test_where_all_have_left_looking_goes_on():
    dog = alone(stall_s=3.0)
    for _ in range(20):
        assert look(dog, status(0, left=75), status(1, left=75)) is None


def test_without_a_beat_for_the_stall_seconds_the_job_hangs_and_no_sooner():
    dog = alone(stall_s=3.0)
    for tick in range(6):
        assert look(dog, status(0, tick, 7), status(1, tick, 6)) is None
    # Another beat, and all of it begins again.
    for tick in range(6, 12):
        assert look(dog, status(0, tick, 7), status(1, tick, 7)) is None
    assert look(dog, status(0, 12, 7), status(1, 12, 7)).startswith("no progress for 3 s: ")


@pytest.mark.parametrize("busy", [0, 1])
def test_nobody_hangs_while_one_is_busy(busy):
    dog = alone(stall_s=3.0)
    for tick in range(100):
        both = (status(index, tick, 7, busy=index == busy) for index in range(2))
        assert look(dog, *both) is None
    for tick in range(100, 105):
        assert look(dog, status(0, tick, 7), status(1, tick, 7)) is None
    assert look(dog, status(0, 105, 7), status(1, 105, 7)).startswith("no progress")


def test_nobody_hangs_until_all_are_there():
    dog = alone(count=3, stall_s=3.0)
    for tick in range(13):
        assert look(dog, status(0, tick, 7), status(1, tick, 7)) is None
    # One that has joined has something to say.
    problem = look(dog, status(0, 13, 7), status(1, 13, 7))
    assert problem == "process 2 was lost: no sign of life for 7 s"


@pytest.mark.parametrize(
    ("beats", "waits", "silent", "named"),
    [
        # The silent one, whatever the others do.
        ((5, 6, 6), (False, False, True), {2}, {2}),
        # The least beat, of those that do not wait.
        ((6, 5, 6), (True, True, False), {}, {1}),
        ((5, 5, 6), (True, False, False), {}, {1}),
        ((5, 5, 5), (False, True, False), {}, {0, 2}),
        # All wait: the least beat.
        ((6, 5, 5), (False, True, True), {}, {1, 2}),
    ],
)
def test_of_a_job_that_hangs_those_that_the_others_wait_for_are_named(beats, waits, silent, named):
    dog = alone(count=3, stall_s=3.0)
    problem = None
    for tick in range(7):
        ticks = (0 if index in silent else tick for index in range(3))
        each = zip(range(3), ticks, beats, waits, strict=True)
        problem = look(dog, *(status(i, tick, beat, waits=w) for i, tick, beat, w in each))
    words = [f"process {i} (pid {100 + i} on node{i}) hangs in rowrnn.f{i}" for i in sorted(named)]
    assert problem == f"no progress for 3 s: {', '.join(words)}"


def test_a_long_pause_between_looks_counts_for_4_intervals():
    dog = alone(stall_s=60.0)
    look(dog, status(0), status(1))
    for tick in range(1, 30):
        assert look(dog, status(0, tick), status(1, tick), elapsed_s=3600.0) is None
    assert look(dog, status(0, 30), status(1, 30), elapsed_s=3600.0).startswith("no progress")


def test_who_leaves_lets_the_others_know_at_once():
    shelf = Shelf()
    Watchdog(shelf, 3, 4, 60.0, pytest.fail).leave(4, "x" * 3_000)
    assert list(shelf.texts) == ["rowrnn/watch/3"]
    found = shelf.status(3)
    assert (found.left, found.reason) == (4, "x" * 2_000)
    assert (found.pid, found.host) == (os.getpid(), socket.gethostname())


def test_one_that_beats_is_not_busy_any_more():
    dog = alone()
    # Until its first beat it starts and compiles.
    assert dog.set_busy(False)
    assert not dog.set_busy(True)
    dog.beat()
    assert not dog.set_busy(True)


def sleep_as(monkeypatch, dog, ticks):
    """Whoever sleeps sees one more tick of process 1 each time; returns what was slept."""
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        look(dog, status(0), status(1, next(ticks)))

    monkeypatch.setattr(watchdog.time, "sleep", sleep)
    return slept


def test_signs_of_life_are_those_that_come_after_the_question(monkeypatch):
    dog = alone()
    look(dog, status(0), status(1, 3))
    slept = sleep_as(monkeypatch, dog, iter([3, 4, 4, 5]))
    dog.wait_for_signs_of_life(60.0)
    assert slept == [0.5] * 4


def test_without_signs_of_life_the_wait_ends(monkeypatch):
    dog = alone()
    look(dog, status(0), status(1, 3))
    slept = sleep_as(monkeypatch, dog, iter([3] * 100))
    dog.wait_for_signs_of_life(12.0)
    assert sum(slept) == 12.0


def test_of_one_that_has_left_no_sign_of_life_is_awaited():
    dog = alone()
    look(dog, status(0), status(1, left=0))
    began = time.monotonic()
    dog.wait_for_signs_of_life(2.0)
    assert time.monotonic() - began < 1.0


def ask_until(expected):
    """Asks where the main thread is, until the answer will do; gives the last one."""
    end = time.monotonic() + 5
    while (found := watchdog._main_thread_is()) != expected and time.monotonic() < end:
        time.sleep(0.001)
    return found


def test_the_place_is_the_function_that_the_main_thread_is_in():
    def innermost(pool, expected):
        # Below it there is the standard library alone, in which the main thread waits.
        return pool.submit(ask_until, expected).result()

    with ThreadPoolExecutor(1) as pool:
        expected = (f"{__name__}.innermost", False, False)
        assert innermost(pool, expected) == expected


def test_in_jax_the_place_is_who_has_called_it_and_it_waits():
    answered = threading.Event()
    here = f"{__name__}.test_in_jax_the_place_is_who_has_called_it_and_it_waits"
    expected = (here, True, False)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask_until, expected)
        answer.add_done_callback(lambda _: answered.set())
        # A computation that ends when the question is answered.
        slow = jax.pure_callback(answered.wait, jax.ShapeDtypeStruct((), bool))
        assert jax.block_until_ready(slow)
        assert answer.result() == expected


def test_the_compiler_of_jax_is_recognised():
    here = f"{__name__}.test_the_compiler_of_jax_is_recognised"

    def long(x):
        for power in range(200):
            x = jnp.sin(x) + power
        return x

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask_until, (here, True, True))
        jax.jit(long).lower(1.0).compile()
        assert answer.result() == (here, True, True)


def test_nobody_hangs_while_one_compiles():
    dog = alone(stall_s=3.0)
    for tick in range(100):
        compiling = dataclasses.replace(status(1, tick, 7), compiles=True)
        assert look(dog, status(0, tick, 7), compiling) is None


@pytest.fixture
def job(monkeypatch):
    """Starts watchdogs, of one store, that look every 30 ms; stops them at the end."""
    monkeypatch.setattr(watchdog, "INTERVAL_S", 0.03)
    started = []

    def start(*stores, stall_s=60.0):
        for index, store in enumerate(stores):
            given_up = queue.Queue()
            dog = Watchdog(store, index, len(stores), stall_s, given_up.put)
            dog.start()
            started.append((dog, given_up))
        return started

    yield start
    for dog, _ in started:
        dog.stop()


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def name_of(index):
    return f"process {index} (pid {os.getpid()} on {socket.gethostname()})"


def test_one_that_stops_without_a_word_is_missed_by_the_other(job):
    shelf = Shelf()
    (first, of_first), (second, of_second) = job(shelf, shelf)
    began = time.monotonic()
    wait_until(lambda: len(first._last) == len(second._last) == 2)
    # Returns, since both are alive.
    first.wait_for_signs_of_life(60.0)
    assert time.monotonic() - began < 30
    assert of_first.empty()
    wait_until(lambda: shelf.status(0).waits)
    assert not shelf.status(1).waits
    second.stop()
    assert not second._thread.is_alive()
    assert of_first.get(timeout=20).startswith(f"{name_of(1)} was lost: no sign of life for ")
    # Said once, and the one that has stopped says nothing.
    first._thread.join(20)
    assert not first._thread.is_alive()
    assert of_first.empty()
    assert of_second.empty()


def test_one_that_hangs_is_named_with_the_place(job):
    shelf = Shelf()
    (first, of_first), (second, of_second) = job(shelf, shelf, stall_s=0.15)
    for dog in (first, second, second):
        dog.beat()
    wait_until(lambda: not (of_first.empty() and of_second.empty()))
    # Whoever was sooner.
    problem = (of_second if of_first.empty() else of_first).get()
    here = f"{__name__}.wait_until"
    assert problem == f"no progress for 0.15 s: {name_of(0)} hangs in {here}"


@pytest.mark.parametrize("method", ["key_value_set", "key_value_dir_get"])
def test_without_a_store_a_process_gives_up(job, method):
    def fail(*_, **__):
        raise ConnectionError

    shelf = Shelf()
    setattr(shelf, method, fail)
    ((_, given_up),) = job(shelf)
    problem = given_up.get(timeout=20)
    assert problem == "the coordinator of the job does not answer (ConnectionError)"


def test_one_that_has_been_stopped_does_not_give_up(job):
    asked, gone = threading.Event(), threading.Event()

    def fail(*_, **__):
        asked.set()
        gone.wait(20)
        raise ConnectionError

    shelf = Shelf()
    shelf.key_value_dir_get = fail
    ((dog, given_up),) = job(shelf)
    assert asked.wait(20)
    stopping = threading.Thread(target=dog.stop)
    stopping.start()
    assert dog._ended.wait(20)
    # It waits for the look that has begun.
    assert stopping.is_alive()
    gone.set()
    stopping.join(20)
    assert not dog._thread.is_alive()
    assert given_up.empty()
