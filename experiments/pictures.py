"""How well `rowrnn predict` reads digits that were photographed, drawn over or cut.

    rowrnn data prepare mnist
    rowrnn train lstm128 --run-dir runs/digits
    python experiments/pictures.py runs/digits DIR [--count 60] [--seed 2] [--keep DIR]

Shows: how many of `--count` pictures of each kind are read right, and how many of the others carry
a warning. Each picture is made of a test image of MNIST, whose original files are in DIR, with a
size, place, angle and strength of its own. Writes `experiments/results/pictures.json`; `--keep`
keeps the pictures. The thresholds of rowrnn/data/pictures.py were chosen with seed 1.
Last result: see that file.
"""

import argparse
import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

import rowrnn

RESULT = Path(__file__).parent / "results" / "pictures.json"
DIGIT = 400  # Pixels a side of a drawn test image.


def main():
    """Makes the pictures, asks the network, and writes what it said."""
    parser = argparse.ArgumentParser(description="Pictures of many kinds, read by a run.")
    parser.add_argument("run")
    parser.add_argument("mnist", type=Path, help="directory of MNIST's original files")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    given = parser.parse_args()
    images = unpack(given.mnist / "t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = unpack(given.mnist / "t10k-labels-idx1-ubyte.gz", 8)
    with tempfile.TemporaryDirectory() as directory:
        table = {}
        for kind in given.kinds:
            table[kind] = measure(given, given.keep or Path(directory), kind, images, labels)
            print(f"{kind:12s}", *(f"{name} {value:3d}" for name, value in table[kind].items()))
    if given.kinds == list(KINDS):
        RESULT.write_text(
            json.dumps({"count": given.count, "seed": given.seed, "kinds": table}, indent=1) + "\n"
        )


def unpack(path, offset):
    """The bytes of an IDX file after its header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=offset)


def measure(given, directory, kind, images, labels):
    """What the network says of pictures of a kind."""
    directory.mkdir(exist_ok=True)
    random = np.random.default_rng([given.seed, list(KINDS).index(kind)])
    wanted = np.flatnonzero(labels == 1) if kind == "tight 1" else np.arange(len(labels))
    paths = {}
    for i in random.choice(wanted, given.count, replace=False):
        path = directory / f"{kind}-{i}_{labels[i]}.{random.choice(['png', 'png', 'jpg'])}"
        picture = KINDS[kind](drawn(images[i], random), random)
        if picture.mode == "RGBA":
            path = path.with_suffix(".png")
        picture.save(path, quality=int(random.integers(75, 95)))
        paths[str(path)] = labels[i]
    predictions, problems = rowrnn.predict(given.run, list(paths))
    right = {p.path for p in predictions if p.label == paths[p.path]}
    warned = {p.path for p in predictions if getattr(p, "warning", None)}
    answered = {p.path for p in predictions}
    return {
        "right": len(right),
        "right with a warning": len(right & warned),
        "wrong with a warning": len(warned - right),
        "wrong in silence": len(answered - right - warned),
        "refused": len(problems),
    }


def drawn(image, random):
    """A test image as strokes of a pen, how much ink lies where, [H, W] of 0 to 1, cut to it."""
    large = Image.fromarray(image).resize((DIGIT, DIGIT), Image.Resampling.BICUBIC)
    ink = np.asarray(large.filter(ImageFilter.GaussianBlur(4)), float)
    ink = np.clip((ink - 70) / random.uniform(40, 120), 0, 1)
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def placed(ink, random, least=0.15, most=0.55):
    """The ink somewhere on a sheet of some size, its height a share of the sheet's side."""
    width, height = (int(side) for side in random.integers(300, 900, 2))
    side = random.uniform(least, most) * min(width, height)
    scale = side / max(ink.shape)
    size = [max(2, round(scale * length)) for length in ink.shape[::-1]]
    small = Image.fromarray((255 * ink).astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)
    sheet = Image.new("L", (width, height))
    edge = 0.12 * min(width, height)
    place = [
        int(random.uniform(edge, whole - part - edge))
        for whole, part in zip(sheet.size, size, strict=True)
    ]
    sheet.paste(small, place)
    return np.asarray(sheet, float) / 255


def box_of(ink):
    """Left, top, right and bottom of the ink."""
    rows, columns = np.flatnonzero((ink > 0.2).any(1)), np.flatnonzero((ink > 0.2).any(0))
    return columns[0], rows[0], columns[-1], rows[-1]


def levels(ink, random, paper=None):
    """Grey levels of dark ink on light paper, with a slope and no noise yet."""
    rows, columns = np.ogrid[-1 : 1 : ink.shape[0] * 1j, -1 : 1 : ink.shape[1] * 1j]
    slope = random.uniform(-12, 12) * rows + random.uniform(-12, 12) * columns
    paper = random.uniform(190, 245) if paper is None else paper
    return (paper + slope) * (1 - random.uniform(0.5, 0.9) * ink)


def finished(grey, random):
    """A picture of grey levels [H, W] or colours [H, W, 3], with noise."""
    noise = random.normal(0, random.uniform(0, 4), grey.shape[:2])
    grey = grey + (noise if grey.ndim == 2 else noise[..., None])
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def plain(ink, random):
    """A sheet, of which one in three is light on dark."""
    grey = levels(placed(ink, random), random)
    return finished(255 - grey if random.random() < 1 / 3 else grey, random)


def shadow(ink, random):
    """The edge of a shadow, at any angle, hard or soft, near the digit."""
    ink = placed(ink, random)
    left, top, right, bottom = box_of(ink)
    rows, columns = np.ogrid[: ink.shape[0], : ink.shape[1]]
    angle = random.uniform(0, 2 * np.pi)
    x, y = random.uniform(left - 60, right + 60), random.uniform(top - 60, bottom + 60)
    beyond = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
    share = np.clip(beyond / random.uniform(1, 12) + 0.5, 0, 1)
    return finished(levels(ink, random) * (1 - random.uniform(0.25, 0.6) * share), random)


def table(ink, random):
    """A sheet on a dark table, seen on all sides or on some, perhaps a little turned."""
    sheet = finished(levels(placed(ink, random), random), random)
    margins = random.uniform(0.02, 0.3, 4) * min(sheet.size) * (random.random(4) < 0.85)
    left, top, right, bottom = (int(margin) for margin in margins)
    size = (sheet.width + left + right, sheet.height + top + bottom)
    turned = random.uniform(-6, 6) if random.random() < 0.5 else 0
    mask = Image.new("L", sheet.size, 255)
    canvas, place = Image.new("L", size), Image.new("L", size)
    canvas.paste(sheet, (left, top))
    place.paste(mask, (left, top))
    canvas, place = (p.rotate(turned, Image.Resampling.BICUBIC) for p in (canvas, place))
    dark = random.uniform(20, 110) + random.normal(0, random.uniform(0, 6), size[::-1])
    share = np.asarray(place, float) / 255
    grey = np.asarray(canvas, float) * share + dark * (1 - share)
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def hole(ink, random):
    """One to three punched holes along the left or the right."""
    ink = placed(ink, random)
    grey = levels(ink, random)
    radius = random.uniform(0.02, 0.05) * min(ink.shape)
    mask = Image.new("L", ink.shape[::-1])
    count = int(random.integers(1, 4))
    for place in random.choice([0.12, 0.3, 0.5, 0.7, 0.88], count, replace=False):
        x, y = 1.6 * radius, place * ink.shape[0]
        ImageDraw.Draw(mask).ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
    mask = np.asarray(mask.filter(ImageFilter.GaussianBlur(1)), float) / 255
    if random.random() < 0.5:
        mask = np.flip(mask, 1)
    return finished(grey * (1 - mask) + random.uniform(10, 110) * mask, random)


def box(ink, random):
    """A box drawn around it, with lines thinner or thicker than its strokes, perhaps turned."""
    ink = placed(ink, random, most=0.45)
    left, top, right, bottom = box_of(ink)
    gap = random.uniform(0.15, 0.6, 4) * (bottom - top)
    frame = Image.new("L", ink.shape[::-1])
    corners = [left - gap[0], top - gap[1], right + gap[2], bottom + gap[3]]
    limits = [2, 2, ink.shape[1] - 3, ink.shape[0] - 3]
    corners[:2] = np.maximum(corners[:2], limits[:2])
    corners[2:] = np.minimum(corners[2:], limits[2:])
    ImageDraw.Draw(frame).rectangle(corners, outline=255, width=int(random.integers(1, 8)))
    if random.random() < 0.5:
        middle = ((left + right) / 2, (top + bottom) / 2)
        frame = frame.rotate(random.uniform(-4, 4), Image.Resampling.BICUBIC, center=middle)
    return finished(levels(np.maximum(ink, np.asarray(frame) / 255), random), random)


def vignette(ink, random):
    """Paper that gets darker to the corners."""
    ink = placed(ink, random)
    rows, columns = np.ogrid[-1 : 1 : ink.shape[0] * 1j, -1 : 1 : ink.shape[1] * 1j]
    away = (rows - random.uniform(-0.2, 0.2)) ** 2 + (columns - random.uniform(-0.2, 0.2)) ** 2
    fall = random.uniform(0.3, 0.75) * (away / 2) ** random.uniform(0.7, 1.5)
    return finished(levels(ink, random) * (1 - fall.clip(0, 0.85)), random)


def hue(ink, random):
    """Ink and paper of one brightness and another hue."""
    weights = np.array([299, 587, 114]) / 1000
    ink = placed(ink, random)[..., None]
    while True:
        paper, pen = random.uniform(0, 255, (2, 3))
        pen *= (weights @ paper) / (weights @ pen)
        if pen.max() <= 255 and np.abs(pen - paper).max() > 60:
            break
    return finished(paper * (1 - ink) + pen * ink, random)


def transparent(ink, random):
    """Ink almost as white as paper, on transparency."""
    alpha = placed(ink, random)
    pixels = np.full((*alpha.shape, 4), int(random.integers(248, 256)), np.uint8)
    pixels[..., 3] = (255 * alpha).astype(np.uint8)
    return Image.fromarray(pixels, "RGBA")


def tight(ink, random):
    """Cut to the box of the digit."""
    scale = random.uniform(0.15, 1.5)
    size = [max(3, round(scale * side)) for side in ink.shape[::-1]]
    small = Image.fromarray((255 * ink).astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)
    grey = levels(np.asarray(small, float) / 255, random)
    return finished(255 - grey if random.random() < 1 / 3 else grey, random)


def cut(ink, random):
    """A sheet whose digit runs out at a side."""
    ink = placed(ink, random)
    left, top, right, bottom = box_of(ink)
    share = random.uniform(0.05, 0.3)
    side = int(random.integers(4))
    columns, rows = int(share * (right - left)), int(share * (bottom - top))
    ink = [
        ink[:, left + columns :],
        ink[top + rows :],
        ink[:, : right - columns],
        ink[: bottom - rows],
    ][side]
    return finished(levels(ink, random), random)


def two(ink, random):
    """Two digits; the second is the first, mirrored."""
    gap = np.zeros((ink.shape[0], int(random.uniform(0.3, 0.9) * ink.shape[0])))
    return finished(levels(placed(np.hstack([ink, gap, ink[:, ::-1]]), random), random), random)


def ruled(ink, random):
    """Ruled paper, with lines fainter than the ink."""
    ink = placed(ink, random)
    grey = levels(ink, random)
    apart = random.uniform(0.3, 0.8) * (box_of(ink)[3] - box_of(ink)[1])
    lines = np.arange(random.uniform(0, apart), len(ink), apart).astype(int)
    for row in lines:
        grey[row : row + int(random.integers(1, 4))] *= random.uniform(0.6, 0.9)
    return finished(grey, random)


KINDS = {
    "plain": plain,
    "shadow": shadow,
    "table": table,
    "hole": hole,
    "box": box,
    "vignette": vignette,
    "hue": hue,
    "transparent": transparent,
    "tight": tight,
    "tight 1": tight,
    "cut": cut,
    "two": two,
    "ruled": ruled,
}

if __name__ == "__main__":
    main()
