"""The workflows as functions: docs/python_api.md runs as it is, and arguments are checked before any work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import etam_edge
from etam_edge import Bundle, Progress, Recipe
from etam_edge.errors import BundleError, InputError
from etam_edge.workflows.progress import Stage
from etam_edge.workflows.verify import verify_answer

PAGE = Path(__file__).parents[1] / "docs" / "python_api.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All names that the code of the page leaves behind, and `here`, its working directory."""
    for package in ("torch", "onnx", "cv2", "matplotlib"):
        pytest.importorskip(package)
    if not PAGE.is_file():
        pytest.skip("installed without its documentation")
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    here = tmp_path_factory.mktemp("page")
    names: dict[str, Any] = {"here": here, "recording_path": here / "recording"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        exec(compile("\n".join(blocks), str(PAGE), "exec"), names)
    return names


@pytest.mark.full
def test_page_exports_and_quantizes(page: dict[str, Any]) -> None:
    here = page["here"]
    assert Bundle.load(here / "bundles/nano-fp32").manifest.precision == "fp32"
    int8 = Bundle.load(here / "bundles/nano-int8").manifest
    assert (int8.precision, int8.recipe.float_precision) == ("int8", "fp32")
    assert Bundle.load(here / "bundles/nano-fp16").manifest.precision == "fp16"
    encoder = Bundle.load(here / "bundles/nano-int8-encoder").manifest
    assert encoder.recipe.int8_regions == ("vit_windowed", "vit_global")
    assert encoder.calibration.clips == int8.calibration.clips
    assert int8.calibration.samples["track"] == 8
    for name in ("nano-fp32", "nano-int8", "nano-fp16"):
        assert verify_answer(Bundle.load(here / "bundles" / name)) < 1e-3


@pytest.mark.full
def test_page_checks_and_tracks(page: dict[str, Any]) -> None:
    result = page["result"]
    assert result.passed
    assert result.verdict.passed
    assert 0.8 < result.comparison.overall.mean_iou < 1
    assert [clip.name for clip in result.comparison.clips] == ["chair", "crossing"]
    assert (page["here"] / result.report).is_file()
    assert Bundle.load(page["here"] / "bundles/nano-int8").manifest.accuracy.passed is True
    assert page["second"].object_ids == (1,)
    assert page["second"].masks.any()


@pytest.mark.full
def test_progress_is_told_of_every_stage_from_none_to_all(page: dict[str, Any], tmp_path: Path) -> None:
    told: list[Progress] = []
    bundle = page["here"] / "bundles/nano-fp32"
    etam_edge.quantize(bundle, page["recording_path"], "fp16", tmp_path / "fp16", progress=told.append)
    assert [one.stage for one in told if one.done == 0] == ["ranges"]
    assert [one.done for one in told] == list(range(len(told)))
    assert told[-1].done == told[-1].total
    assert str(told[-1]).startswith("ranges track (")


@pytest.mark.full
def test_an_exception_of_the_callback_leaves_nothing(page: dict[str, Any], tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.done == 3:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        etam_edge.quantize(
            page["here"] / "bundles/nano-fp32", page["recording_path"], "fp16", tmp_path / "fp16", progress=stop
        )
    assert list(tmp_path.iterdir()) == []


QUANTIZE_WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnxslim", "safetensors", "huggingface_hub"}:
            raise ImportError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
sys.argv = ["etam-edge", *sys.argv[1:]]
from etam_edge.cli.app import main

main()
"""


@pytest.mark.full
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_quantize_needs_no_pytorch(page: dict[str, Any], tmp_path: Path, precision: str) -> None:
    command = [sys.executable, "-c", QUANTIZE_WITHOUT_TORCH, "quantize", str(page["here"] / "bundles/nano-fp32")]
    options = ["--calibration", str(page["recording_path"]), "--precision", precision, "--output", str(tmp_path / "b")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert Bundle.load(tmp_path / "b").manifest.precision == precision
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"next: etam-edge check {tmp_path / 'b'} --reference {page['here'] / 'bundles/nano-fp32'}")
    blocked = subprocess.run([*command[:3], "export", "--output", str(tmp_path / "e")], capture_output=True, text=True)
    assert blocked.returncode == 2
    assert "export needs a package that is missing (torch)" in blocked.stderr


@pytest.mark.full
def test_wrong_arguments_are_refused_before_any_work(page: dict[str, Any], tmp_path: Path) -> None:
    fp32, int8 = page["here"] / "bundles/nano-fp32", page["here"] / "bundles/nano-int8"
    clips = page["here"] / "clips"
    here = tmp_path / "b"
    with pytest.raises(InputError, match="is int8; other precisions are made from an fp32 bundle"):
        etam_edge.quantize(int8, clips, "fp16", here)
    with pytest.raises(InputError, match="is fp32 already; ask for `precision` fp16, int8 or mixed"):
        etam_edge.quantize(fp32, None, "fp32", here)
    with pytest.raises(InputError, match="`precision=int4` is not known; use fp32, fp16, int8 or mixed"):
        etam_edge.quantize(fp32, clips, "int4", here)
    with pytest.raises(InputError, match=r"int8 needs calibration .* add `calibration=CLIPS`"):
        etam_edge.quantize(fp32, None, "int8", here)
    with pytest.raises(InputError, match="there is nothing at `calibration="):
        etam_edge.quantize(fp32, tmp_path / "nowhere", "int8", here)
    with pytest.raises(InputError, match="already holds a bundle; add `overwrite=True`"):
        etam_edge.quantize(fp32, clips, "int8", int8)
    with pytest.raises(InputError, match="`max_drop` and `clips` choose the regions of precision mixed"):
        etam_edge.quantize(fp32, clips, "int8", here, max_drop=1.0)
    with pytest.raises(InputError, match="no region is named 'brain'"):
        etam_edge.quantize(fp32, clips, "int8", here, regions={"brain": "fp32"})
    with pytest.raises(BundleError, match="there is no bundle at"):
        etam_edge.check(here, fp32, clips)
    with pytest.raises(InputError, match="`max_drop=-1` is not a number of points"):
        etam_edge.check(int8, fp32, clips, max_drop=-1)
    with pytest.raises(InputError, match="`reference`: runtime 'fast' is not known"):
        etam_edge.check(int8, fp32, clips, reference_runtime="fast")
    with pytest.raises(InputError, match="no target is named 'toaster'"):
        etam_edge.build(fp32, "toaster")
    with pytest.raises(InputError, match="`runtime=onnxruntime` cannot build engines"):
        etam_edge.build(fp32, runtime="onnxruntime")
    with pytest.raises(InputError, match="`pool=3x3` is not known"):
        etam_edge.export(output=here, pool="3x3")
    assert list(tmp_path.iterdir()) == []


def test_names_beside_the_source() -> None:
    from etam_edge.workflows.quantize import _beside

    assert _beside(Path("bundles/ti-fp32"), "int8") == Path("bundles/ti-int8")
    assert _beside(Path("out/fp32"), "int8") == Path("out/int8")
    assert _beside(Path("mine"), "fp16") == Path("mine-fp16")


def test_a_recipe_with_a_limit_is_a_set_of_candidates() -> None:
    from etam_edge.workflows.quantize import plan_quantization

    recipe = Recipe({"neck": "int8"}, float_precision="fp32")
    plan = plan_quantization([], recipe, None, "fp16", None, 0.3, None)
    assert plan is not None
    assert (plan.precision, plan.max_drop, plan.recipe) == ("mixed", 0.3, recipe)
    taken = plan_quantization([], recipe, None, "fp16", {"neck": "fp16"}, None, None)
    assert taken is not None
    assert (taken.precision, taken.max_drop) == ("fp16", None)


def test_stages_count_their_steps() -> None:
    told: list[Progress] = []
    stage = Stage(told.append, "check", 2, "frame")
    stage.step("crossing")
    stage.update(2, "chair")
    assert told == [
        Progress("check", "", 0, 2, "frame"),
        Progress("check", "crossing", 1, 2, "frame"),
        Progress("check", "chair", 2, 2, "frame"),
    ]
    assert str(told[1]) == "check crossing (1/2 frames)"
    Stage(None, "check", None).step()
