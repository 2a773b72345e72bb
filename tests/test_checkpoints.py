"""Checkpoints are found, downloaded, and refused by name when they are not what they should be."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import pickle
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from etam_edge.errors import CheckpointError
from etam_edge.exporters import checkpoints
from etam_edge.exporters.checkpoints import (
    KNOWN_SHA256,
    REPOSITORY,
    cached_checkpoint,
    catalogue,
    download,
    fetch_checkpoint,
    load_model,
    sha256_of,
)
from etam_edge.spec import NANO, OFFICIAL, ModelSpec, find_spec
from etam_edge_testing.goldens import PARITY, seeded_state_dict

UNHASHED = "efficienttam_ti_1"
"""A variant whose published hash is not known: any content passes for it."""
HASHED = "efficienttam_ti"
SMALL = ModelSpec(
    name="small",
    image_size=64,
    vit_width=32,
    vit_heads=2,
    vit_depth=2,
    global_blocks=(1,),
    width=64,
    memory_width=16,
    memory_layers=1,
    memory_mlp_width=64,
    decoder_mlp_width=64,
)


def refusal(call: Callable[[], object]) -> str:
    """The one sentence of a CheckpointError."""
    with pytest.raises(CheckpointError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_code == 2
    return text


# --- the hub -------------------------------------------------------------------------------------------------------


@dataclass
class Hub:
    """A stand-in for the model hub on this machine."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    response: tuple[int, dict[str, str]] | None = None
    """Status and headers of every response, instead of files."""
    cuts: int = 0
    """How many bodies are cut off in the middle, before one is sent whole."""
    silent: bool = False
    """Respond to no request for a minute."""
    outwaited: bool = False
    """Whether a client was still waiting when a silent hub closed the connection."""
    stopped: threading.Event = field(default_factory=threading.Event)


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.reply(with_body=False)

        def do_GET(self) -> None:
            self.reply(with_body=True)

        def reply(self, with_body: bool) -> None:
            hub.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
            if hub.silent:
                hub.outwaited |= not hub.stopped.wait(60)
                return
            content = hub.files.get(self.path)
            if hub.response is not None or content is None:
                status, headers = hub.response or (404, {"X-Error-Code": "EntryNotFound"})
                self.send(status, {**headers, "Content-Length": "0"})
                return
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            headers = {
                "X-Repo-Commit": hashlib.sha1(content).hexdigest(),
                "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "Content-Length": str(len(content) - start),
            }
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send(206 if start else 200, headers)
            if with_body and hub.cuts > 0:
                hub.cuts -= 1
                self.wfile.write(content[start : start + (len(content) - start) // 2])
                self.close_connection = True
            elif with_body:
                self.wfile.write(content[start:])

        def send(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub and an empty cache; one known hash is forgotten, so that a small file can stand for a big one."""
    if importlib.util.find_spec("huggingface_hub") is None:
        pytest.skip("needs huggingface_hub")
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    for switch in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.delenv(switch, raising=False)
    monkeypatch.delitem(KNOWN_SHA256, HASHED)
    # The client reads its environment when it is imported: each test imports it anew.
    others = forget_client()
    yield hub
    forget_client()
    sys.modules.update(others)
    hub.stopped.set()
    server.shutdown()
    server.server_close()


def forget_client() -> dict[str, ModuleType]:
    """Remove the hub's client from the imported modules, and return what was there."""
    names = [name for name in sys.modules if name.split(".")[0] == "huggingface_hub"]
    return {name: sys.modules.pop(name) for name in names}


def publish(hub: Hub, variant: str, content: bytes) -> str:
    """Put a file on the hub; its sha256."""
    hub.files[f"/{REPOSITORY}/resolve/main/{variant}.pt"] = content
    return hashlib.sha256(content).hexdigest()


def test_published_hashes_are_of_official_variants() -> None:
    assert set(KNOWN_SHA256) <= set(OFFICIAL)
    assert all(len(digest) == 64 and int(digest, 16) for digest in KNOWN_SHA256.values())
    assert len(set(KNOWN_SHA256.values())) == len(KNOWN_SHA256) == 4


def test_fetch_downloads_once_and_then_needs_no_network(hub: Hub) -> None:
    publish(hub, UNHASHED, b"weights" * 1000)
    assert cached_checkpoint(UNHASHED) is None
    path = fetch_checkpoint(UNHASHED)
    assert path.name == f"{UNHASHED}.pt"
    assert path.read_bytes() == b"weights" * 1000
    assert cached_checkpoint(UNHASHED) == path
    asked = len(hub.requests)
    assert asked > 0
    hub.response = (500, {})
    assert fetch_checkpoint(UNHASHED) == path
    assert len(hub.requests) == asked


def test_fetch_resumes_a_download_that_broke_off(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    # The client keeps whole chunks of a body that breaks off, of 10 MB otherwise.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1024)
    publish(hub, UNHASHED, bytes(range(256)) * 400)
    hub.cuts = 1
    try:
        path = fetch_checkpoint(UNHASHED)
    except CheckpointError:  # Older clients resume when they are run again.
        path = fetch_checkpoint(UNHASHED)
    assert path.read_bytes() == bytes(range(256)) * 400
    assert any("bytes=" in request for request in hub.requests)


def test_a_download_that_keeps_breaking_off_is_an_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    publish(hub, UNHASHED, bytes(1000))
    hub.cuts = 100
    text = refusal(lambda: fetch_checkpoint(UNHASHED))
    assert f"{UNHASHED}.pt could not be downloaded (" in text
    assert "try again" in text
    assert cached_checkpoint(UNHASHED) is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_fetch_shows_progress_on_a_terminal(hub: Hub) -> None:
    import fcntl
    import pty
    import termios

    publish(hub, UNHASHED, bytes(100_000))
    main, terminal = pty.openpty()
    rows_columns_pixels = struct.pack("4H", 24, 80, 0, 0)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, rows_columns_pixels)
    code = f"from etam_edge.exporters.checkpoints import fetch_checkpoint; print(fetch_checkpoint({UNHASHED!r}))"
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while piece := os.read(main, 4096):
            shown += piece
    except OSError:  # Linux's way to say that the other end is closed.
        pass
    os.close(main)
    output = run.communicate(timeout=60)[0].decode()
    assert run.returncode == 0
    assert Path(output.strip()).read_bytes() == bytes(100_000)
    assert b"100%" in shown


def test_fetch_accepts_the_published_hash(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN_SHA256, HASHED, publish(hub, HASHED, b"the published weights"))
    assert sha256_of(fetch_checkpoint(HASHED)) == KNOWN_SHA256[HASHED]


def test_a_wrong_hash_is_refused_and_deleting_the_named_file_mends_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = publish(hub, HASHED, b"the published weights")
    monkeypatch.setitem(KNOWN_SHA256, HASHED, right)
    wrong = publish(hub, HASHED, b"some other weights")
    text = refusal(lambda: fetch_checkpoint(HASHED))
    assert wrong in text
    assert right in text
    assert "delete this file to download it again" in text
    assert refusal(lambda: fetch_checkpoint(HASHED)) == text

    publish(hub, HASHED, b"the published weights")
    named = Path(text.split(" is not the published")[0])
    assert named.is_file()
    named.unlink()
    assert cached_checkpoint(HASHED) is None
    assert fetch_checkpoint(HASHED).read_bytes() == b"the published weights"


def test_a_cached_file_that_was_damaged_is_refused_and_deleting_it_mends_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KNOWN_SHA256, HASHED, publish(hub, HASHED, b"the published weights"))
    path = fetch_checkpoint(HASHED)
    path.write_bytes(b"the published weighty")
    text = refusal(lambda: fetch_checkpoint(HASHED))
    Path(text.split(" is not the published")[0]).unlink()
    assert fetch_checkpoint(HASHED).read_bytes() == b"the published weights"


def test_a_missing_network_is_reported_quickly(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    text = refusal(lambda: fetch_checkpoint(HASHED))
    assert not pauses, "it was tried again"
    assert text.startswith(f"{HASHED}.pt could not be downloaded (")
    assert "Connection refused" in text
    assert f"download {HASHED}.pt of {REPOSITORY} from Hugging Face on another machine" in text
    assert "`checkpoint=FILE`" in text


def test_a_hub_that_never_responds_is_reported_after_the_timeout(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "CONNECT_TIMEOUT", 0.3)
    hub.silent = True
    text = refusal(lambda: fetch_checkpoint(HASHED))
    assert hub.requests
    assert not hub.outwaited
    assert "could not be downloaded (" in text
    assert "`checkpoint=FILE`" in text


def test_offline_mode_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub, HASHED, b"weights")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = refusal(lambda: fetch_checkpoint(HASHED))
    assert "HF_HUB_OFFLINE forbids downloads" in text
    assert "`checkpoint=FILE`" in text
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "a" * 40}, "has no file efficienttam_ti.pt"),
        (404, {}, "has no file efficienttam_ti.pt"),
        (404, {"X-Error-Code": "RepoNotFound"}, f"refuses access to {REPOSITORY}"),
        (401, {"X-Error-Code": "RepoNotFound"}, "(HTTP 401); log in"),
        (403, {"X-Error-Code": "GatedRepo"}, "(HTTP 403); log in"),
        (500, {}, "the hub failed to deliver efficienttam_ti.pt (HTTP 500); try again later"),
        (200, {}, "could not be downloaded ("),
    ],
    ids=["no file", "no file, other server", "no repository", "login", "gated", "server error", "no hub"],
)
def test_responses_without_a_file(hub: Hub, status: int, headers: dict[str, str], expected: str) -> None:
    hub.response = (status, headers)
    text = refusal(lambda: fetch_checkpoint(HASHED))
    assert expected in text
    assert "`checkpoint=FILE`" in text
    # A file that once was not there may be there later: its absence is not remembered.
    hub.response = None
    publish(hub, HASHED, b"weights")
    assert fetch_checkpoint(HASHED).read_bytes() == b"weights"


