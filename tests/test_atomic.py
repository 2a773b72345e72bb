"""Atomic writes: the previous content or the new one, links and devices left as they are."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from etam_edge.atomic import AtomicFile, atomic_directory, atomic_file, is_replaceable, open_stream
from etam_edge.errors import InputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_is_replaced_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "state.npz"
    target.write_bytes(b"before")
    target.chmod(0o640)
    with atomic_file(target) as file:
        file.write(b"after")
        file.flush()
        assert target.read_bytes() == b"before"
    assert target.read_bytes() == b"after"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert names(tmp_path) == ["state.npz"]


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt()])
def test_failure_leaves_the_previous_file(error: BaseException, tmp_path: Path) -> None:
    target = tmp_path / "state.npz"
    target.write_bytes(b"before")

    def write() -> None:
        with atomic_file(target) as file:
            file.write(b"after")
            raise error

    with pytest.raises(type(error)):
        write()
    assert target.read_bytes() == b"before"
    assert names(tmp_path) == ["state.npz"]


def test_new_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "atomic") as file:
        file.write(b"x")
    (tmp_path / "plain").touch()
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_two_writers_do_not_mix_their_data(tmp_path: Path) -> None:
    target = tmp_path / "state.npz"
    with atomic_file(target) as first, atomic_file(target) as second:
        first.write(b"1111")
        second.write(b"22")
    assert target.read_bytes() == b"1111"  # the outer block ends last
    assert names(tmp_path) == ["state.npz"]


def test_link_keeps_pointing_to_the_file_that_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "state.npz", tmp_path / "link.npz"
    target.write_bytes(b"before")
    link.symlink_to(target)
    with atomic_file(link) as file:
        file.write(b"after")
    assert link.is_symlink()
    assert target.read_bytes() == b"after"
    assert names(tmp_path / "disk") == ["state.npz"]


def test_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), atomic_file(tmp_path):
        pass


def test_long_names_have_temporary_names_that_the_file_system_takes(tmp_path: Path) -> None:
    name = "ä" * 120 + ".npz"
    with atomic_file(tmp_path / name) as file:
        file.write(b"x")
    assert names(tmp_path) == [name]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    with atomic_file(pipe) as file:
        file.write(b"scores")
    reader.join(timeout=30)
    assert read == [b"scores"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == ["pipe"]


def test_devices_are_never_replaced(tmp_path: Path) -> None:
    assert not is_replaceable("/dev/null")
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    for path in (Path("/dev/null"), link):
        with atomic_file(path) as file:
            file.write(b"x")
        with pytest.raises(OSError, match="not a regular file"):
            AtomicFile(path)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert link.is_symlink()


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="needs /dev/stdout")
def test_redirected_standard_output_is_continued_and_not_replaced(tmp_path: Path) -> None:
    """The shell holds the file open: another file in its place would lose what is printed later."""
    code = (
        "import sys; from etam_edge.atomic import atomic_file\n"
        "print('before', flush=True)\n"
        "with atomic_file('/dev/stdout') as file: file.write(b'lines\\n')\n"
        "print('after')"
    )
    output = tmp_path / "output.txt"
    with open(output, "wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, timeout=60, check=True)
    assert output.read_text() == "before\nlines\nafter\n"


def test_regular_paths_are_no_streams(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for name in ("file", "missing"):
        assert open_stream(tmp_path / name) is None
        assert is_replaceable(tmp_path / name)


def test_discard_and_commit(tmp_path: Path) -> None:
    pending = AtomicFile(tmp_path / "video.mp4")
    assert pending.temporary.suffix == ".mp4"
    assert pending.temporary.exists()
    pending.discard()
    assert names(tmp_path) == []
    pending = AtomicFile(tmp_path / "video.mp4")
    pending.temporary.write_bytes(b"x")
    pending.commit()
    pending.discard()
    assert (tmp_path / "video.mp4").read_bytes() == b"x"


def test_directory_replaces_one_of_its_kind_only(tmp_path: Path) -> None:
    target, other = tmp_path / "recording", tmp_path / "photos"
    for text in ("first", "second"):
        with atomic_directory(target, overwrite=True, marker="kind.json", what="recording") as folder:
            (folder / "kind.json").write_text(text)
            (folder / "samples").mkdir()
            (folder / "samples" / "0.npz").write_bytes(b"x")
        assert (target / "kind.json").read_text() == text
    other.mkdir()
    (other / "holiday.jpg").touch()
    with (
        pytest.raises(InputError, match="a folder with other files"),
        atomic_directory(other, overwrite=True, marker="kind.json", what="recording"),
    ):
        pass
    assert names(tmp_path) == ["photos", "recording"]


def test_linked_directory_is_replaced_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "bundle"
    link.symlink_to(tmp_path / "disk")
    with atomic_directory(link, overwrite=True, marker="kind.json", what="bundle") as folder:
        (folder / "kind.json").write_text("x")
    assert link.is_symlink()
    assert names(tmp_path / "disk") == ["kind.json"]
