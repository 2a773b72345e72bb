"""`etam-edge models` and `etam-edge doctor`: what they say, and that they say it at once."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
import types
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from etam_edge.benchmark import machine as machine_module
from etam_edge.benchmark import packages as packages_module
from etam_edge.benchmark.machine import Machine, look_at_machine
from etam_edge.benchmark.packages import PACKAGES, Installed, Package, look_up
from etam_edge.cli.app import app
from etam_edge.exporters import checkpoints
from etam_edge.spec import MODELS, NANO, OFFICIAL, ModelSpec, Pooling
from etam_edge.workflows import doctor as doctor_module
from etam_edge.workflows.doctor import CAN, EXPORT_NEEDS, judge, next_step
from etam_edge.workflows.models import SUGGESTED, parameter_count


def say(*arguments: str) -> str:
    """What a command prints to standard output; it must succeed."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None, result.exception
    assert result.exit_code == 0
    return result.stdout


def loaded_by(command: str) -> set[str]:
    """Top-level packages that a command imports in a process of its own."""
    code = (
        "import sys, typer\n"
        f"from etam_edge.cli.{command} import {command}\n"
        f"typer.Typer().command()({command})\n"
        f"{command}(as_json=True)\n"
        "print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Checkpoints that are taken to be on this machine, by model: the package's own, and what a test adds."""
    files: dict[str, Path] = {NANO.name: checkpoints.PACKAGED}
    monkeypatch.setattr(checkpoints, "cached_checkpoint", files.get)
    return files


ODD = ModelSpec(
    name="odd",
    image_size=96,
    vit_width=40,
    vit_heads=5,
    pooling=Pooling.KEY_BIAS,
    vit_depth=3,
    vit_mlp_ratio=3,
    global_blocks=(0, 2),
    position_grid=5,
    width=96,
    memory_width=24,
    memory_layers=3,
    memory_mlp_width=72,
    memory_frames=5,
    fuser_layers=3,
    decoder_depth=4,
    decoder_heads=4,
    decoder_mlp_width=88,
)
"""A spec in which every size differs from the official ones."""


@pytest.mark.parametrize("spec", [*MODELS.values(), ODD], ids=lambda spec: spec.name)
def test_parameter_count_is_the_size_of_the_state_dict(spec: ModelSpec) -> None:
    torch = pytest.importorskip("torch")
    from etam_edge.model import EfficientTAM

    with torch.device("meta"):
        state = EfficientTAM(spec).state_dict()
    if spec.name in OFFICIAL:
        assert len(state) == 455
    assert parameter_count(spec) == sum(tensor.numel() for tensor in state.values())


def test_models_lists_every_variant_and_the_next_command(cached: dict[str, Path]) -> None:
    cached["efficienttam_s_1"] = Path("/cache/efficienttam_s_1.pt")
    lines = say("models").splitlines()
    rows = {name: next(line for line in lines if f" {name} " in line) for name in MODELS}
    assert "1024 px" in rows["efficienttam_ti"]
    assert "512 px" in rows["efficienttam_s_512x512"]
    assert "2x2, scores" in rows["efficienttam_ti_1"]
    assert "2x2, keys" in rows["efficienttam_s_2"]
    assert "34.1 M" in rows["efficienttam_s"]
    assert "17.9 M" in rows["efficienttam_ti"]
    assert [name for name, row in rows.items() if "not cached" not in row] == ["etam_nano", "efficienttam_s_1"]
    assert "in the package" in rows["etam_nano"]
    assert "256 px" in rows["etam_nano"]
    assert " cached " in rows["efficienttam_s_1"]
    assert any("--checkpoint FILE" in line for line in lines)
    assert lines[-1] == f"next: etam-edge export --model {SUGGESTED}"
    assert SUGGESTED in OFFICIAL


def test_models_says_nothing_of_downloads_when_all_is_cached(cached: dict[str, Path]) -> None:
    cached.update({name: Path(f"/cache/{name}.pt") for name in OFFICIAL})
    text = say("models")
    assert "not cached" not in text
    assert "--checkpoint" not in text


def test_names_stay_whole_on_a_narrow_terminal(cached: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    text = say("models")
    assert all(name in text for name in MODELS)


def test_models_as_json(cached: dict[str, Path]) -> None:
    cached["efficienttam_s"] = Path("/cache/:key:/efficienttam_s.pt")
    rows = {row["name"]: row for row in json.loads(say("models", "--json"))}
    assert list(rows) == list(MODELS)
    assert rows["efficienttam_s"] == {
        "name": "efficienttam_s",
        "image_size": 1024,
        "pooling": "none",
        "parameters": 34056098,
        "checkpoint": "/cache/:key:/efficienttam_s.pt",
    }
    assert rows["efficienttam_ti_2"]["pooling"] == "key_bias"
    assert rows["efficienttam_ti_2"]["checkpoint"] is None


def test_models_without_the_hub_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert say("models").count("│ not cached") == len(OFFICIAL)


def test_models_finds_what_is_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--yunyangx--efficient-track-anything"
    commit = "0123456789abcdef0123456789abcdef01234567"
    file = repository / "snapshots" / commit / "efficienttam_ti.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    rows = {row["name"]: row["checkpoint"] for row in json.loads(say("models", "--json"))}
    assert rows.pop(NANO.name) == str(checkpoints.PACKAGED)
    assert {name: path for name, path in rows.items() if path} == {"efficienttam_ti": str(file)}


def test_models_loads_nothing_heavy() -> None:
    assert not {"torch", "onnx", "onnxruntime", "numpy", "cv2"} & loaded_by("models")


# --- doctor: packages -------------------------------------------------------------------------------------------------


def test_doctor_loads_nothing_heavy_but_onnxruntime() -> None:
    assert not {"torch", "onnx", "onnxslim", "cv2", "huggingface_hub", "tensorrt"} & loaded_by("doctor")


def test_packages_are_found_with_their_versions() -> None:
    found = {package.name: look_up(package) for package in PACKAGES}
    assert found["numpy"].version == metadata.version("numpy")
    assert found["pillow"].version == metadata.version("pillow")
    assert found["numpy"].usable
    if importlib.util.find_spec("onnxruntime") is not None:
        assert "CPUExecutionProvider" in found["onnxruntime"].detail


def test_a_package_that_is_not_there() -> None:
    assert look_up(Package("no_such_package", "no_such_package", "nothing", "")) == Installed(None)


def module_at(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_package_without_metadata_has_an_unknown_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module_at(tmp_path, "system_package", "", monkeypatch)
    found = look_up(Package("system_package", "system_package", "nothing", ""))
    assert found.version == "unknown"
    assert found.usable


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnx_models").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert look_up(Package("onnx_models", "onnx_models", "nothing", "")) == Installed(None)


@pytest.mark.parametrize(
    ("version", "problem"),
    [("1.9.1", "is older than 1.17"), ("1.17", ""), ("1.17.0", ""), ("1.17rc1", ""), ("2.0.0+cu126", "")],
)
def test_a_version_is_held_to_what_the_package_requires(
    version: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ['Some_Package>=1.17; extra == "export"', "other"])
    monkeypatch.setattr(metadata, "version", lambda name: version)
    found = look_up(Package("some-package", "json", "nothing", ""))
    assert found == Installed(version, problem)
    assert found.usable is not bool(problem)


def test_minimum_versions_come_from_the_project_itself() -> None:
    required = {"numpy", "pillow", "typer", "onnxruntime", "openvino", "av", "opencv", "matplotlib"}
    required |= {"torch", "onnx", "onnxslim", "onnx_ir", "huggingface_hub", "tensorrt", "tensorrt_rtx", "pycuda"}
    held = {package.name for package in PACKAGES if packages_module._oldest_version(package)}
    assert held == required


def test_install_lines_name_extras_that_exist() -> None:
    extras = metadata.metadata("etam-edge").get_all("Provides-Extra") or []
    named = {match for package in PACKAGES for match in re.findall(r"etam-edge\[(\w+)\]", package.install)}
    assert named == {"onnxruntime", "openvino", "video", "check", "export", "rtx"}
    assert named | {"all"} <= set(extras)


def test_an_onnxruntime_that_does_not_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module_at(tmp_path, "onnxruntime", "raise ImportError('libcudart.so.12: cannot open\\nmore')", monkeypatch)
    package = next(package for package in PACKAGES if package.name == "onnxruntime")
    found = look_up(package)
    assert found.problem == "cannot be imported (libcudart.so.12: cannot open)"
    assert not found.usable


# --- doctor: the machine ----------------------------------------------------------------------------------------------

L4T_36 = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n"
L4T_35 = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1 2023\n"
DPKG = """Package: nvidia-cuda
Status: install ok installed
Version: 12.6

Package: nvidia-jetpack
Status: install ok installed
Priority: standard
Version: 6.2.1+b38
Architecture: arm64

Package: zlib1g
Version: 1.2.11
"""
DRIVER = "NVRM version: NVIDIA UNIX {}  {}  Release Build  (dvs-builder@U16)\nGCC version:  gcc version 12.3.0\n"


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file system without anything, on a machine without nvidia-smi."""
    monkeypatch.setattr(doctor_module, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def nvidia_smi(root: Path, script: str) -> None:
    write(root, "bin/nvidia-smi", f"#!/bin/sh\n{script}\n")
    (root / "bin/nvidia-smi").chmod(0o755)


def test_a_machine_that_tells_nothing(root: Path) -> None:
    machine = look_at_machine(root)
    assert machine.cores >= 1
    assert machine.cpu
    unknown = (machine.memory, machine.cuda_driver, machine.board, machine.l4t, machine.jetpack)
    assert unknown == (None,) * 5
    assert machine.gpus == []
    assert "unknown" in say("doctor")


def test_cpu_and_memory(root: Path) -> None:
    write(root, "proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Some CPU @ 2.50GHz\n")
    write(root, "proc/meminfo", "MemTotal:       16777216 kB\nMemFree:          10 kB\nMemAvailable:    8388608 kB\n")
    machine = look_at_machine(root)
    assert machine.cpu == "Some CPU @ 2.50GHz"
    assert machine.memory == 16 * 2**30
    assert machine.memory_available == 8 * 2**30
    assert "16.0 GiB, 8.0 GiB available" in say("doctor")


def test_a_jetson(root: Path) -> None:
    write(root, "etc/nv_tegra_release", L4T_36)
    write(root, "proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    machine = look_at_machine(root)
    assert (machine.l4t, machine.jetpack) == ("36.4.3", "6")
    write(root, "var/lib/dpkg/status", DPKG)
    machine = look_at_machine(root)
    assert (machine.l4t, machine.jetpack) == ("36.4.3", "6.2.1")
    assert machine.board == machine.cpu == "NVIDIA Jetson Orin Nano Developer Kit"
    text = " ".join(re.sub(r"[│\n]", " ", say("doctor")).split())
    assert "NVIDIA Jetson Orin Nano Developer Kit, JetPack 6.2.1, Jetson Linux 36.4.3" in text
    assert "not supported" not in text


def test_jetpack_5_is_refused_by_name(root: Path) -> None:
    write(root, "etc/nv_tegra_release", L4T_35)
    text = say("doctor")
    for sentence in CAN.values():
        assert f"{sentence}: no, JetPack 5.1 (Jetson Linux 35.4.1) is not supported" in text
    assert "install JetPack 6 or newer" in text


@pytest.mark.parametrize(
    ("release", "l4t", "jetpack"),
    [
        ("# R32 (release), REVISION: 7.1, GCID: 1", "32.7.1", "4"),
        ("# R38 (release), REVISION: 2.0, GCID: 1", "38.2.0", "7"),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "99.1.0", None),
        ("something else", None, None),
        ("", None, None),
    ],
)
def test_jetson_linux_releases(root: Path, release: str, l4t: str | None, jetpack: str | None) -> None:
    write(root, "etc/nv_tegra_release", release)
    machine = look_at_machine(root)
    assert (machine.l4t, machine.jetpack) == (l4t, jetpack)


def test_gpus_of_nvidia_smi(root: Path) -> None:
    nvidia_smi(
        root, "echo 'NVIDIA A100-SXM4-80GB, 550.54.15, 81920 MiB'; echo 'Orin (nvgpu), 550.54.15, [N/A]'; echo odd"
    )
    machine = look_at_machine(root)
    assert machine.cuda_driver == "550.54.15"
    assert machine.gpus == ["NVIDIA A100-SXM4-80GB, 81920 MiB", "Orin (nvgpu)"]


@pytest.mark.parametrize("script", ["echo no devices >&2; exit 9", "echo", "exec sleep 30"])
@pytest.mark.parametrize(
    ("module", "version"),
    [("x86_64 Kernel Module", "535.183.01"), ("Open Kernel Module for x86_64", "570.86.15")],
)
def test_gpus_of_the_driver_where_nvidia_smi_fails(
    root: Path, script: str, module: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{root / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(machine_module, "QUERY_TIMEOUT", 0.2)
    nvidia_smi(root, script)
    write(root, "proc/driver/nvidia/version", DRIVER.format(module, version))
    write(root, "proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t NVIDIA GeForce RTX 4090\nIRQ:   1\n")
    write(root, "proc/driver/nvidia/gpus/0000:02:00.0/information", "nonsense")
    machine = look_at_machine(root)
    assert machine.cuda_driver == version
    assert machine.gpus == ["NVIDIA GeForce RTX 4090"]


def test_an_nvidia_smi_that_cannot_be_run(root: Path) -> None:
    nvidia_smi(root, "")
    (root / "bin/nvidia-smi").write_bytes(b"\x7fELF of another machine")
    assert look_at_machine(root).gpus == []


# --- doctor: the verdicts ---------------------------------------------------------------------------------------------


def machine_with(**changes: Any) -> Machine:
    plain = Machine(
        system="Linux",
        python="3.10.12",
        cpu="CPU",
        instruction_set="x86-64 AVX2",
        cores=4,
        memory=None,
        memory_available=None,
        cuda_driver=None,
        gpus=[],
        board=None,
        l4t=None,
        jetpack=None,
    )
    return dataclasses.replace(plain, **changes)


def packages_without(*missing: str, providers: tuple[str, ...] = ("CPUExecutionProvider",)) -> dict[str, Installed]:
    found = {package.name: Installed(None if package.name in missing else "9.9") for package in PACKAGES}
    if "onnxruntime" not in missing:
        found["onnxruntime"] = Installed("9.9", detail=list(providers))
    return found


def able(verdicts: dict[str, Any]) -> set[str]:
    return {name for name, verdict in verdicts.items() if verdict.able}


def test_all_is_there() -> None:
    verdicts = judge(machine_with(), packages_without())
    assert able(verdicts) == set(CAN) - {"engines"} == {"export", "track", "video", "check"}
    assert verdicts["track"].reason == "on CPU"
    assert verdicts["engines"].reason == "there is no NVIDIA GPU"
    assert next_step(verdicts) == "etam-edge models"


@pytest.mark.parametrize(
    ("board", "gpus", "target"),
    [
        ("NVIDIA Jetson Orin Nano Developer Kit", [], "jetson-orin-nano"),
        ("NVIDIA Jetson AGX Orin", [], "jetson-orin"),
        ("NVIDIA Jetson AGX Thor Developer Kit", [], "jetson-thor"),
        (None, ["NVIDIA A100-SXM4-40GB"], "a100"),
        (None, ["NVIDIA RTX A4000"], "this-machine"),
    ],
)
def test_engines_and_the_target_that_this_machine_is(board: str | None, gpus: list[str], target: str) -> None:
    machine = machine_with(board=board, gpus=gpus, l4t="36.4" if board else None)
    verdict = judge(machine, packages_without("pycuda"))["engines"]
    assert verdict.able
    assert verdict.reason.startswith(f"etam-edge build BUNDLE --target {target}; fp16")
    assert not judge(machine, packages_without("tensorrt"))["engines"].able
    assert (
        "neither pycuda nor cuda-bindings"
        in judge(machine, packages_without("pycuda", "cuda-bindings"))["engines"].reason
    )


@pytest.mark.parametrize("missing", EXPORT_NEEDS)
def test_export_needs_all_its_packages(missing: str) -> None:
    verdict = judge(machine_with(), packages_without(missing))["export"]
    assert not verdict.able
    assert verdict.reason == f'{missing} cannot be used: pip install "etam-edge[export]"'


def test_a_robot_with_the_runtime_alone() -> None:
    verdicts = judge(machine_with(), packages_without("torch", "onnx", "onnxslim", "huggingface_hub", "av", "opencv"))
    assert able(verdicts) == {"track"}
    assert verdicts["export"].reason.startswith("torch, onnx and onnxslim cannot be used")
    assert verdicts["video"].reason == 'av cannot be used: pip install "etam-edge[video]"'
    assert next_step(verdicts) == "etam-edge track BUNDLE VIDEO --point X,Y"


def test_nothing_is_there() -> None:
    verdicts = judge(machine_with(), packages_without(*(package.name for package in PACKAGES)))
    assert able(verdicts) == set()
    assert next_step(verdicts) == 'pip install "etam-edge[all]"'


def test_without_the_hub_client_export_needs_a_file() -> None:
    verdict = judge(machine_with(), packages_without("huggingface_hub"))["export"]
    assert verdict.able
    assert "only from a checkpoint file" in verdict.reason


def test_a_package_with_a_problem_is_as_good_as_missing() -> None:
    packages = {**packages_without(), "torch": Installed("1.13", "is older than 2.4")}
    assert able(judge(machine_with(), packages)) == {"track", "video", "check"}


@pytest.mark.parametrize(
    ("gpus", "providers", "reason"),
    [
        ([], ("CUDAExecutionProvider", "CPUExecutionProvider"), "on CPU"),
        (["GPU"], ("CUDAExecutionProvider", "CPUExecutionProvider"), "on CUDA and CPU"),
        (["GPU"], ("CPUExecutionProvider",), "on CPU; for the GPU, install onnxruntime-gpu in place of onnxruntime"),
    ],
)
def test_where_it_would_track(gpus: list[str], providers: tuple[str, ...], reason: str) -> None:
    verdicts = judge(machine_with(gpus=gpus), packages_without(providers=providers))
    assert verdicts["track"].reason == reason


def test_an_old_python_is_refused_by_name() -> None:
    verdicts = judge(machine_with(python="3.8.10"), packages_without())
    assert able(verdicts) == set()
    assert verdicts["export"].reason == "Python 3.8.10 is too old; install Python 3.10 or newer"


# --- doctor: the report -----------------------------------------------------------------------------------------------


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say which packages doctor finds."""

    def set_found(*missing: str) -> None:
        packages = packages_without(*missing)
        monkeypatch.setattr(doctor_module, "look_up", lambda package: packages[package.name])

    return set_found


def test_report_of_a_bare_machine(root: Path, found: Callable[..., None]) -> None:
    found("torch", "av", "opencv", "tensorrt", "pycuda", "huggingface_hub")
    lines = say("doctor").splitlines()
    assert 'torch is missing; it is for export: pip install "etam-edge[export]"' in lines
    assert 'opencv is missing; it is for overlays, and the check: pip install "etam-edge[video]"' in lines
    assert sum(" is missing; it is for " in line for line in lines) == 6
    assert lines[-6:] == [
        'can export: no, torch cannot be used: pip install "etam-edge[export]"',
        "can track with ONNX Runtime: yes, on CPU",
        'can read videos: no, av cannot be used: pip install "etam-edge[video]"',
        'can check accuracy: no, opencv cannot be used: pip install "etam-edge[onnxruntime,check]"',
        "can build and run TensorRT engines: no, there is no NVIDIA GPU",
        "next: etam-edge track BUNDLE VIDEO --point X,Y",
    ]


def test_report_names_every_package(root: Path, found: Callable[..., None]) -> None:
    found()
    text = say("doctor")
    assert all(f" {package.name} " in text for package in PACKAGES)
    assert "is missing" not in text
    assert text.endswith("next: etam-edge models\n")


def test_report_as_json(root: Path, found: Callable[..., None]) -> None:
    found("av", "opencv")
    write(root, "etc/nv_tegra_release", L4T_36)
    report = json.loads(say("doctor", "--json"))
    assert report["etam-edge"] == metadata.version("etam-edge")
    assert report["machine"]["l4t"] == "36.4.3"
    assert report["packages"]["opencv"]["version"] is None
    assert report["packages"]["opencv"]["install"] == 'pip install "etam-edge[video]"'
    assert report["packages"]["onnxruntime"]["detail"] == ["CPUExecutionProvider"]
    assert report["can"]["video"]["able"] is False
    assert report["can"]["export"] == {"able": True, "reason": ""}
    assert report["next"] == "etam-edge models"


def test_report_of_this_very_machine() -> None:
    report = json.loads(say("doctor", "--json"))
    assert report["machine"]["python"] == sys.version.split()[0].rstrip("+")
    assert set(report["packages"]) == {package.name for package in PACKAGES}
    assert "next: " in say("doctor")


def test_a_package_that_breaks_the_search_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    # A module without a spec, as some programs leave them in sys.modules.
    monkeypatch.setitem(sys.modules, "odd_module", types.ModuleType("odd_module"))
    assert look_up(Package("odd_module", "odd_module", "nothing", "")) == Installed(None)
