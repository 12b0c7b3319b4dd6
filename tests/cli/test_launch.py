"""The launcher, with small scripts for processes, real signals and real pipes. Jobs: tests/jobs."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from rowrnn import cli
from rowrnn.cli import launch
from rowrnn.errors import ConfigError

# What a process of rowrnn does on signals: the first saves and stops, a second SIGINT leaves.
STOPPING = """
import os, signal, sys, time
came = []
def note(number, _):
    came.append(number)
    print(signal.Signals(number).name, flush=True)
    if came == [signal.SIGINT] * 2:
        os._exit(130)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, note)
print("ready", flush=True)
for _ in range(2000):
    time.sleep(0.01)
    if came and sys.argv[1:] != ["slow"]:
        sys.exit(75)
"""
LAUNCHER = """
import json, sys
from rowrnn.cli.launch import launch
sys.exit(launch(json.loads(sys.argv[1])))
"""
SLEEP = "import time; time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


def python(*scripts):
    return [[sys.executable, "-S", "-c", script] for script in scripts]


@pytest.fixture
def run(capfd):
    """Runs scripts as a job; gives the exit code, stdout and stderr."""

    def run(*scripts, grace_s=20.0):
        code = launch.launch(python(*scripts), grace_s)
        return code, *capfd.readouterr()

    return run


def is_alive(pid):
    """Whether a process runs; a zombie that nobody waits for does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def here(directory):
    """A line of a script that leaves its pid in a directory."""
    return f"import os; open({str(directory)!r} + f'/{{os.getpid()}}', 'w').close()\n"


def until(directory, count):
    """Lines of a script that wait for so many to be there."""
    return f"""
import os, time
deadline = time.monotonic() + 10
while len(os.listdir({str(directory)!r})) < {count}:
    assert time.monotonic() < deadline
    time.sleep(0.01)
"""


def are_gone(directory, count):
    """Whether so many have been there, and end in a moment."""
    pids, deadline = [int(path.name) for path in directory.iterdir()], time.monotonic() + 2
    assert len(pids) == count
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(map(is_alive, pids))


def test_the_worst_code():
    order = [0, 75, 7, 1, 2, 3, 4, 5, 6, 9, 130]
    for better, worse in itertools.combinations(order, 2):
        assert (
            launch.worst(better, [better, worse]) == launch.worst(worse, [worse, better]) == worse
        )
    assert launch.worst(75, [75, -signal.SIGABRT]) == 7
    assert launch.worst(-signal.SIGKILL, [-signal.SIGKILL, 4]) == 7
    assert launch.worst(4, [4, -signal.SIGABRT]) == 4


@pytest.mark.parametrize(
    ("codes", "expected"), [((0, 0), 0), ((0, 75), 75), ((7, 3, 7), 3), ((130, 5), 130)]
)
def test_a_job_ends_with_the_worst_code(run, codes, expected):
    assert run(*(f"import os; os._exit({code})" for code in codes)) == (expected, "", "")


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGKILL, "9 (Killed)"), (signal.SIGABRT, "6 (Aborted)")]
)
def test_one_that_a_signal_has_ended_counts_as_lost(run, number, name):
    script = f"""
import os, resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.kill(os.getpid(), {number})
"""
    assert run("pass", script) == (7, "", f"rowrnn: process 1 was ended by signal {name}\n")


def test_stdout_of_process_0_is_as_it_is_and_all_else_has_its_number(capfdbinary):
    script = r"""
import os
os.write(1, b"one\n\n\xff\x1b[0m two\ncut")
os.write(2, b"to stderr\n\n\xfe\ncut")
"""
    assert launch.launch(python(script, script)) == 0
    out, err = capfdbinary.readouterr()
    assert out == b"one\n\n\xff\x1b[0m two\ncut"
    lines = [b"to stderr", b"", b"\xfe", b"cut"]
    expected = [b"[0] " + line for line in lines] + [b"[1] " + line for line in lines]
    expected += [b"[1] " + line for line in (b"one", b"", b"\xff\x1b[0m two", b"cut")]
    assert sorted(err.removesuffix(b"\n").split(b"\n")) == sorted(expected)


