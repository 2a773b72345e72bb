"""Atomic writes: the previous content or the new one, links and devices left as they are."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from etam_edge import filesystem
from etam_edge.atomic import (
    AtomicFile,
    atomic_directory,
    atomic_file,
    check_target,
    is_replaceable,
    open_stream,
    recover_directory,
    remove_left_over,
)
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


# --- what appears at the target meanwhile ---


def test_file_that_appeared_meanwhile_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    target = tmp_path / "s.jsonl"

    def write(overwrite: bool) -> None:
        with atomic_file(target, overwrite=overwrite) as file:
            file.write(b"mine")
            target.write_bytes(b"other")

    with pytest.raises(FileExistsError):
        write(overwrite=False)
    assert target.read_bytes() == b"other"
    target.unlink()
    write(overwrite=True)
    assert target.read_bytes() == b"mine"
    with pytest.raises(FileExistsError):
        AtomicFile(target, overwrite=False)
    assert names(tmp_path) == ["s.jsonl"]


@pytest.mark.parametrize("without_call", [False, True])
def test_file_is_kept_beside_under_a_free_name(
    without_call: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if without_call:
        monkeypatch.setattr(filesystem, "_system_call", lambda: None)
    (tmp_path / "v-1.mp4").write_bytes(b"taken")
    pending = AtomicFile(tmp_path / "v.mp4", overwrite=False)
    pending.temporary.write_bytes(b"mine")
    (tmp_path / "v.mp4").write_bytes(b"other")
    with pytest.raises(FileExistsError):
        pending.commit()
    assert pending.keep_beside() == tmp_path / "v-2.mp4"
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == {
        "v-1.mp4": b"taken",
        "v-2.mp4": b"mine",
        "v.mp4": b"other",
    }


def test_device_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    pending = AtomicFile(tmp_path / "x")
    (tmp_path / "x").symlink_to("/dev/null")
    with pytest.raises(OSError, match="not a regular file"):
        pending.commit()
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").is_symlink()


def fill(folder: Path, text: str) -> None:
    (folder / "kind.json").write_text(text)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["files", "file"])
def test_what_appeared_at_a_directory_meanwhile_is_never_removed(kind: str, overwrite: bool, tmp_path: Path) -> None:
    target = tmp_path / "bundle"

    def write() -> None:
        with atomic_directory(target, overwrite, "kind.json", "bundle") as folder:
            fill(folder, "mine")
            if kind == "file":
                target.write_text("notes")
            else:
                target.mkdir()
                (target / "notes.txt").write_text("notes")

    with pytest.raises(InputError, match="is a file" if kind == "file" else "with other files"):
        write()
    assert (target if kind == "file" else target / "notes.txt").read_text() == "notes"
    assert names(tmp_path) == ["bundle"]


def test_of_two_writers_of_a_directory_the_second_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "bundle"

    def write() -> None:
        with atomic_directory(target, False, "kind.json", "bundle") as folder:
            fill(folder, "first to begin")
            with atomic_directory(target, False, "kind.json", "bundle") as other:
                fill(other, "first to end")

    with pytest.raises(InputError, match="already holds a bundle"):
        write()
    assert (target / "kind.json").read_text() == "first to end"
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_directory_is_replaced_in_one_step_or_two(
    exchanges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    if not exchanges:
        monkeypatch.setattr(filesystem, "_system_call", lambda: None)
    for text in ("old", "new"):
        with atomic_directory(target, True, "kind.json", "bundle") as folder:
            fill(folder, text)
        assert (target / "kind.json").read_text() == text
        assert names(tmp_path) == ["bundle"]


# --- processes that are killed ---


def killed(code: str, folder: Path) -> None:
    """Run code in a process that ends itself by SIGKILL."""
    head = "import os, signal; from pathlib import Path; from etam_edge import atomic, filesystem\n"
    done = subprocess.run([sys.executable, "-c", head + code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr


KILL = "os.kill(os.getpid(), signal.SIGKILL)\n"


def test_what_a_killed_process_left_is_removed_by_the_next_writer_only(tmp_path: Path) -> None:
    code = (
        "a = atomic.AtomicFile('v.mp4')\n"
        "with atomic.atomic_directory(Path('bundle'), False, 'kind.json', 'bundle') as b:\n"
        "    (b / 'graphs').mkdir(); (b / 'graphs' / 'x').write_text('x')\n    "
    )
    killed(code + KILL, tmp_path)
    assert len(names(tmp_path)) == 2
    alive = AtomicFile(tmp_path / "alive.npz")
    mine = [".notes.partial", ".x.12345.partial", ".git"]
    for name in mine:
        (tmp_path / name).write_text("not of this package")
    with atomic_file(tmp_path / "other.npz") as file:
        file.write(b"x")
    assert names(tmp_path) == sorted([*mine, "other.npz", alive.temporary.name])
    alive.commit()
    assert (tmp_path / "alive.npz").exists()


@pytest.mark.parametrize("moment", ["between", "after"])
def test_bundle_that_was_set_aside_comes_back_after_a_kill(moment: str, tmp_path: Path) -> None:
    """Where directories cannot be exchanged in one step, a kill between the two renames leaves none at the place."""
    (tmp_path / "bundle").mkdir()
    fill(tmp_path / "bundle", "old")
    stop = "len(calls) == 3" if moment == "between" else "len(calls) == 4"
    code = (
        "filesystem.exchange = lambda *_: False\n"
        "calls = []; rename = Path.rename\n"
        "def counted(self, target):\n"
        "    calls.append(target)\n"
        f"    if {stop}:\n        {KILL}"
        "    result = rename(self, target)\n"
        "    return result\n"
        "Path.rename = counted\n"
        "rmtree = atomic.shutil.rmtree\n"
        f"atomic.shutil.rmtree = lambda *a, **k: {KILL.strip()}\n"
        "with atomic.atomic_directory(Path('bundle'), True, 'kind.json', 'bundle') as b:\n"
        "    (b / 'kind.json').write_text('new')\n"
    )
    killed(code, tmp_path)
    assert (tmp_path / "bundle").exists() == (moment == "after")
    recover_directory(tmp_path / "bundle")
    assert (tmp_path / "bundle" / "kind.json").read_text() == ("old" if moment == "between" else "new")
    with atomic_directory(tmp_path / "bundle", True, "kind.json", "bundle") as folder:
        fill(folder, "newest")
    assert names(tmp_path) == ["bundle"]


def test_a_kill_at_any_rename_leaves_a_whole_bundle_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    fill(tmp_path / "bundle", "old")
    code = (
        "exchange = filesystem.exchange\n"
        "def exchange_and_die(*places):\n"
        f"    assert exchange(*places)\n    {KILL}"
        "filesystem.exchange = exchange_and_die\n"
        "with atomic.atomic_directory(Path('bundle'), True, 'kind.json', 'bundle') as b:\n"
        "    (b / 'kind.json').write_text('new')\n"
    )
    if not filesystem.exchange(tmp_path, tmp_path):
        pytest.skip("this file system cannot exchange directories")
    killed(code, tmp_path)
    assert (tmp_path / "bundle" / "kind.json").read_text() == "new"
    remove_left_over(tmp_path)
    assert names(tmp_path) == ["bundle"]


# --- names that cannot be ---


@pytest.mark.parametrize("name", [".", "x" * 300, "a\0b", "file/x"])
def test_impossible_names_are_refused_at_once(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    place = tmp_path / name
    with pytest.raises(OSError):  # noqa: PT011 - of several kinds
        AtomicFile(place)
    if name != ".":
        with pytest.raises(InputError, match="cannot be written"):
            check_target(place, False, "kind.json", "bundle")
    assert names(tmp_path) == ["file"]


def test_checking_a_target_creates_nothing(tmp_path: Path) -> None:
    check_target(tmp_path / "a" / "b" / "bundle", False, "kind.json", "bundle")
    assert names(tmp_path) == []


def test_parents_of_a_directory_that_failed_are_removed(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_directory(tmp_path / "a" / "b" / "bundle", False, "kind.json", "bundle"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert names(tmp_path) == []
