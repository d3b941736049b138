"""Damage images and csv files at random and open each dataset: a counted bad file, or one MtlError.

    python tests/fuzz/images_and_csvs.py --number 500 --seed 0
    python tests/fuzz/images_and_csvs.py --seed 0 --only 17      one case, with its message

Each case checks the dataset as `mtl data check` does, and opens it as a run does. The counts are
printed. The exit code is 1 if anything else than an MtlError was raised, a message was empty, a
case took a minute, or it took 3 GiB.
"""

from __future__ import annotations

import io
import random
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
from damage import arguments, run
from PIL import Image

from mtlcore import load_experiment
from mtlcore.cli import main as mtl
from mtlcore.data.check import check_data
from mtlcore.data.dataset import open_data

FOLDERS = """
[task.kind]
name = "classification"
reads = "label"
[data.own]
name = "image_folder"
root = "{root}"
max_bad = {max_bad}
[input]
size = 16
[train]
steps = 1
"""
TABLE = """
[task.emotion]
name = "classification"
[task.age]
name = "regression"
[data.own]
name = "csv"
file = "{root}/people.csv"
max_bad = {max_bad}
{more}
[input]
size = 16
[train]
steps = 1
"""
MORE = ["", "", 'split = "split"', 'group = "person"', 'numeric = ["age"]', 'path = "emotion"',
        'categorical = ["age"]', 'columns = {age = ["age", "age"]}']  # fmt: skip

Make = Callable[[random.Random], bytes]


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(rng: random.Random, mode: str = "RGB", side: int = 24) -> Image.Image:
    """Return an image of noise."""
    pixels = np.frombuffer(rng.randbytes(side * (side + 8) * 3), np.uint8)
    image = Image.fromarray(pixels.reshape(side, side + 8, 3))
    return image if mode == "RGB" else image.convert(mode)


def turned(rng: random.Random) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = rng.choice([*range(10), 255, 65535])
    return saved(photo(rng), "JPEG", exif=exif)


def broken_exif(rng: random.Random) -> bytes:
    data = bytearray(turned(rng))
    for _ in range(5):
        data[rng.randrange(20, 60)] = rng.randrange(256)
    return bytes(data)


def sixteen_bits(rng: random.Random) -> bytes:
    pixels = np.frombuffer(rng.randbytes(24 * 24 * 2), np.uint16).reshape(24, 24)
    return saved(Image.fromarray(pixels), rng.choice(["PNG", "TIFF"]))


def png_bomb(rng: random.Random) -> bytes:
    """Return a PNG whose header promises far more pixels than it has."""
    width, height = (rng.choice([1, 30_000, 60_000, 2**31 - 1, 0]) for _ in range(2))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10**6))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def jpeg_bomb(rng: random.Random) -> bytes:
    """Return a JPEG whose frame header promises 65,535 x 65,535 pixels."""
    data = saved(photo(rng), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", 65535, rng.choice([1, 65535, 0])) + data[at + 4 :]


def cut(rng: random.Random) -> bytes:
    data = saved(photo(rng), rng.choice(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]))
    return data[: rng.randrange(len(data))]


