"""The distributions: what the wheel and the sdist hold, and that the installed wheel tracks a clip without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

import etam_edge

ROOT = Path(__file__).resolve().parents[1]
LINKS = {"calibration", "exporters", "runtimes"}
"""Symbolic links at the top of the repository, which no archive holds."""

pytestmark = pytest.mark.full


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of a command. The test fails with all of its output where the command fails."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env={**clean, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source_files() -> set[str]:
    """The repository's files: those that git tracks, or would on `git add`."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file() and not (ROOT / name).is_symlink()}


@pytest.fixture(scope="module")
def distributions(source_files: set[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sdist. `python -m build` builds the wheel from the sdist, so the sdist is enough to build from."""
    checkout, output = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in source_files:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name)
    run(sys.executable, "-m", "build", "--outdir", output, checkout, cwd=output)
    (wheel,), (sdist,) = output.glob("*.whl"), output.glob("*.tar.gz")
    return wheel, sdist


def test_wheel_holds_the_package_and_nothing_else(distributions: tuple[Path, Path], source_files: set[str]) -> None:
    with zipfile.ZipFile(distributions[0]) as wheel:
        names = set(wheel.namelist())
    package = {name for name in names if ".dist-info/" not in name}
    assert package == {name for name in source_files if name.startswith("etam_edge/")}
    assert {"etam_edge/py.typed", "etam_edge/weights/etam_nano.safetensors"} <= package
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_sdist_holds_every_file_of_the_repository(distributions: tuple[Path, Path], source_files: set[str]) -> None:
    with tarfile.open(distributions[1]) as sdist:
        files = {PurePosixPath(member.name) for member in sdist.getmembers() if member.isfile()}
        assert not [member.name for member in sdist.getmembers() if member.issym()]
    names = {str(PurePosixPath(*path.parts[1:])) for path in files}
    assert source_files - names == set()
    generated = {name for name in names - source_files if not name.startswith("etam_edge.egg-info/")}
    assert generated == {"PKG-INFO", "setup.cfg"}
    assert not {name.split("/")[0] for name in names} & LINKS


def test_metadata_names_what_a_robot_installs(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[0]) as wheel:
        (file,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(wheel.read(file).decode())
    assert metadata["Version"] == etam_edge.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not [line for line in required if line.startswith(("torch", "onnx", "opencv"))]
    assert "EfficientTAM" in " ".join(metadata.get_all("Project-URL", []))


@pytest.fixture(scope="module")
def installed(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a clean environment with the wheel and what a robot needs: ONNX Runtime and OpenCV."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    scripts = folder / "bin"
    wheel = f"{distributions[0]}[onnxruntime,video]"
    run(scripts / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, cwd=folder)
    return scripts


def test_installed_wheel_tracks_a_clip(installed: Path, nano_bundle: Path, tmp_path: Path) -> None:
    """The masks equal those of this checkout, in an environment without torch and onnx."""
    heavy = "import importlib.util as u; print([n for n in ('torch', 'onnx', 'etam_edge_testing') if u.find_spec(n)])"
    assert run(installed / "python", "-c", heavy, cwd=tmp_path).strip() == "[]"
    clip = run(
        installed / "python", "-c", "from etam_edge.media import CHAIR_VIDEO; print(CHAIR_VIDEO)", cwd=tmp_path
    ).strip()
    assert installed.parent in Path(clip).parents

    options = ("--box", "50,45,238,205", "--max-frames", "20", "--threads", "1")
    run(installed / "etam-edge", "track", nano_bundle, clip, *options, "--masks", "installed", cwd=tmp_path)
    run(sys.executable, "-m", "etam_edge", "track", nano_bundle, clip, *options, "--masks", tmp_path / "here", cwd=ROOT)
    names = sorted(file.name for file in (tmp_path / "installed").iterdir())
    assert names == [f"{index:05d}.png" for index in range(20)]
    for name in names:
        masks = [np.asarray(Image.open(tmp_path / place / name)) for place in ("installed", "here")]
        assert masks[0].shape == (480, 720)
        assert masks[0].any()
        assert np.array_equal(*masks), name