def test_a_full_disk_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub, HASHED, b"weights")

    def write(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", write)
    text = refusal(lambda: fetch_checkpoint(HASHED))
    assert "does not fit on the disk of" in text
    assert "HF_HUB_CACHE" in text
    assert cached_checkpoint(HASHED) is None


def test_a_cache_that_cannot_be_written_is_named(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub, HASHED, b"weights")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    text = refusal(lambda: fetch_checkpoint(HASHED))
    assert f"cannot be stored in {tmp_path / 'file' / 'cache'}" in text
    assert "HF_HUB_CACHE" in text


def test_without_the_hub_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert cached_checkpoint(HASHED) is None
    text = refusal(lambda: fetch_checkpoint(HASHED))
    assert 'pip install "etam-edge[export]"' in text
    assert "`checkpoint=FILE`" in text


def test_a_model_without_a_published_checkpoint() -> None:
    text = refusal(lambda: fetch_checkpoint("efficienttam_xl"))
    assert "no checkpoint of 'efficienttam_xl' is published" in text
    assert "efficienttam_ti_512x512" in text


def test_importing_is_cheap() -> None:
    code = (
        "import sys, etam_edge.exporters.checkpoints; "
        "print([name for name in ('torch', 'huggingface_hub', 'numpy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# --- files that are not checkpoints ----------------------------------------------------------------------------------


def test_sha256_is_of_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


class RunsCode:
    """A pickle that leaves a file behind when it is executed."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


class Custom:
    """A class that a checkpoint must not need."""


@pytest.fixture(scope="module")
def small_weights() -> dict[str, Any]:
    """The state dict of SMALL, all tensors drawn at random."""
    torch = pytest.importorskip("torch")
    from etam_edge.model import EfficientTAM

    generator = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in EfficientTAM(SMALL).state_dict().items()}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def saved(contents: Any, path: Path, **options: Any) -> Path:
    torch = pytest.importorskip("torch")
    torch.save(contents, path, **options)
    return path


def write_cut_archive(path: Path) -> None:
    torch = pytest.importorskip("torch")
    saved({"model": {"weight": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])


def write_cut_legacy(path: Path) -> None:
    torch = pytest.importorskip("torch")
    saved({"model": {"weight": torch.zeros(1000)}}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-1000])


def write_flipped_bit(path: Path) -> None:
    torch = pytest.importorskip("torch")
    saved({"model": {"weight": torch.zeros(1000)}}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def write_foreign_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "the weights are elsewhere")


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "there is no checkpoint at {path}; check the path"),
    "folder": (lambda path: path.mkdir(), "{path} is a folder; give the checkpoint file in it"),
    "empty": (lambda path: path.write_bytes(b""), "{path} is empty; download or copy it again"),
    "under a file": (
        lambda path: path.parent.rename(path.parent.with_suffix(".away")) and path.parent.write_text(""),
        "{path} cannot be read (Not a directory)",
    ),
    "cut archive": (write_cut_archive, "{path} is cut short or damaged (2000 bytes"),
    "cut legacy file": (write_cut_legacy, "{path} is damaged or not a checkpoint"),
    "flipped bit": (write_flipped_bit, "fails its checksum; download or copy it again"),
    "foreign archive": (write_foreign_archive, "{path} is damaged or not a checkpoint: PyTorch cannot read it"),
    "text": (lambda path: path.write_text("Not found\n"), "it is a text file"),
    "json": (lambda path: path.write_text('{"error": "not found"}'), "it is a text file"),
    "web page": (lambda path: path.write_text("\n<!DOCTYPE html><html>é</html>"), "it is a web page"),
    "git-LFS pointer": (
        lambda path: path.write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 73000000\n"
        ),
        "it is a git-LFS pointer to the weights; run 'git lfs pull'",
    ),
    "safetensors": (
        lambda path: path.write_bytes((2).to_bytes(8, "little") + b'{"a": 1}'),
        "{path} is damaged",
    ),
    "noise": (lambda path: path.write_bytes(bytes([1, 200, 3, 255, 0]) * 100), "its format is unknown"),
    "plain pickle": (
        lambda path: path.write_bytes(pickle.dumps({"model": Custom()})),
        "{path} holds a pickle that torch did not write and is not opened",
    ),
    "own class": (
        lambda path: saved({"model": Custom()}, path),
        "{path} holds a Python object of test_checkpoints.Custom and is not opened, because such a file can run code",
    ),
    "list": (lambda path: saved([1, 2], path), "{path} holds a list; a checkpoint is a dict with the key 'model'"),
    "no state dict": (lambda path: saved({"model": [1]}, path), "holds a list under the key 'model', not a state dict"),
    "nothing": (lambda path: saved({"model": {}}, path), "{path} holds no tensors"),
    "other keys": (
        lambda path: saved({"state_dict": {}, "epoch": 3}, path),
        "{path} holds entries that are not tensors (state_dict, epoch) and no key 'model'",
    ),
    "mixed": (
        lambda path: saved({"model": {f"entry{index}": index for index in range(9)}}, path),
        "not tensors (entry0, entry1, entry2 and 6 more) under the key 'model'",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_is_no_checkpoint_is_named(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "folder" / "weights.pt"
    path.parent.mkdir()
    write, expected = BAD_FILES[kind]
    write(path)
    text = refusal(lambda: load_model(SMALL, path))
    assert str(path) in text
    assert expected.format(path=path) in text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refusal(lambda: load_model(SMALL, tmp_path / "pipe"))


@pytest.mark.parametrize("write", [saved, lambda contents, path: path.write_bytes(pickle.dumps(contents))])
def test_code_in_a_checkpoint_is_never_run(write: Callable[[Any, Path], object], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write({"model": RunsCode(tmp_path / "trace")}, tmp_path / "weights.pt")
    assert "is not opened" in refusal(lambda: load_model(SMALL, tmp_path / "weights.pt"))
    assert not (tmp_path / "trace").exists()


# --- tensors -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ti_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    weights = seeded_state_dict("efficienttam_ti_512x512", 11)
    path = tmp_path_factory.mktemp("checkpoints") / "ti.pt"
    return saved({"model": {name: torch.from_numpy(value) for name, value in weights.items()}}, path)


@pytest.mark.parametrize("variant", ["efficienttam_ti_512x512", "efficienttam_ti_1"])
def test_an_official_checkpoint_is_loaded_whole(variant: str, ti_file: Path) -> None:
    torch = pytest.importorskip("torch")
    model = load_model(find_spec(variant), ti_file)
    assert not model.training
    assert model.spec is find_spec(variant)
    weights = torch.load(ti_file, weights_only=True)["model"]
    loaded = model.state_dict()
    assert list(loaded) == list(weights)
    assert len(loaded) == 455
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])
@pytest.mark.parametrize("bare", [False, True], ids=["under the key", "bare"])
def test_forms_that_people_save(bare: bool, legacy: bool, small_weights: dict[str, Any], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    contents = small_weights if bare else {"model": small_weights, "epoch": 3}
    path = saved(contents, tmp_path / "weights.pt", _use_new_zipfile_serialization=not legacy)
    loaded = load_model(SMALL, path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in small_weights.items())


def test_a_path_may_be_a_string(small_weights: dict[str, Any], tmp_path: Path) -> None:
    path = saved(small_weights, tmp_path / "weights.pt")
    assert load_model(SMALL, str(path)).spec is SMALL  # type: ignore[arg-type]


def zeros_of(size: str) -> dict[str, Any]:
    """The official names and shapes of "s" or "ti", one number behind each tensor."""
    torch = pytest.importorskip("torch")
    manifest = json.loads((PARITY / f"manifest_efficienttam_{size}.json").read_text())
    return {name: torch.zeros(1).expand(entry["shape"]) for name, entry in manifest.items()}


@pytest.mark.parametrize(
    ("size", "variant", "expected"),
    [
        (
            "s",
            "efficienttam_ti_512x512",
            "holds the weights of an EfficientTAM-S model (ViT width 384); `model=efficienttam_ti_512x512` has "
            "ViT width 192; use `model=efficienttam_s_512x512`, or another `checkpoint`",
        ),
        (
            "ti",
            "efficienttam_s_2",
            "holds the weights of an EfficientTAM-Ti model (ViT width 192); `model=efficienttam_s_2` has "
            "ViT width 384; use `model=efficienttam_ti_2`, or another `checkpoint`",
        ),
    ],
)
def test_weights_of_the_other_size(size: str, variant: str, expected: str, tmp_path: Path) -> None:
    path = saved({"model": zeros_of(size)}, tmp_path / "weights.pt")
    assert refusal(lambda: load_model(find_spec(variant), path)) == f"{path} {expected}"


def test_weights_of_another_width(small_weights: dict[str, Any], tmp_path: Path) -> None:
    path = saved(small_weights, tmp_path / "weights.pt")
    text = refusal(lambda: load_model(find_spec("efficienttam_ti"), path))
    assert "holds the weights of another model (ViT width 32)" in text
    path = saved(zeros_of("ti"), tmp_path / "ti.pt")
    text = refusal(lambda: load_model(SMALL, path))
    assert text.endswith("`model=small` has ViT width 32; use another `checkpoint`")


def test_the_published_file_of_another_variant(
    small_weights: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(small_weights, tmp_path / "weights.pt")
    monkeypatch.setitem(KNOWN_SHA256, "efficienttam_ti", sha256_of(path))
    text = refusal(lambda: load_model(SMALL.replace(name="efficienttam_ti_512x512"), path))
    assert "is the published checkpoint of efficienttam_ti (by its sha256), not of efficienttam_ti_512x512" in text
    assert "use `model=efficienttam_ti`," in text
    assert load_model(SMALL.replace(name="efficienttam_ti"), path).spec.name == "efficienttam_ti"


PATCHES = "image_encoder.trunk.patch_embed.proj.weight"


def altered(small_weights: dict[str, Any], change: str) -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    weights = dict(small_weights)
    names = list(weights)
    if change == "missing":
        weights = {name: weights[name] for name in names[5:]}
    if change == "unknown":
        weights["no_such_tensor"] = torch.zeros(3)
    if change == "shape":
        weights["no_obj_ptr"] = torch.zeros(1, 65)
        weights["obj_ptr_proj.layers.0.bias"] = torch.tensor(1.0)
    if change == "one width":
        weights[PATCHES] = torch.zeros(48, 3, 16, 16)
    if change == "half":
        weights = {name: value.half() for name, value in weights.items()}
    if change == "one integer":
        weights["no_obj_ptr"] = torch.zeros(1, 64, dtype=torch.int64)
    if change == "sparse":
        weights["no_obj_ptr"] = weights["no_obj_ptr"].to_sparse()
    if change == "meta":
        weights["no_obj_ptr"] = weights["no_obj_ptr"].to("meta")
    if change == "number as name":
        weights = {7: weights["no_obj_ptr"]}  # type: ignore[dict-item]
    if change == "all":
        weights = altered(altered(altered(small_weights, "missing"), "unknown"), "shape")
    return weights


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("missing", ["5 tensors missing (maskmem_tpos_enc, no_mem_embed, no_mem_pos_enc and 2 more)"]),
        ("unknown", ["1 tensor unknown (no_such_tensor)"]),
        (
            "shape",
            [
                "2 tensors of another shape (",
                "no_obj_ptr is 1x65, expected 1x64",
                "obj_ptr_proj.layers.0.bias is a single number, expected 64",
            ],
        ),
        ("one width", [f"1 tensor of another shape ({PATCHES} is 48x3x16x16, expected 32x3x16x16)"]),
        ("half", ["tensors of another type (maskmem_tpos_enc is float16, expected float32, ", " more)"]),
        ("one integer", ["1 tensor of another type (no_obj_ptr is int64, expected float32)"]),
        ("sparse", ["1 tensor of another type (no_obj_ptr is sparse_coo float32, expected float32)"]),
        ("meta", ["1 tensor of another type (no_obj_ptr is meta float32, expected float32)"]),
        ("number as name", [" tensors missing (", "1 tensor unknown (7)"]),
        ("all", ["4 tensors missing (", "; 1 tensor unknown (", "; 2 tensors of another shape ("]),
    ],
)
def test_tensors_that_do_not_fit(
    change: str, expected: list[str], small_weights: dict[str, Any], tmp_path: Path
) -> None:
    path = saved({"model": altered(small_weights, change)}, tmp_path / "weights.pt")
    text = refusal(lambda: load_model(SMALL, path))
    assert text.startswith(f"{path} does not fit `model=small`: ")
    assert text.endswith("; use the `model` that it belongs to, or another `checkpoint`")
    for part in expected:
        assert part in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(value: float, small_weights: dict[str, Any], tmp_path: Path) -> None:
    weights = {name: tensor.clone() for name, tensor in small_weights.items()}
    weights["no_mem_embed"][0, 0, 7] = value
    path = saved({"model": weights}, tmp_path / "weights.pt")
    text = refusal(lambda: load_model(SMALL, path))
    assert f"{path} is damaged: 1 tensor with NaN or infinite values (no_mem_embed)" in text


# --- safetensors, and the package's own weights -----------------------------------------------------------------------


@pytest.mark.parametrize("type_name", ["float32", "float16", "bfloat16"])
def test_safetensors_of_any_precision_become_float32(
    type_name: str, small_weights: dict[str, Any], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    narrow = {name: tensor.to(getattr(torch, type_name)) for name, tensor in small_weights.items()}
    path = tmp_path / "small.safetensors"
    safetensors.save_file(narrow, path)
    state = load_model(SMALL, path).state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in narrow.items())


def test_safetensors_cut_short_are_refused(small_weights: dict[str, Any], tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "small.safetensors"
    safetensors.save_file(small_weights, path)
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(lambda: load_model(SMALL, path)).startswith(f"{path} is damaged (")


def test_safetensors_that_do_not_fit_are_refused(small_weights: dict[str, Any], tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "small.safetensors"
    safetensors.save_file({name: tensor for name, tensor in small_weights.items() if name != "no_obj_ptr"}, path)
    assert "1 tensor missing (no_obj_ptr)" in refusal(lambda: load_model(SMALL, path))


def test_the_packaged_weights_are_small_and_whole() -> None:
    pytest.importorskip("torch")
    path = fetch_checkpoint("etam_nano")
    assert path == cached_checkpoint("etam_nano") == checkpoints.PACKAGED
    assert path.stat().st_size <= 8_000_000
    assert load_model(NANO, path).spec is NANO


def test_weights_of_the_package_are_no_official_model(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = refusal(lambda: load_model(find_spec("efficienttam_ti_512x512"), checkpoints.PACKAGED))
    assert "does not fit `model=efficienttam_ti_512x512`" in text
    assert "image_encoder.trunk.blocks.4" in text


def test_weights_of_the_package_are_not_taken_for_the_ti_models_of_their_width(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "renamed.safetensors"
    path.write_bytes(checkpoints.PACKAGED.read_bytes())
    text = refusal(lambda: load_model(find_spec("efficienttam_s_512x512"), path))
    assert "the weights of another model (ViT width 192)" in text
    assert text.endswith("use another `checkpoint`")


def test_missing_packaged_weights_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(catalogue, "PACKAGED", tmp_path / "gone.safetensors")
    assert cached_checkpoint("etam_nano") is None
    assert refusal(lambda: fetch_checkpoint("etam_nano")).endswith("install etam-edge again")
