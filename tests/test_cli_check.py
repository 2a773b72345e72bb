"""`etam-edge check`, driven as a user would drive it, on bundles that are whole and on bundles that are damaged."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SmallBundleMaker
from PIL import Image
from typer.testing import CliRunner, Result

from etam_edge import atomic
from etam_edge.bundle import Accuracy, Bundle, ReferenceBundle, sha256_of
from etam_edge.bundle.checks import read_checks
from etam_edge.cli.app import app
from etam_edge.errors import BundleError, RuntimeUnavailableError
from etam_edge.printable import one_line, printable
from etam_edge.spec import Pooling
from etam_edge_testing.davis import HEIGHT, WIDTH, frame, labels, write_clip
from etam_edge_testing.manifests import write_manifest
from etam_edge_testing.refusals import refused

pytest.importorskip("onnxruntime")
pytest.importorskip("cv2")
pytest.importorskip("matplotlib")

FRAMES = 8
NAME = "crossing <b>&amp;[red]"
"""A clip's name that is neither HTML nor markup."""
Damager = Callable[[str], Path]


@pytest.fixture
def bundle(small_bundle: SmallBundleMaker, tmp_path: Path) -> Path:
    """A copy of its own: the check writes into its manifest."""
    return Path(shutil.copytree(small_bundle(Pooling.SCORE_BIAS), tmp_path / "whole"))


@pytest.fixture(scope="module")
def damaged(small_bundle: SmallBundleMaker, tmp_path_factory: pytest.TempPathFactory) -> Damager:
    """Bundles whose `track` graph is another one, with a manifest that says so."""
    onnx = pytest.importorskip("onnx")
    made: dict[str, Path] = {}

    def change(kind: str, name: str, value: np.ndarray) -> np.ndarray:
        if kind == "weights" and name == "attention.conditioned.norm.weight":
            return 3 * value
        if kind == "time codes" and name.endswith("time_codes"):
            return value[::-1].copy()
        if kind == "nan" and name == "attention.conditioned.norm.bias":
            return np.full_like(value, np.nan)
        return value

    def make(kind: str) -> Path:
        if kind not in made:
            path = tmp_path_factory.mktemp("damaged") / kind.replace(" ", "_")
            shutil.copytree(small_bundle(Pooling.SCORE_BIAS), path)
            file = path / "graphs" / "track.onnx"
            model = onnx.load(file)
            changed = 0
            for initializer in model.graph.initializer:
                before = onnx.numpy_helper.to_array(initializer)
                after = change(kind, initializer.name, before)
                if after is not before:
                    initializer.CopyFrom(onnx.numpy_helper.from_array(after, initializer.name))
                    changed += 1
            assert changed, "the graph has other names by now"
            onnx.save(model, file)
            manifest = json.loads((path / "bundle.json").read_text())
            manifest["graphs"]["track"]["sha256"] = sha256_of(file)
            write_manifest(path, manifest)
            made[kind] = path
        return made[kind]

    return make


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Two clips with ground-truth masks on every frame."""
    write_clip(tmp_path / "davis", NAME, FRAMES)
    write_clip(tmp_path / "davis", "other", FRAMES - 2)
    return tmp_path / "davis"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A clip with nothing but the prompts' masks."""
    write_clip(tmp_path / "bare", "bare", FRAMES, annotated=[0])
    return tmp_path / "bare"


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def run(bundle: Path, reference: Path, clips: Path, *arguments: object) -> Result:
    options = ["--reference", reference, "--clips", clips, "--threads", 1, *arguments]
    return CliRunner().invoke(app, ["check", str(bundle), *map(str, options)])