def flipped(rng: random.Random) -> bytes:
    data = bytearray(saved(photo(rng), rng.choice(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])))
    for _ in range(rng.choice([1, 3, 20])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def animated(rng: random.Random) -> bytes:
    return saved(photo(rng), "GIF", save_all=True, append_images=[photo(rng), photo(rng)])


IMAGES: dict[str, Make] = {
    "good": lambda rng: saved(photo(rng), "JPEG"),
    "gray": lambda rng: saved(photo(rng, "L"), rng.choice(["JPEG", "PNG"])),
    "one bit": lambda rng: saved(photo(rng, "1"), "PNG"),
    "palette": lambda rng: saved(photo(rng, "P"), rng.choice(["PNG", "GIF"])),
    "RGBA": lambda rng: saved(photo(rng, "RGBA"), rng.choice(["PNG", "WEBP", "TIFF"])),
    "CMYK": lambda rng: saved(photo(rng, "CMYK"), rng.choice(["JPEG", "TIFF"])),
    "floats": lambda rng: saved(photo(rng, "F"), "TIFF"),
    "16 bits": sixteen_bits,
    "EXIF": turned,
    "broken EXIF": broken_exif,
    "one pixel": lambda rng: saved(photo(rng).resize((1, rng.choice([1, 500]))), "PNG"),
    "PNG bomb": png_bomb,
    "JPEG bomb": jpeg_bomb,
    "empty": lambda _: b"",
    "text": lambda _: b"this is not an image\n" * 20,
    "html": lambda _: b"<html><body>404</body></html>",
    "garbage": lambda rng: rng.randbytes(rng.choice([2, 100, 5000])),
    "only the magic": lambda rng: rng.choice([b"\xff\xd8", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n"]),
    "EPS": lambda _: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "cut": cut,
    "flipped bytes": flipped,
    "animated": animated,
}  # fmt: skip


def image_case(rng: random.Random, folder: Path) -> str:
    """Put a damaged image between good ones of an image folder."""
    names = ["a", "b", rng.choice(["c", "é", "d e", "train", "'"])]
    for name in names[:2]:
        for i in range(4):
            put(folder / name / f"{i}.jpg", IMAGES["good"](rng))
    ending = rng.choice([".jpg", ".png", ".JPEG", ".tif", ".webp"])
    for i in range(rng.choice([1, 2, 6])):
        data = IMAGES[rng.choice(list(IMAGES))](rng)
        put(folder / rng.choice(names) / f"x{i}{ending}", data)
    return opened(rng, folder, FOLDERS)


def put(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


# --------------------------------------------------------------------------------------- csv

HEADER = ["path", "age", "emotion", "person", "split"]
CELLS = ["", " ", "31", "1e999", "nan", "-inf", "0x1F", "1,5", "٣", "happy", "Glück", "\t",
         '"', "'", '""', "a\nb", "x" * 200_000, "\0", "\x1b[31m", "../../etc/passwd", "/etc/passwd",
         "a\\b.jpg", "0.JPG", "0.jpg ", "./0.jpg", "\u202e", "💥", "|", "train", "Val", "=1+1",
         ",,,", ";;;"]  # fmt: skip


def table(rng: random.Random) -> list[list[str]]:
    """return the header and 8 rows."""
    rows = [list(HEADER)]
    for i in range(8):
        person, split = f"p{i % 3}", rng.choice(["train", "test", "val"])
        rows.append([f"{i}.jpg", str(20 + i), rng.choice(["happy", "sad"]), person, split])
    return rows


def joined(rows: list[list[str]], mark: str = ",", end: str = "\n") -> str:
    return end.join(mark.join(row) for row in rows) + end


def quoted(rows: list[list[str]]) -> str:
    inside = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in rows]
    return joined(inside)


def change_rows(rows: list[list[str]], rng: random.Random) -> None:
    """Change one cell or one row, or the header."""
    row = rng.choice(rows)
    how = rng.randrange(7)
    if how <= 2 and row:
        row[rng.randrange(len(row))] = rng.choice(CELLS)
    elif how == 3:
        row += rng.choices(CELLS[:10], k=rng.choice([1, 5, 1000]))
    elif how == 4:
        del row[rng.randrange(len(row) + 1) :]
    elif how == 5:
        rows.remove(row)
    else:
        rows[0] = rng.choice([HEADER + HEADER, [], [""] * 5, ["PATH", *HEADER[1:]], HEADER[::-1]])


def csv_bytes(rng: random.Random) -> bytes:
    rows = table(rng)
    for _ in range(rng.choice([0, 1, 1, 2, 8])):
        if rows:
            change_rows(rows, rng)
    text = rng.choice(
        [joined(rows), joined(rows, ";"), joined(rows, "\t"), joined(rows, "|"), quoted(rows),
         joined(rows, end="\r\n"), joined(rows, end="\r"), joined(rows)[:-1], joined(rows) + '"',
         "\n\n" + joined(rows), "# a comment\n" + joined(rows)]
    )  # fmt: skip
    encoding = rng.choice(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-32", "cp1252", "utf-16-be"])
    data = text.encode(encoding, "replace")
    how = rng.randrange(10)
    if how == 0:
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.choice([b"\0", b"\xff", b'"', b"\xc3", b"\r", b"\x1a"]) + data[at:]
    elif how == 1:
        data = data[: rng.randrange(len(data) + 1)]
    return data


def csv_case(rng: random.Random, folder: Path) -> str:
    """Write a damaged table beside good images, and some damaged ones."""
    for i in range(8):
        kind = rng.choice(["good"] * 6 + ["cut", "empty", "PNG bomb"])
        put(folder / f"{i}.jpg", IMAGES[kind](rng))
    put(folder / "people.csv", csv_bytes(rng))
    return opened(rng, folder, TABLE)


# --------------------------------------------------------------------------------------- both


def opened(rng: random.Random, folder: Path, tables: str) -> str:
    """Check the dataset of this folder, and open it as a run does."""
    max_bad, more = rng.choice([0, 1, 100, 100, 100]), rng.choice(MORE)
    file = folder.parent / "run.toml"
    file.write_text(tables.format(root=folder, max_bad=max_bad, more=more))
    if rng.random() < 0.2:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            assert mtl(["data", "check", "own", str(file)]) in (0, 1, 2)
    experiment = load_experiment(file)
    report = check_data(experiment, "own")
    bad = len(report.unreadable) + len(report.missing) + sum(map(len, report.malformed.values()))
    _, data = open_data(experiment)
    assert len(data.targets)
    if bad:
        assert data.report, "bad files are not reported"
    return "opened, with bad files" if bad else "opened"


def main() -> int:
    options = arguments(__doc__ or "", 500)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"

        def case(rng: random.Random) -> str:
            shutil.rmtree(folder, ignore_errors=True)
            make = rng.choice([image_case, csv_case])
            return make(rng, folder)

        return run(case, options)


if __name__ == "__main__":
    sys.exit(main())
