"""Checkpoints that hold anything: read as they were written, or refused in a sentence, in little time and memory."""

from __future__ import annotations

import io
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from etam_edge.errors import CheckpointError
from etam_edge_testing.fuzz import Outcomes, attempts, mutate_bytes

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from etam_edge.exporters.checkpoints import load_model  # noqa: E402
from etam_edge.exporters.checkpoints.reading import read_state_dict  # noqa: E402
from etam_edge.spec import NANO  # noqa: E402


def tensors() -> dict[str, torch.Tensor]:
    return {
        "a.weight": torch.arange(24.0).reshape(4, 6),
        "a.bias": torch.ones(4),
        "b": torch.zeros(3, dtype=torch.int64),
    }


def zip_file() -> bytes:
    file = io.BytesIO()
    torch.save({"model": tensors()}, file)
    return file.getvalue()


def compressed_file() -> bytes:
    """The same, as a tool packs it that compresses."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(zip_file())) as plain,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for info in plain.infolist():
            archive.writestr(info.filename, plain.read(info))
    return packed.getvalue()


def legacy_file() -> bytes:
    file = io.BytesIO()
    torch.save({"model": tensors()}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def safetensors_file() -> bytes:
    data: bytes = safetensors.save(tensors())
    return data


FORMATS: dict[str, Callable[[], bytes]] = {
    "zip": zip_file,
    "compressed": compressed_file,
    "legacy": legacy_file,
    "safetensors": safetensors_file,
}


def bomb(copies: int = 2000, size: int = 1 << 20) -> bytes:
    """An archive whose entries share one compressed stream, each claiming 64 MiB: overlapping entries."""
    import zlib

    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = b"".join(squeezer.compress(bytes(size)) for _ in range(64)) + squeezer.flush()
    claimed = 64 * size
    crc = 0
    for _ in range(64):
        crc = zlib.crc32(bytes(size), crc)
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, crc, len(stream), claimed, 1, 0) + b"x" + stream
    entry = struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, crc, len(stream), claimed, 1, 0, 0, 0, 0, 0, 0
    )
    directory = (entry + b"x") * copies
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, copies, copies, len(directory), len(local), 0)
    return local + directory + end


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(FORMATS[name]())
    found = read_state_dict(tmp_path / "file.pt")
    assert {key: tuple(value.shape) for key, value in found.items()} == {"a.weight": (4, 6), "a.bias": (4,), "b": (3,)}


def test_overlapping_entries_are_refused_unread(tmp_path: Path) -> None:
    """134 GB in 170 kB; testing their checksums takes minutes, so a test that reads them does not end."""
    (tmp_path / "bomb.pt").write_bytes(bomb())
    begin = time.process_time()
    assert "bytes and claims to hold 134217728000, more than weights can be compressed to" in refusal(
        tmp_path / "bomb.pt"
    )
    assert time.process_time() - begin < 10


def test_entries_that_expand_are_refused_unread(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zeros.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(20_000_000))
    assert "claims to hold 20000000, more than weights can be compressed to" in refusal(tmp_path / "zeros.pt")


def test_damaged_compression_is_refused(tmp_path: Path) -> None:
    whole = bytearray(compressed_file())
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        start = archive.infolist()[0].header_offset
    start += 30 + struct.unpack("<H", whole[start + 26 : start + 28])[0]
    whole[start : start + 8] = b"\xff" * 8
    (tmp_path / "damaged.pt").write_bytes(whole)
    assert "is damaged" in refusal(tmp_path / "damaged.pt")


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A name that claims to be UTF-8 and is not."""
    whole = bytearray(zip_file())
    at = whole.rfind(b"PK\x01\x02")
    whole[at + 8 : at + 10] = struct.pack("<H", 0x800)
    whole[at + 46 : at + 50] = b"\xff\xfe\xfd\xfc"
    (tmp_path / "names.pt").write_bytes(whole)
    assert "cut short or damaged" in refusal(tmp_path / "names.pt")


def test_nested_tensor_is_refused(tmp_path: Path) -> None:
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    torch.save({"model": {**tensors(), "n": nested}}, tmp_path / "nested.pt")
    assert "nested tensors (n), which have no shape" in refusal(tmp_path / "nested.pt")


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 5000], ids=["NUL", "surrogate", "long"])
def test_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError):
        load_model(NANO, Path(name))


def test_fuzzed_files(tmp_path: Path) -> None:
    """Damaged bytes of all formats: refused, or the tensors have the names, shapes and types of some state dict."""
    outcomes = Outcomes()
    made = {name: make() for name, make in FORMATS.items()}
    for source in attempts(100):
        name = source.choice(list(made))
        (tmp_path / "damaged.pt").write_bytes(mutate_bytes(made[name], source))
        with outcomes.attempt(f"{name}", allowed=(CheckpointError,)):
            load_model(NANO, tmp_path / "damaged.pt")
    outcomes.check(refused=90)
