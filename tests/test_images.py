"""Reading of image files: orientation, depth, and what is refused."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from etam_edge.errors import InputError
from etam_edge.media.prompt_files import read_masks
from etam_edge.media.sources import SourceOptions, load_image, open_source, read_image

SHAPE = (12, 20)


def colours(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*SHAPE, 3), dtype=np.uint8)


def counts(seed: int = 0, low: int = 7000, high: int = 9320) -> np.ndarray:
    """Counts of a thermal camera, with a measurement missing."""
    image = np.random.default_rng(seed).integers(low, high, SHAPE).astype(np.uint16)
    image[0, 0] = 0
    return image


EXIF_TURNS = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: np.rot90(image, 2),
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: lambda image: np.rot90(image),
}


@pytest.mark.parametrize("orientation", EXIF_TURNS)
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "jpg"])
def test_images_are_turned_as_exif_says(suffix: str, orientation: int, tmp_path: Path) -> None:
    image = Image.fromarray(np.kron(colours(), np.ones((8, 8, 1), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if suffix == "webp" else {"quality": 98, "subsampling": 0} if suffix == "jpg" else {}
    image.save(tmp_path / f"a.{suffix}", exif=exif, **lossless)
    expected = EXIF_TURNS[orientation](np.asarray(image))
    source = open_source(str(tmp_path))
    [frame] = source
    assert source.frame_shape == frame.pixels.shape[:2] == expected.shape[:2]
    np.testing.assert_allclose(frame.pixels.astype(int), expected, atol=12 if suffix == "jpg" else 0)


def test_damaged_exif_is_left_out(tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "a.png", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), colours())


# --- more than 8 bits ---


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_grey_images_of_16_bits_are_scaled_by_one_range(suffix: str, tmp_path: Path) -> None:
    for index in range(3):
        Image.fromarray(counts(index)).save(tmp_path / f"{index}.{suffix}")
    source = open_source(str(tmp_path))
    assert source.depth_range is not None
    low, high = source.depth_range
    assert (low, high) == pytest.approx((7023, 9297), abs=25)
    for index, frame in enumerate(source):
        expected = np.rint(np.clip((counts(index).astype(np.float32) - low) / (high - low), 0, 1) * 255)
        np.testing.assert_allclose(frame.pixels[..., 0], expected, atol=1)
        assert frame.pixels[..., 0].std() > 60
        np.testing.assert_array_equal(frame.pixels[..., 0], frame.pixels[..., 2])


def test_range_of_counts_may_be_given(tmp_path: Path) -> None:
    Image.fromarray(counts()).save(tmp_path / "a.png")
    source = open_source(str(tmp_path), SourceOptions(depth_range=(0, 65535)))
    [frame] = source
    np.testing.assert_array_equal(frame.pixels[..., 0], np.rint(counts().astype(np.float32) / 65535 * 255))
    with pytest.raises(InputError, match="`depth_range=9,9` is empty"):
        SourceOptions(depth_range=(9, 9))
    with pytest.raises(InputError, match="is empty"):
        SourceOptions(depth_range=(float("nan"), 1))


def test_12_bits_in_16_are_not_dark(tmp_path: Path) -> None:
    Image.fromarray(counts(low=100, high=4095)).save(tmp_path / "a.png")
    [frame] = open_source(str(tmp_path))
    assert frame.pixels.max() == 255
    assert frame.pixels.std() > 60


def test_floating_point_depth_is_scaled(tmp_path: Path) -> None:
    metres = np.linspace(0.5, 4, SHAPE[0] * SHAPE[1], dtype=np.float32).reshape(SHAPE)
    metres[3, 3], metres[4, 4] = np.nan, np.inf
    Image.fromarray(metres).save(tmp_path / "a.tiff")
    [frame] = open_source(str(tmp_path), SourceOptions(depth_range=(0.5, 4)))
    assert frame.pixels[3, 3, 0] == frame.pixels[4, 4, 0] == 0
    assert (frame.pixels[0, 0, 0], frame.pixels[-1, -1, 0]) == (0, 255)
    [found] = open_source(str(tmp_path))
    assert found.pixels.std() > 60


def test_images_of_one_value_are_no_error(tmp_path: Path) -> None:
    Image.fromarray(np.full(SHAPE, 500, np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros(SHAPE, np.uint16)).save(tmp_path / "b.png")
    assert [int(frame.pixels.max()) for frame in open_source(str(tmp_path))] == [0, 0]


def test_clips_of_several_kinds_of_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(counts()).save(tmp_path / "0_depth.png")
    Image.fromarray(colours()).save(tmp_path / "1_colour.jpg")
    with pytest.raises(InputError, match=r"1_colour\.jpg is an image of 8 bits.* keep one kind"):
        list(open_source(str(tmp_path)))
    (tmp_path / "0_depth.png").rename(tmp_path / "2_depth.png")
    with pytest.raises(InputError, match=r"2_depth\.png is a grey image of more than 8 bits.* keep one kind"):
        list(open_source(str(tmp_path)))
    (tmp_path / "2_depth.png").unlink()
    with pytest.raises(InputError, match="`depth_range` is for grey images of more; leave it out"):
        open_source(str(tmp_path), SourceOptions(depth_range=(0, 1)))


def wide_png(path: Path, values: np.ndarray) -> None:
    """A PNG of 16-bit colours, which Pillow cannot write. `values`: uint16 (H, W, 3)."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in chunks:
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    path.write_bytes(data)