def test_lines_that_are_written_in_pieces_come_whole(run):
    script = """
import os
for _ in range(50):
    for stream in (1, 2):
        for _ in range(10):
            os.write(stream, b"%d " % os.getpid() * 50)
        os.write(stream, b"\\n")
"""
    code, out, err = run(*[script] * 3)
    assert code == 0
    lines = out.splitlines() + [line[4:] for line in err.splitlines()]
    assert len(lines) == 300
    assert len(set(lines)) == 3


def test_much_output_without_a_reader_stops_nobody():
    script = "import os\nfor _ in range(100): os.write(1, b'x' * 9999 + b'\\n')"
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, json.dumps(python(script, "pass"))],
        stdout=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.wait(timeout=20) == 0


def test_each_process_knows_its_launcher_and_has_a_gpu_of_its_own(run, monkeypatch):
    script = """
import os
print(*(os.environ[name] for name in
        ("ROWRNN_LAUNCHER", "PYTHONUNBUFFERED", "JAX_LOCAL_DEVICE_IDS")), os.getppid())
"""
    monkeypatch.delenv("JAX_LOCAL_DEVICE_IDS", raising=False)
    own = os.getpid()
    _, out, err = run(script, script)
    assert (out, err) == (f"{own} 1 0 {own}\n", f"[1] {own} 1 1 {own}\n")
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "5")
    _, out, err = run(script, script)
    assert (out, err) == (f"{own} 1 5 {own}\n", f"[1] {own} 1 5 {own}\n")


@contextlib.contextmanager
def launched(*arguments):
    """A launcher of two processes that answer signals, when they are ready for them."""
    commands = [[*command, *arguments] for command in python(STOPPING, STOPPING)]
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, json.dumps(commands)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    try:
        assert two_lines(process) == ["[1] ready", "ready"]
        yield process
    finally:
        process.kill()
        process.communicate()


def two_lines(process):
    return sorted(process.stdout.readline().strip() for _ in range(2))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on(number):
    with launched() as process:
        process.send_signal(number)
        assert two_lines(process) == [number.name, f"[1] {number.name}"]
        assert process.wait(timeout=10) == 75


def test_ctrl_c_reaches_each_once_and_a_second_time():
    with launched("slow") as process:
        os.killpg(process.pid, signal.SIGINT)  # As a terminal does it.
        assert two_lines(process) == ["SIGINT", "[1] SIGINT"]
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        # A third line each would stand before the end.
        assert process.communicate(timeout=10)[0].split() in (
            ["SIGINT", "[1]", "SIGINT"],
            ["[1]", "SIGINT", "SIGINT"],
        )
        assert process.returncode == 130


def test_when_one_fails_the_others_may_end_by_themselves(run):
    script = "import time; time.sleep(0.5); print('done')"
    assert run("raise SystemExit(3)", script) == (3, "", "[1] done\n")


def test_when_one_fails_the_others_are_ended_after_a_while(run, tmp_path):
    fail = until(tmp_path, 1) + "print(time.time()); raise SystemExit(75)"
    code, out, err = run(fail, here(tmp_path) + SLEEP, grace_s=0.5)
    assert (code, err) == (7, "rowrnn: process 1 was ended by signal 15 (Terminated)\n")
    assert 0.5 < time.time() - float(out) < 4
    assert are_gone(tmp_path, 1)


@pytest.mark.parametrize(
    "deaf", [DEAF, "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)\n"]
)
def test_one_that_does_not_answer_is_killed(run, monkeypatch, tmp_path, deaf):
    monkeypatch.setattr(launch, "_TERM_S", 0.3)
    fail = until(tmp_path, 1) + "raise SystemExit(3)"
    code, _, err = run(fail, here(tmp_path) + deaf + SLEEP, grace_s=0.1)
    assert (code, err) == (3, "rowrnn: process 1 was ended by signal 9 (Killed)\n")
    assert are_gone(tmp_path, 1)


def started(helper, **options):
    """Lines of a script that start another process."""
    return f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-S", "-c", {helper!r}], **{options})
