"""benchmarks/gpu_selftest.py on the simulated GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import SmallBundleMaker

import etam_edge
from benchmarks import gpu_selftest
from benchmarks.gpu_selftest import ORDER, answers_of, main
from etam_edge.bundle import Bundle
from etam_edge.spec import Pooling

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(small_bundle: SmallBundleMaker, tmp_path: Path) -> Path:
    """What `prepare` writes, of one model and precision."""
    bundle = tmp_path / "bundles" / ORDER[0][0] / ORDER[0][1]
    Bundle.load(small_bundle(Pooling.SCORE_BIAS)).copy_to(bundle)
    return tmp_path / "bundles"


@pytest.mark.full
def test_bundles_are_tested_with_tensorrt_8_6(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, precision = ORDER[0]
    bundle = folder / model / precision
    assert etam_edge.selftest(bundle, runtime="onnxruntime", write_answers=answers_of(bundle), frames=1).passed
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "etam_edge_testing" / "simulated_packages"))
    monkeypatch.setenv("SIMULATED_TENSORRT", "8.6.1")
    monkeypatch.setenv("SIMULATED_FAULTS", "no-libraries")
    assert main(["run", str(folder), "--output", str(tmp_path / "out")]) == 0
    assert f"{model}-{precision}" in {path.name for path in (tmp_path / "out").iterdir()}
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "in tensorrt: passed" in summary
    assert "tensorrt 8.6.1 on NVIDIA A100" in summary
    assert "passed" in (tmp_path / "out" / f"{model}-{precision}.log").read_text()


def test_nothing_starts_when_the_time_is_used_up(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(folder), "--output", str(tmp_path / "out"), "--seconds", "1"]) == 1
    assert capsys.readouterr().out == f"{ORDER[0][0]} {ORDER[0][1]}: no time left\n"
    assert (tmp_path / "out" / "summary.md").read_text() == ""


def test_preparing_covers_what_is_tested(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepared: list[tuple[str, ...]] = []
    monkeypatch.setattr(gpu_selftest, "prepare", lambda folder, models: prepared.append(tuple(models)))
    assert main(["prepare", str(tmp_path)]) == 0
    assert set(prepared[0]) == {model for model, _ in ORDER}
    assert len(set(ORDER)) == 6
    with pytest.raises(SystemExit):
        main(["prepare", str(tmp_path), "efficienttam_xl"])