def test_16_bit_colours_are_read_whole_or_refused(tmp_path: Path) -> None:
    values = colours().astype(np.uint16)
    wide_png(tmp_path / "full.png", values * 257)
    np.testing.assert_array_equal(read_image(tmp_path / "full.png"), colours())
    wide_png(tmp_path / "low.png", values * 16)
    with pytest.raises(InputError, match="only the low 12 bits are used"):
        read_image(tmp_path / "low.png")


# --- refused ---


def test_postscript_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("another program was started")

    monkeypatch.setattr("subprocess.Popen", forbidden)
    (tmp_path / "00000.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n")
    with pytest.raises(InputError, match=r"00000\.png is not an image of a kind that is read \(JPEG, PNG"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("kind", ["GIF", "PPM", "TGA", "DDS", "ICNS", "PCX"])
def test_other_formats_are_refused_whatever_their_name(kind: str, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png", format=kind)
    for read in (read_image, read_masks):
        with pytest.raises(InputError, match="of a kind that is read"):
            read(tmp_path / "a.png")


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("/dev/zero")
    (tmp_path / "c.png").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        for read in (read_image, read_masks):
            with pytest.raises(InputError, match="is not a regular file"):
                read(tmp_path / name)
    with pytest.raises(InputError, match=r"a\.png is not a regular file"):
        open_source(str(tmp_path))
    (tmp_path / "d.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is gone"):
        read_image(tmp_path / "d.png")
    with pytest.raises(FileNotFoundError):
        load_image(tmp_path / "d.png")
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path / ("x" * 300))
    with pytest.raises(InputError, match="cannot be read"):
        read_image(Path("a\0b"))


def test_sizes_are_checked_before_decoding(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(colours()).save(data, format="PNG")
    changed = bytearray(data.getvalue())
    # Pillow has a limit of its own between the two.
    for side in (60_000, 12_000):
        changed[16:24] = struct.pack(">II", side, side)
        changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
        (tmp_path / "a.png").write_bytes(changed)
        with pytest.raises(InputError, match="has more than the 134217728 pixels that are read"):
            read_image(tmp_path / "a.png")


def test_files_of_several_images_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(colours(seed)) for seed in range(3)]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "b.png", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "c.webp", save_all=True, append_images=pages[1:])
    for name in ("a.tiff", "b.png", "c.webp"):
        with pytest.raises(InputError, match="holds several images; save each as a file of its own"):
            read_image(tmp_path / name)


def test_previews_of_phones_are_no_second_image(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (200, 10)]
    pages[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=pages[1:])
    assert read_image(tmp_path / "a.jpg").mean() == pytest.approx(200, abs=2)


def test_masks_of_16_bits_hold_ids_beyond_255(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint16)
    labels[2:5, 3:9], labels[7:9, 1:4] = 300, 7
    Image.fromarray(labels).save(tmp_path / "a.png")
    masks = read_masks(tmp_path / "a.png")
    assert set(masks) == {7, 300}
    np.testing.assert_array_equal(masks[300], labels == 300)
