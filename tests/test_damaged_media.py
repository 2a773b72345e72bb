"""Fuzzers of images and videos: whatever is damaged, the only error is an `InputError`, and reading ends.

`ETAM_EDGE_FUZZ=20` runs twenty times the cases; their seeds continue where those of fewer end.
"""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from etam_edge.errors import InputError
from etam_edge.media.sources import SourceOptions, load_image, open_source, read_image

TIMES = int(os.environ.get("ETAM_EDGE_FUZZ", "1"))
IMAGE_CASES = 120 * TIMES
VIDEO_CASES = 6 * TIMES
"""Cases of each format."""
VIDEO_FORMATS = (("mp4", "mpeg4"), ("mp4", "libx264"), ("mkv", "libx264"), ("avi", "mjpeg"), ("ts", "mpeg2video"))
SECONDS = 60
"""Time limit of one process that reads the damaged videos of a format, 20 s more for every further round."""


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Bytes changed, cut, repeated, removed or filled with noise, mostly in the headers at both ends."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        kind = rng.randrange(6)
        length = len(changed)
        reach = rng.choice((64, 512, length))
        place = (
            min(length - 1, rng.randrange(reach)) if rng.random() < 0.7 else max(0, length - 1 - rng.randrange(reach))
        )
        size = rng.choice((1, 2, 4, 16, 200))
        if kind == 0:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[place : place + size] = rng.randbytes(size)
        elif kind == 2:
            changed[place : place + size] = rng.choice((b"\0", b"\xff")) * size
        elif kind == 3:
            del changed[place : place + size]
        elif kind == 4:
            changed[place:place] = changed[place : place + size]
        else:
            del changed[max(16, place) :]
        if len(changed) < 2:
            break
    return bytes(changed)


def image_files() -> Iterator[tuple[str, bytes]]:
    """Small files of every format and mode that is read, by suffix."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    modes = {
        "png": ("RGB", "RGBA", "P", "L", "1", "I;16"),
        "jpg": ("RGB", "L", "CMYK"),
        "bmp": ("RGB", "P", "1"),
        "webp": ("RGB", "RGBA"),
        "tiff": ("RGB", "P", "I;16", "F", "1"),
    }
    for suffix, names in modes.items():
        for name in names:
            if name == "I;16":
                image = Image.fromarray(rng.integers(0, 65535, (24, 32)).astype(np.uint16))
            else:
                image = Image.fromarray(colours).convert(name)
            file = io.BytesIO()
            extra = {"exif": exif} if suffix in ("jpg", "webp", "png") else {}
            if suffix == "tiff" and name in ("RGB", "P"):
                extra = {"compression": "tiff_lzw"}
            image.save(file, format={"jpg": "JPEG", "tiff": "TIFF"}.get(suffix, suffix.upper()), **extra)
            yield suffix, file.getvalue()


def test_damaged_images_give_pixels_or_one_error(tmp_path: Path) -> None:
    files = list(image_files())
    file = tmp_path / "a.png"
    # Those whose error names the file.
    refused = 0
    for case in range(IMAGE_CASES):
        rng = random.Random(case)
        _, data = files[case % len(files)]
        file.write_bytes(damaged(rng, data))
        read: Callable[[Path], object] = (read_image, load_image)[case % 2]
        try:
            read(file)
        except InputError as error:
            refused += str(file) in str(error)
    # Damage that is always refused, or never, is not worth reading.
    assert IMAGE_CASES // 10 < refused < IMAGE_CASES


READ_VIDEOS = """
import sys
from pathlib import Path
from etam_edge.errors import InputError
from etam_edge.media.sources import SourceOptions, open_source

for file in sorted(Path(sys.argv[1]).iterdir()):
    try:
        source = open_source(str(file), SourceOptions(depth_range=(0, 1)))
        shapes = {frame.pixels.shape for frame in source}
        print(file.name, source.ending.frames, source.ending.lost, source.ending.damaged, flush=True)
    except InputError as error:
        assert str(file) in str(error)
        print(file.name, "refused", flush=True)
"""


def video_bytes(tmp_path: Path, suffix: str, codec: str) -> bytes:
    av = pytest.importorskip("av")
    path = tmp_path / f"whole.{suffix}"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for _ in range(8):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 64, 3), np.uint8), "rgb24"))
            )
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize(("suffix", "codec"), VIDEO_FORMATS)
def test_damaged_videos_give_frames_or_one_error_and_end(suffix: str, codec: str, tmp_path: Path) -> None:
    whole = video_bytes(tmp_path, suffix, codec)
    folder = tmp_path / "damaged"
    folder.mkdir()
    for case in range(VIDEO_CASES):
        (folder / f"{case:05d}.{suffix}").write_bytes(damaged(random.Random(case), whole))
    # In a process of its own: a decoder that crashes or hangs is seen, and named by the last line.
    done = subprocess.run(
        [sys.executable, "-c", READ_VIDEOS, str(folder)],
        capture_output=True,
        text=True,
        timeout=SECONDS + 20 * TIMES,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (lines[-1:], done.stderr[-2000:])
    assert len(lines) == VIDEO_CASES
    assert done.stderr == ""


def test_endless_and_huge_claims_are_refused(tmp_path: Path) -> None:
    """An image header that claims a frame of 32000 x 32000 pixels inside a small video."""
    av = pytest.importorskip("av")
    assert av.__version__
    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file, format="BMP")
    data = bytearray(file.getvalue())
    data[18:26] = (32_000).to_bytes(4, "little") * 2
    (tmp_path / "a.avi").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.avi (is not a video|has no )"):
        open_source(str(tmp_path / "a.avi"), SourceOptions())
