"""Bad pictures among good ones: a line each, the good ones answered, memory bounded, exit 3."""

import io
import json
import os
import random
import struct
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import in_process
import pytest
from PIL import Image, ImageDraw

import rowrnn

TINY = ["--model.projection-size=0", "--model.hidden-size=8", "--train.batch-size=100",
        "--train.examples=1001", "--data.validation-size=100",
        "--optimizer.name=adamw"]  # fmt: skip
MIB = 2**20


# Not `ru_maxrss`, which a process takes over from the one that started it.
WATCHED = """
import sys
from rowrnn import cli
code = cli.run(sys.argv[1:])
with open("/proc/self/status") as status, open("peak", "w") as peak:
    peak.write(status.read().split("VmHWM:")[1].split()[0])
sys.exit(code)
"""


def command(*arguments, cwd):
    """A process at its end: exit code, stdout, stderr, and the most memory it has held."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(rowrnn.__file__).parents[1])},
        capture_output=True,
        timeout=300,  # For a picture that is waited for.
    )
    peak = int((cwd / "peak").read_text()) * 1024
    return done.returncode, done.stdout.decode(), done.stderr.decode(), peak


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run."""
    path = tmp_path_factory.mktemp("run") / "run"
    code, _, err = in_process.command("train", *TINY, f"--run-dir={path}")
    assert code == 0, err
    return path


def sketch(mode="L", size=(140, 140), **options):
    """A drawn 7 as a file."""
    picture = Image.new("L", size, "white")
    ImageDraw.Draw(picture).line([(45, 25), (100, 25), (60, 112)], fill="black", width=9)
    file = io.BytesIO()
    if mode == "I;16":
        picture = picture.convert("I").point(lambda level: level * 257).convert("I;16")
    elif mode == "RGBA":
        picture = Image.merge("RGBA", [Image.new("L", size, 0)] * 3 + [picture.point(inverse)])
    else:
        picture = picture.convert(mode)
    picture.save(file, "JPEG" if mode in ("CMYK", "YCbCr") else "PNG", **options)
    return file.getvalue()


def inverse(level):
    return 255 - level


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(
        ">I", zlib.crc32(kind + content)
    )  # fmt: skip