def report(folder: Path) -> tuple[dict[str, Any], str]:
    assert {path.name for path in folder.iterdir()} - {"history"} == {"check.json", "report.html"}

    def no_number(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    figures = json.loads((folder / "check.json").read_text(), parse_constant=no_number)
    return figures, (folder / "report.html").read_text(encoding="utf-8")


def test_a_bundle_against_itself_loses_nothing(bundle: Path, clips: Path) -> None:
    result = run(bundle, bundle, clips, "--max-drop", 0, "--min-iou", 1)
    assert result.exit_code == 0, result.output
    assert "passed: J&F drops by 0.000 points" in result.output
    assert "the smallest IoU with the reference is 1.000" in result.output
    assert f"next: etam-edge track {bundle}" in result.output
    assert "[red]" in result.output
    assert "different checkpoints" not in result.output
    figures, page = report(Path("checks/whole-against-whole"))
    assert figures["verdict"]["passed"] is True
    assert figures["thresholds"] == {"max_drop": 0, "min_iou": 1}
    assert figures["candidate"] == figures["reference"]
    comparison = figures["comparison"]
    overall = comparison["overall"]
    assert overall["drop"] == {"j": 0, "f": 0, "j_and_f": 0}
    assert overall["mean_iou"] == overall["worst"]["iou"] == 1
    assert overall["score_flips"] == overall["choice_flips"] == {"count": 0, "of": 2 * (FRAMES - 1 + FRAMES - 3)}
    # Seeded weights draw something: what is compared are no empty masks.
    assert overall["both_empty"]["count"] == 0
    assert 0 < overall["candidate"]["j"] < 1
    assert comparison["judged_clips"] == 2
    assert [(clip["name"], clip["frames"]) for clip in comparison["clips"]] == [(NAME, FRAMES), ("other", FRAMES - 2)]
    for clip in comparison["clips"]:
        for one in clip["objects"]:
            assert len(one["iou"]) == len(one["candidate_j"]) == clip["frames"] - 1
    assert comparison["candidate_latency"]["frames"] == FRAMES - 1 + FRAMES - 3
    assert_whole_page(page, pictures=4 + 2 * 4)


def assert_whole_page(page: str, pictures: int) -> None:
    """Everything is inside it, and names are text."""
    found = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', page)
    assert len(found) == pictures
    assert all(len(data) > 500 for data in found)
    rest = re.sub(r'src="data:[^"]+"', "", page)
    assert "http" not in rest
    assert "src=" not in rest
    assert "url(" not in rest
    assert "<b>" not in rest
    assert "crossing &lt;b&gt;&amp;amp;[red]" in rest


def test_the_verdict_goes_into_the_manifest_and_inspect_shows_it(bundle: Path, clips: Path) -> None:
    said = CliRunner().invoke(app, ["inspect", str(bundle)]).output
    assert f"not checked; run: etam-edge check {bundle} --reference" in said
    before = Bundle.load(bundle)
    assert run(bundle, bundle, clips).exit_code == 0
    after = Bundle.load(bundle)
    assert after.identity == before.identity
    accuracy = after.manifest.accuracy
    assert accuracy is not None
    assert accuracy.passed is True
    assert accuracy.thresholds == {"max_drop": 1.0, "min_iou": None}
    assert accuracy.drop == 0
    assert accuracy.reference_j_and_f == accuracy.candidate_j_and_f
    assert accuracy.mean_iou == accuracy.smallest_iou == 1
    runtime = "onnxruntime (cpu)"
    assert accuracy.reference == ReferenceBundle(name="whole", identity=before.identity, runtime=runtime)
    assert accuracy.runtime == runtime
    assert [(clip.name, clip.frames) for clip in accuracy.clips] == [(NAME, FRAMES), ("other", FRAMES - 2)]
    assert accuracy.candidate_not_finite == accuracy.score_flips["count"] == 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", accuracy.created)
    assert accuracy.etam_edge
    [line] = [
        line for line in CliRunner().invoke(app, ["inspect", str(bundle)]).output.splitlines() if "accuracy" in line
    ]
    assert "passed: J&F drop 0.00 points (at most 1), smallest IoU 1.000, against whole over 2 clips" in line


@pytest.mark.parametrize("kind", ["weights", "time codes"])
def test_a_damaged_bundle_fails(kind: str, bundle: Path, damaged: Damager, bare: Path) -> None:
    result = run(damaged(kind), bundle, bare, "--min-iou", 0.9, "--output", "out")
    assert result.exit_code == 1, result.output
    assert "failed: the smallest IoU with the reference is 0." in result.output
    assert "next: etam-edge inspect" in result.output
    figures, _ = report(Path("out"))
    assert figures["verdict"]["passed"] is False
    assert figures["comparison"]["overall"]["worst"]["iou"] < 0.9
    assert figures["candidate"]["identity"] != figures["reference"]["identity"]
    assert Bundle.load(damaged(kind)).manifest.accuracy.passed is False
    # The same call passes with a bundle that is whole.
    assert run(bundle, bundle, bare, "--min-iou", 0.9, "--output", "out").exit_code == 0


def test_a_drop_of_accuracy_fails(bundle: Path, damaged: Damager, tmp_path: Path) -> None:
    """What is true here is what the whole bundle answers: it has J&F 1, and the damaged one less."""
    from etam_edge.evaluation.check import run as follow
    from etam_edge.media.datasets import find_clips
    from etam_edge.runtimes import Tracker

    write_clip(tmp_path / "prompted", "clip", FRAMES)
    answers = follow(Tracker.load(bundle, threads=1), find_clips(tmp_path / "prompted")[0])
    # Masks of different objects may overlap, annotations may not: one object.
    truth = {index: answers.masks(index)[0].astype(np.uint8) for index in range(1, FRAMES)}
    write_clip(tmp_path / "true", "clip", FRAMES, annotations={0: (labels(0) == 1).astype(np.uint8), **truth})
    result = run(damaged("weights"), bundle, tmp_path / "true")
    assert result.exit_code == 1, result.output
    figures, _ = report(Path("checks/weights-against-whole"))
    overall = figures["comparison"]["overall"]
    assert overall["reference"] == {"j": 1, "f": 1, "j_and_f": 1}
    assert overall["drop"]["j_and_f"] == pytest.approx(100 * (1 - overall["candidate"]["j_and_f"]))
    assert overall["drop"]["j_and_f"] > 1
    generous = run(damaged("weights"), bundle, tmp_path / "true", "--max-drop", overall["drop"]["j_and_f"] + 0.01)
    assert generous.exit_code == 0, generous.output


def test_a_bundle_that_answers_nan_fails_whatever_is_allowed(
    bundle: Path, damaged: Damager, clips: Path, bare: Path
) -> None:
    result = run(damaged("nan"), bundle, clips, "--max-drop", 100, "--min-iou", 0)
    assert result.exit_code == 1, result.output
    assert f"failed: the candidate's outputs were NaN or infinite on {FRAMES - 1 + FRAMES - 3} frames" in result.output
    figures, page = report(Path("checks/nan-against-whole"))
    assert figures["comparison"]["candidate_not_finite"] == FRAMES - 1 + FRAMES - 3
    assert figures["comparison"]["candidate_latency"] is None
    assert_whole_page(page, pictures=4 + 2 * 4)
    # Nor can it be a reference.
    assert run(bundle, damaged("nan"), bare, "--min-iou", 0).exit_code == 1


def test_without_true_masks_only_the_reference_counts(bundle: Path, bare: Path) -> None:
    refused(
        run(bundle, bundle, bare, "--max-drop", 1), "--max-drop cannot be judged: the clip has no ground-truth masks"
    )
    refused(run(bundle, bundle, bare, "--max-drop", 1, "--min-iou", 0.5), "--max-drop cannot be judged")
    refused(run(bundle, bundle, bare), "compare the masks with the reference's by --min-iou")
    assert not Path("checks").exists()
    result = run(bundle, bundle, bare, "--min-iou", 0.5)
    assert result.exit_code == 0, result.output
    assert "J&F" not in result.output
    figures, page = report(Path("checks/whole-against-whole"))
    assert figures["thresholds"] == {"max_drop": None, "min_iou": 0.5}
    assert figures["comparison"]["overall"]["drop"] is None
    # Drift, times, and one frame from three sides.
    assert page.count("data:image/") == 2 + 3


def test_some_clips_without_true_masks(bundle: Path, clips: Path) -> None:
    write_clip(clips, "sparse", FRAMES, annotated=[0, FRAMES - 1])
    result = run(bundle, bundle, clips)
    assert result.exit_code == 0, result.output
    assert "2 of 3 clips and 4 of 6 objects have it" in result.output
    figures, _ = report(Path("checks/whole-against-whole"))
    assert figures["comparison"]["judged_clips"] == 2
    assert figures["comparison"]["worst_fifth"]["by"] == "mean_iou"


def test_one_clip_with_a_prompts_file(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for index in range(FRAMES):
        Image.fromarray(frame(index)).save(folder / f"{index}.png")
    prompts = tmp_path / "prompts.json"
    entries = [
        {"frame": 0, "object": 1, "points": [[20, 20]], "labels": [1]},
        {"frame": 2, "object": 5, "box": [40, 20, 110, 90]},
        {"frame": 3, "object": 5, "points": [[75, 50]], "labels": [1], "refine": True},
    ]
    prompts.write_text(json.dumps(entries))
    result = run(bundle, bundle, folder, "--prompts", prompts, "--min-iou", 1, "--max-frames", 6)
    assert result.exit_code == 0, result.output
    figures, _ = report(Path("checks/whole-against-whole"))
    [clip] = figures["comparison"]["clips"]
    assert (clip["name"], clip["frames"]) == ("mine", 6)
    assert [(one["object_id"], one["prompt_frame"]) for one in clip["objects"]] == [(1, 0), (5, 2)]
    refused(run(bundle, bundle, folder, "--min-iou", 1), "is one clip; name the objects to track in it with --prompts")
    too_short = run(bundle, bundle, folder, "--prompts", prompts, "--min-iou", 1, "--max-frames", 3)
    refused(too_short, "clip mine has a prompt for frame 3, which its first 3 frames do not reach")
    entries[1]["box"] = [WIDTH, HEIGHT, WIDTH + 9, HEIGHT + 9]
    prompts.write_text(json.dumps(entries))
    refused(run(bundle, bundle, folder, "--prompts", prompts, "--min-iou", 1), "prompts.json, entry 1")


def test_a_wrong_call_is_one_sentence(bundle: Path, clips: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    refused(run(nothing, bundle, clips), f"there is no bundle at {nothing}")
    refused(run(bundle, nothing, clips), f"there is no bundle at {nothing}")
    refused(run(bundle, bundle, nothing), f"there are no clips at {nothing}")
    nothing.mkdir()
    refused(run(bundle, bundle, nothing), "holds no clips")
    refused(run(bundle, bundle, clips, "--max-drop", -1), "--max-drop -1 is not a number of points")
    refused(run(bundle, bundle, clips, "--max-drop", "nan"), "--max-drop nan is not a number of points")
    refused(run(bundle, bundle, clips, "--min-iou", 90), "--min-iou 90 is not an IoU")
    refused(run(bundle, bundle, clips, "--min-iou", "nan"), "--min-iou nan is not an IoU")
    refused(run(bundle, bundle, clips, "--runtime", "fast"), "runtime 'fast' is not known")
    refused(run(bundle, bundle, clips, "--reference-runtime", "fast"), "--reference: runtime 'fast' is not known")
    refused(run(bundle, bundle, clips, "--reference-provider", "npu"), "--reference: provider 'npu' is not known")
    taken = tmp_path / "taken"
    taken.write_text("")
    refused(run(bundle, bundle, clips, "--output", taken), f"--output {taken} cannot be written")
    for option in ("--max-frames", "--threads"):
        assert run(bundle, bundle, clips, option, 0).exit_code == 2
    assert not Path("checks").exists()
    assert Bundle.load(bundle).manifest.accuracy is None


def test_a_bundle_that_cannot_be_written_is_checked_all_the_same(
    bundle: Path, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atomic_file = atomic.atomic_file

    def read_only(path: Path) -> Any:
        if bundle in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return atomic_file(path)

    monkeypatch.setattr(atomic, "atomic_file", read_only)
    result = run(bundle, bundle, bare, "--min-iou", 0.5)
    assert result.exit_code == 0, result.output
    assert "warning: the verdict is not stored in the bundle" in result.output
    assert "Permission denied" in result.output
    assert Bundle.load(bundle).manifest.accuracy is None
    report(Path("checks/whole-against-whole"))


def test_a_report_that_cannot_be_written_leaves_the_earlier_one(
    bundle: Path, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path("checks/whole-against-whole")
    assert run(bundle, bundle, bare, "--min-iou", 0.5).exit_code == 0
    before = report(folder)
    replace = os.replace

    def full(path: Path, target: Path) -> None:
        if target.name == "report.html":
            raise OSError(28, "No space left on device", str(target))
        replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        refused(run(bundle, bundle, bare, "--min-iou", 0.5), "could not be written (No space left on device)")
    assert report(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == ["check.json", "report.html"]


def test_other_weights_are_said(bundle: Path, bare: Path, tmp_path: Path) -> None:
    other = shutil.copytree(bundle, tmp_path / "other")
    manifest = json.loads((other / "bundle.json").read_text())
    manifest["checkpoint"]["sha256"] = "0" * 64
    write_manifest(other, manifest)
    result = run(other, bundle, bare, "--min-iou", 1)
    assert result.exit_code == 0, result.output
    assert "come from different checkpoints" in result.output


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


def test_without_matplotlib_there_are_figures_and_no_plots(
    bundle: Path, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without("matplotlib", monkeypatch)
    result = run(bundle, bundle, bare, "--min-iou", 0.5)
    assert result.exit_code == 0, result.output
    assert 'pip install "etam-edge[check]"; figures are written without plots' in result.output
    figures, page = report(Path("checks/whole-against-whole"))
    assert figures["verdict"]["passed"] is True
    assert "There are no plots" in page
    assert page.count("data:image/") == 3, "the worst frame needs no matplotlib"


def test_every_check_is_kept(bundle: Path, bare: Path) -> None:
    """A later check with looser thresholds hides neither the verdict nor the report of the release."""
    assert run(bundle, bundle, bare, "--min-iou", 1, "--max-frames", 4).exit_code == 0
    first = Bundle.load(bundle).manifest.accuracy
    folder = Path("checks/whole-against-whole")
    before = report(folder)
    for _ in range(2):
        assert run(bundle, bundle, bare, "--min-iou", 0.25, "--max-frames", 3).exit_code == 0
    verdicts = read_checks(bundle)
    assert verdicts[0] == first
    assert [one.thresholds["min_iou"] for one in verdicts] == [1, 0.25, 0.25]
    assert verdicts[-1] == Bundle.load(bundle).manifest.accuracy
    for one in verdicts:
        assert one.cpu
        assert one.created
    assert [[(clip.name, clip.frames) for clip in one.clips] for one in verdicts] == [
        [("bare", 4)],
        [("bare", 3)],
        [("bare", 3)],
    ]
    # The reports are kept, too; the latest one is where it always is.
    history = sorted((folder / "history").iterdir())
    assert len(history) == 2
    assert report(history[0]) == before
    assert report(folder)[0]["thresholds"]["min_iou"] == 0.25
    said = CliRunner().invoke(app, ["inspect", str(bundle)]).output
    assert "smallest IoU 1.000 (at least 0.25), against whole over 1 clip" in said
    assert "earlier check: passed: smallest IoU 1.000 (at least 1), against whole over 1 clip" in said


def test_a_bundle_that_was_exported_again_meanwhile_gets_no_verdict(bundle: Path, damaged: Damager) -> None:
    loaded = Bundle.load(bundle)
    other = Bundle.load(damaged("weights")).copy_to(bundle, overwrite=True)
    checks = read_checks(bundle)
    with pytest.raises(BundleError, match="was exported again while it was checked"):
        loaded.store_accuracy(Accuracy(passed=True))
    assert Bundle.load(bundle).identity == other.identity
    assert Bundle.load(bundle).manifest.accuracy == other.manifest.accuracy
    assert read_checks(bundle) == checks


def test_verdicts_of_two_processes_are_both_kept(bundle: Path) -> None:
    """Each loaded the bundle before the other one wrote, and a reader never sees half a manifest."""
    loaded = [Bundle.load(bundle) for _ in range(8)]
    threads = [
        threading.Thread(target=one.store_accuracy, args=(Accuracy(passed=True, runtime=str(number)),))
        for number, one in enumerate(loaded)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        Bundle.load(bundle)
    assert sorted(one.runtime for one in read_checks(bundle)) == [str(number) for number in range(8)]


def test_the_verdict_of_a_bundle_without_a_history_begins_one(bundle: Path) -> None:
    first = Bundle.load(bundle).store_accuracy(Accuracy(passed=False, created="before"))
    (bundle / "checks.jsonl").unlink()
    first.store_accuracy(Accuracy(passed=True, created="after"))
    assert [one.created for one in read_checks(bundle)] == ["before", "after"]
    with open(bundle / "checks.jsonl", "a") as file:
        file.write('half a li\n[1]\n{"passed": true, "clips": 3}\n')
    assert [one.created for one in read_checks(bundle)] == ["before", "after"]


def test_names_of_clips_are_shown_as_they_are(bundle: Path, tmp_path: Path) -> None:
    """To matplotlib, rich, HTML and terminals they are text: no formula, no markup, no escape sequence."""
    odd = sorted(["$x^{$", "_hidden", "[red]x[bold", "a\x1b[31mb\nc", "caf\udce9"])
    for name in odd:
        write_clip(tmp_path / "odd", name, 4, annotated=[0, 1, 2])
    result = run(bundle, bundle, tmp_path / "odd", "--output", "out", "--max-frames", 3)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "\x1b" not in result.output
    figures, page = report(Path("out"))
    for name in odd:
        assert html.escape(printable(name)) in page
    assert sorted(clip["name"] for clip in figures["comparison"]["clips"]) == odd
    stored = [one_line(name) for name in odd]
    assert sorted(clip.name for clip in Bundle.load(bundle).manifest.accuracy.clips) == sorted(stored)
    assert sorted(clip.name for clip in read_checks(bundle)[-1].clips) == sorted(stored)


def test_a_missing_package_is_said_before_any_work(bundle: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without("cv2", monkeypatch)
    result = run(bundle, bundle, clips)
    refused(result, 'pip install "etam-edge[check]"')
    assert isinstance(result.exception, RuntimeUnavailableError)
    assert not Path("checks").exists()


def test_fp16_is_rounded_on_a_cpu_unless_told_otherwise(bundle: Path, clips: Path, tmp_path: Path) -> None:
    from etam_edge.exporters.precision import derive_bundle
    from etam_edge.recipe import FP16, Recipe

    half = derive_bundle(Bundle.load(bundle), tmp_path / "half", Recipe.uniform(FP16), FP16, {}).path
    logits = {}
    for option in ("--round-fp16", "--no-round-fp16"):
        result = run(half, bundle, clips, "--max-drop", 100, option, "--output", tmp_path / option)
        assert result.exit_code == 0, result.exception
        figures = json.loads((tmp_path / option / "check.json").read_text())
        runtime = figures["candidate"]["runtime"]
        assert (runtime == "onnxruntime (cpu), fp16 rounded after every operation") == (option == "--round-fp16")
        assert f"candidate {runtime}, reference onnxruntime (cpu)" in result.output
        assert figures["reference"]["runtime"] == "onnxruntime (cpu)"
        assert figures["candidate"]["name"] == "half"
        assert figures["comparison"]["candidate_latency"]["median"] > 0
        logits[option] = figures["comparison"]["overall"]["mean_iou"]
    assert Bundle.load(half).manifest.accuracy.passed
    assert logits["--round-fp16"] != logits["--no-round-fp16"]
