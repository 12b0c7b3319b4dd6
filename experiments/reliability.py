"""Every fault at its full count, and a table of what was seen.

    python experiments/reliability.py [--fresh]

Shows: what happens to runs that are killed, damaged, starved or lied to. Runs the tests of
`tests/faults` that are marked `soak`, two at a time (one to two hours on two cores), and writes
`experiments/results/reliability.md`, where a fault that was not run keeps its line. What has passed
is kept in `runs/reliability`, so that it goes on where it was cut; `--fresh` begins again.
Last result: see the table.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "runs" / "reliability"
TABLE = ROOT / "experiments" / "results" / "reliability.md"

_MOST_ENTRIES = 10
_ROWS = 20

_HEAD = """\
# Reliability

What `python experiments/reliability.py` saw when it last ran every fault at its full count. A test
stands here only when it has passed: each of its faults ended as promised. Machine: {machine};
Python {python}, jax {jax}, orbax-checkpoint {orbax}. Seconds are those of a machine that was busy
with the tests themselves. Row 7, the log of a run that is killed, is counted in row 1.{missing}

| row | promise | count | seen | minutes | date, commit |
|---|---|---|---|---|---|
"""


def main():
    """Runs what is missing, and writes the table of what is there."""
    parser = argparse.ArgumentParser(description="Every fault at its full count.")
    parser.add_argument("--fresh", action="store_true", help="forget what has passed before")
    if parser.parse_args().fresh:
        shutil.rmtree(RECORDS, ignore_errors=True)
    command = [sys.executable, "-m", "pytest", "-m", "soak", "tests/faults", "-k", "full", "-q"]
    passed = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"ROWRNN_FAULTS": str(RECORDS)}
    ).returncode
    TABLE.write_text(table(), encoding="utf-8")
    sys.exit(passed)


def table():
    """The records as Markdown, by row; of a fault without one the line of an earlier run."""
    lines = {promise(line): line for line in TABLE.read_text(encoding="utf-8").splitlines(True)}
    lines = {key: line for key, line in lines.items() if key[0].isdecimal()}
    for path in RECORDS.glob("*.json"):
        new = line(json.loads(path.read_text()))
        lines[promise(new)] = new
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {platform.system()}"
    head = _HEAD.format(
        machine=machine,
        python=platform.python_version(),
        jax=version("jax"),
        orbax=version("orbax-checkpoint"),
        missing=missing({int(row) for row, _ in lines}),
    )
    return head + "".join(lines[key] for key in sorted(lines, key=lambda key: (int(key[0]), key)))


def promise(line):
    """What a line of the table is about: its row and its promise."""
    row, text = [*line.split("|"), "", "", ""][1:3]
    return row.strip(), text.strip()


def missing(rows):
    """Which of the faults have no line; kills are those of the log (7) too."""
    rows |= {7} if 1 in rows else set()
    left = [str(row) for row in range(1, _ROWS + 1) if row not in rows]
    return f" Not run at the full count yet: rows {', '.join(left)}." if left else ""


def line(record):
    """One test, and the phase that it is about."""
    phase = record["test"].partition("-")[2]
    where = f" Here: {phase}." if phase else ""
    seen = "; ".join(f"{name}: {words(value)}" for name, value in record["seen"].items())
    cells = (
        str(record["row"]),
        " ".join(record["what"].split()) + where,
        str(record["count"]),
        seen,
        str(record["minutes"]),
        f"{record['date']}, {record['commit'][:9]}",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def words(value):
    """A value of a record; a dictionary as a list of its entries, or how many if they are many."""
    if isinstance(value, dict) and len(value) > _MOST_ENTRIES:
        return f"{len(value)} kinds"
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items())
    return str(value)


if __name__ == "__main__":
    main()