def claiming(width, height, depth=8, rows=b""):
    """A sound PNG that claims a size; `rows` are its compressed pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", rows or zlib.compress(bytes(2)))
        + chunk(b"IEND", b"")
    )


def all_of(width, height):
    """Every pixel that the header claims is there, white but for a black square."""
    packer = zlib.compressobj(1)
    white, part = b"\0" + b"\xff" * width, width // 4
    black = white[: 1 + part] + bytes(part) + white[1 + 2 * part :]
    rows = [packer.compress(black if height // 3 < i < height // 2 else white)
            for i in range(height)]  # fmt: skip
    return claiming(width, height, rows=b"".join(rows) + packer.flush())


GOOD = {
    "grey": sketch(),
    "16 bits": sketch("I;16"),
    "alpha": sketch("RGBA"),
    "alpha and grey": sketch("LA"),
    "palette": sketch("P"),
    "black and white": sketch("1"),
    "colours": sketch("RGB"),
    "CMYK": sketch("CMYK"),
    "animated": sketch(save_all=True, append_images=[Image.new("L", (140, 140), "white")]),
    "large": all_of(7_000, 7_000),
}


def damage(content, rng):
    """Some bytes somewhere in it, perhaps in the length or the name of a chunk."""
    content = bytearray(content)
    for _ in range(rng.randrange(1, 4)):
        start = rng.randrange(len(content))
        content[start : start + 4] = rng.randbytes(len(content[start : start + 4]))
    return bytes(content)


def cut(content, rng):
    return content[: rng.randrange(len(content))]


def as_format(name):
    file = io.BytesIO()
    Image.open(io.BytesIO(GOOD["grey"])).convert("RGB").save(file, name)
    return file.getvalue()


# Each gives the content of a file that may be bad, or must be.
MAYBE_BAD = {
    "damaged": lambda rng: damage(rng.choice([GOOD["grey"], GOOD["CMYK"]]), rng),
    "damaged 16 bits": lambda rng: damage(GOOD["16 bits"], rng),
    "damaged animation": lambda rng: damage(GOOD["animated"], rng),
    "damaged palette": lambda rng: damage(GOOD["palette"], rng),
    "truncated JPEG": lambda rng: cut(GOOD["CMYK"], rng),
}
BAD = {
    "empty": lambda rng: b"",
    "random bytes": lambda rng: rng.randbytes(1000),
    "text": lambda rng: b"Dear reader\n" * 50,
    "HTML": lambda rng: b"<html><script>alert(1)</script></html>",
    "truncated PNG": lambda rng: GOOD["grey"][: rng.randrange(len(GOOD["grey"]) - 16)],
    "header alone": lambda rng: GOOD["grey"][:33],
    "0 by 0": lambda rng: claiming(0, 0),
    "0 rows": lambda rng: claiming(28, 0),
    "20,000 by 20,000": lambda rng: claiming(20_000, 20_000),
    "20,000 by 20,000, 16 bits": lambda rng: claiming(20_000, 20_000, depth=16),
    "2 billion by 1": lambda rng: claiming(2**31 - 1, 1),
    "4 billion by 4 billion": lambda rng: claiming(2**32 - 1, 2**32 - 1),
    "more pixels than there are": lambda rng: claiming(7_000, 9_000),
    "blank": lambda rng: as_blank(),
    "GIF": lambda rng: as_format("GIF"),
    "BMP": lambda rng: as_format("BMP"),
    "TIFF": lambda rng: as_format("TIFF"),
    "EPS, which is a program": lambda rng: as_format("EPS"),
    "half an IDX file": lambda rng: bytes([0, 0, 8, 3, 0, 0, 1, 0, 0, 0, 0, 28, 0, 0, 0, 28]),
    "IDX of another shape": lambda rng: bytes([0, 0, 8, 3, *[0, 0, 0, 2] * 3]) + bytes(8),
    "IDX that claims terabytes": lambda rng: bytes([0, 0, 8, 3, *[255] * 12]) + bytes(99),
}


def as_blank():
    file = io.BytesIO()
    Image.new("L", (50, 50), "white").save(file, "PNG")
    return file.getvalue()


def not_files(directory):
    """What is no file: its kind and its path."""
    (directory / "directory.png").mkdir()
    os.mkfifo(directory / "pipe.png")
    os.mkfifo(directory / "pipe.gz")
    (directory / "loop.png").symlink_to("loop.png")
    (directory / "zero.png").symlink_to("/dev/zero")
    (directory / "zero.gz").symlink_to("/dev/zero")
    for kind in ("missing", "directory", "pipe", "loop", "zero"):
        yield kind, f"{kind}.png"
    for kind in ("missing", "pipe", "zero"):
        yield f"{kind}, packed", f"{kind}.gz"
    yield "long name", "x" * 300 + ".png"


# The name of a file, told on a terminal or in a line of its own, must do nothing.
STRANGE = [b"\x1b[2J\x1b[31mred.png", b"a\nrowrnn: all is well\n.png", b"caf\xe9.png",
           b"[red]red[bold].png", "\u202egnp.png".encode(), b" .png", b"\r.png",
           b"\x9b31m.png"]  # fmt: skip


def pictures(directory, count, rng):
    """So many bad files, as (name, kind, whether it must be refused)."""
    found = [(name, kind, True) for kind, name in not_files(directory)]
    for i, name in enumerate(STRANGE):
        content = list(BAD.values())[i](rng)
        (directory / os.fsdecode(name)).write_bytes(content)
        found.append((os.fsdecode(name), "strange name", True))
    makers = [(kind, make, True) for kind, make in BAD.items()]
    makers += [(kind, make, False) for kind, make in MAYBE_BAD.items()]
    i = 0
    while len(found) < count:
        kind, make, must = makers[i % len(makers)]
        suffix = rng.choice([".png", ".jpg", ".txt", ""])  # Names do not count.
        name = f"{i}-{kind.replace(' ', '-')}{suffix}"
        (directory / name).write_bytes(make(rng))
        found.append((name, kind, must))
        i += 1
    return found


@pytest.mark.row(10, 50, 100, slow=True)
def test_bad_pictures_have_a_line_each_and_good_ones_an_answer(run, tmp_path, count, record):
    """One process for all, good pictures between the bad: a line each, exit 3, memory bounded."""
    seed = 10
    rng = random.Random(seed)
    bad = pictures(tmp_path, count, rng)
    good = []
    for kind, content in GOOD.items():
        name = f"good-{kind.replace(' ', '-')}.png"
        (tmp_path / name).write_bytes(content)
        good.append((name, kind, None))
    (tmp_path / "good-name-\x1b[31m.png").write_bytes(GOOD["grey"])
    good.append(("good-name-\x1b[31m.png", "escapes", None))
    *_, without = command("predict", str(run), good[0][0], cwd=tmp_path)
    given = bad + good
    rng.shuffle(given)
    code, out, err, peak = command(
        "predict", str(run), "--json", "--", *(name for name, _, _ in given), cwd=tmp_path
    )
    assert code == 3, err
    *answers, last = out.splitlines()
    assert all(c.isprintable() or c == "\n" for c in out + err)
    answered = [prediction["path"] for prediction in json.loads(last)]
    assert len(answers) == len(answered)
    maybe = {name for name, _, must in given if must is False}
    # In the order given, every good one and no bad one among them.
    expected = [name for name, _, must in given if must is None or name in answered]
    assert answered == expected, f"seed {seed}"
    assert not set(answered) & {name for name, _, must in given if must}
    lines = err.splitlines()
    assert len(lines) == len(given) - len(answered), f"seed {seed}: {err}"
    refused = [name for name, _, _ in given if name not in answered]
    for line, name in zip(lines, refused, strict=True):
        assert line.startswith("rowrnn: "), f"seed {seed}: {line}"
        if name.isprintable():
            assert f"{name}: " in line, f"seed {seed}: {line}"
    assert peak < without + 300 * MIB
    record["kinds"] = dict(Counter(kind for _, kind, _ in bad))
    record["read in spite of damage"] = len(maybe & set(answered))
    record["MiB with one picture, with all"] = [round(without / MIB), round(peak / MIB)]