"""


def test_what_processes_have_started_does_not_outlive_the_job(run, tmp_path):
    child = started(DEAF + here(tmp_path) + SLEEP)
    assert run(child, child + until(tmp_path, 2)) == (0, "", "")
    assert are_gone(tmp_path, 2)


def test_a_stranger_that_holds_stdout_open_does_not_hold_up_the_launcher(
    run, monkeypatch, tmp_path
):
    monkeypatch.setattr(launch, "_LINES_S", 0.3)
    began = time.monotonic()
    stranger = started(here(tmp_path) + SLEEP, start_new_session=True)
    code, out, _ = run(stranger + until(tmp_path, 1) + "print('whole')", "")
    (pid,) = (int(path.name) for path in tmp_path.iterdir())
    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)
    assert (code, out) == (0, "whole\n")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_whatever_happens_to_the_launcher_nobody_is_left(run, monkeypatch, tmp_path, error):
    def fail(*_):
        while len(list(tmp_path.iterdir())) < 4:
            time.sleep(0.01)
        raise error

    monkeypatch.setattr(launch, "_supervise", fail)
    with pytest.raises(error):
        run(*[DEAF + started(DEAF + here(tmp_path) + SLEEP) + here(tmp_path) + SLEEP] * 2)
    assert are_gone(tmp_path, 4)


def test_one_that_cannot_be_started_ends_all(monkeypatch):
    began = []
    start = launch._start
    monkeypatch.setattr(launch, "_start", lambda *given: began.append(start(*given)) or began[-1])
    with pytest.raises(ConfigError, match=r"process 1 .*could not be started \(No such file"):
        launch.launch([*python(SLEEP), ["/nowhere/at-all"]])
    assert [process.returncode for process in began] == [-signal.SIGKILL]


def test_handlers_are_as_they_were(run):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run("pass")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_commands_of_a_job(monkeypatch):
    given = []
    monkeypatch.setattr(launch, "launch", lambda commands: given.extend(commands) or 5)
    line = ["launch", "-n", "3", "--", "train", "a.toml", "--train.seed", "3", "--", "b"]
    assert cli.run(line) == 5
    address = given[0][given[0].index("--parallel.coordinator") + 1]
    assert address.startswith("127.0.0.1:")
    own = ["--parallel.coordinator", address, "--parallel.processes", "3", "--parallel.process"]
    assert given == [
        [sys.executable, "-P", "-m", "rowrnn", "train", *own, str(k), *line[5:]] for k in range(3)
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "launch needs a command after a --, such as in: rowrnn launch -n 4 -- train"),
        (
            "-n 2 train",
            "launch needs a command after a --, such as in: rowrnn launch -n 4 -- train",
        ),
        ("-n 2 --", "launch -- has no command after it"),
        ("-n 2 -- bench lstm", "launch -- 'bench': only train, sweep and eval run in several"),
        ("-n 2 -- trian", "did you mean train?"),
        ("-n 0 -- train", "launch -n 0: must be an integer from 1 to 1,024"),
        ("--processes 1025 -- train", "launch -n 1025: must be an integer from 1 to 1,024"),
        ("-n 2 --jsn -- train", "launch has no option --jsn"),
        ("-n 2 -- train --parallel.coordinator a:1", "'--parallel.coordinator': launch gives each"),
        ("-n 2 -- sweep --parallel.processes=3", "'--parallel.processes=3': launch gives each"),
        ("-n 2 -- eval x --parallel_process 3", "'--parallel_process': launch gives each process"),
    ],
)
def test_errors_of_the_command_line(capsys, line, expected):
    assert cli.run(["launch", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rowrnn: ")
    assert expected in err


@pytest.mark.parametrize("line", ["-n two -- train", "-n -- train", "-- train", "-n 2.5 -- train"])
def test_a_number_of_processes_that_is_none(capsys, line):
    assert cli.run(["launch", *line.split()]) == 2
    assert "--processes" in capsys.readouterr().err


def test_the_command_starts_rowrnn(tmp_path):
    """As far as it comes without jax: to a config that is not there."""
    process = subprocess.run(
        [sys.executable, "-m", "rowrnn.cli", "launch", "-n", "2", "--", "train", "nowhere.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stdout) == (2, "")
    for index, line in enumerate(sorted(process.stderr.splitlines())):
        assert line.startswith(f"[{index}] rowrnn: config nowhere.toml")
