"""benchmarks on a small model: what it computes and says, not how long anything takes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import SmallBundleMaker
from PIL import Image

from etam_edge.benchmark import matrix_speed
from etam_edge.benchmark.result import ratio
from etam_edge.errors import EtamError, InputError, RuntimeUnavailableError
from etam_edge.runtimes.backends.onnxruntime import cpu_rewrites
from etam_edge.spec import MODELS, Pooling
from etam_edge_testing.small import PREBUILT, small_model, small_spec

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("matplotlib")
onnx = pytest.importorskip("onnx")
if PREBUILT:
    pytest.skip("the bundles' model is not of this run", allow_module_level=True)

from benchmarks import (  # noqa: E402
    bench_alternatives,
    bench_kernels,
    bench_objects,
    bench_profile,
    bench_start,
    bench_streams,
    bench_threads,
    bench_tricks,
    bundles,
    candidates,
    reference,
)
from benchmarks import interleave as interleaving  # noqa: E402
from benchmarks.command import main  # noqa: E402
from benchmarks.interleave import Runner, interleave, order  # noqa: E402
from benchmarks.plain_graphs import export_plain  # noqa: E402
from benchmarks.plain_runner import PlainRunner, fill_memory  # noqa: E402
from benchmarks.reference import compile_parts  # noqa: E402
from benchmarks.runners import ModelRunner  # noqa: E402
from benchmarks.scene import Scene, make_scene  # noqa: E402
from benchmarks.session_options import load_with  # noqa: E402
from etam_edge.exporters.arithmetic import operations  # noqa: E402
from etam_edge.model import EfficientTAM, ReferenceTracker  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
NAME = "small-score_bias"
WARM_UP, FRAMES = 17, 3
FILES = ["performance.json", "performance.md"]


@pytest.fixture(autouse=True)
def small_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite knows small models, and wastes no time."""
    for pooling in Pooling:
        monkeypatch.setitem(MODELS, small_spec(pooling).name, small_spec(pooling))

    def weights(name: str) -> dict[str, np.ndarray]:
        model = small_model(MODELS[name].pooling)
        return {key: value.numpy() for key, value in model.state_dict().items()}

    monkeypatch.setattr(bundles, "seeded_weights", weights)
    monkeypatch.setattr(interleaving, "REST", 0.0)
    monkeypatch.setattr(matrix_speed, "SIDE", 64)
    monkeypatch.setattr(bench_threads, "LOADS", (0, 1))
    monkeypatch.setattr(bench_objects, "MODELS", (NAME,))
    monkeypatch.setattr(bench_streams, "PAIRS", 6)
    for part in (bench_streams, bench_start):
        monkeypatch.setattr(part, "MODEL", NAME)


@pytest.fixture
def ready(small_bundle: SmallBundleMaker, tmp_path: Path) -> Path:
    """A folder of ready bundles."""
    folder = tmp_path / "ready"
    shutil.copytree(small_bundle(Pooling.SCORE_BIAS), folder / NAME)
    return folder


def run(output: Path, *arguments: str, models: str = NAME) -> dict[str, Any]:
    """The JSON that a run wrote."""
    given = ["--output", str(output), "--models", models, "--frames", str(FRAMES), "--warm-up", str(WARM_UP)]
    assert main([*arguments, *given]) == 0
    assert (output / FILES[1]).is_file()
    content: dict[str, Any] = json.loads((output / FILES[0]).read_text())
    return content


# --- turns ---


class Fixed:
    """A runner that takes as many seconds as it is told and always answers the same."""

    def __init__(self, clock: list[float], seconds: list[float], logits: np.ndarray) -> None:
        self._clock, self._seconds, self._logits = clock, seconds, logits

    def step(self, index: int) -> None:
        self._clock[0] += self._seconds[index]

    def logits(self) -> np.ndarray:
        return self._logits


def test_ratios_come_from_the_times() -> None:
    clock, logits = [0.0], np.full((4, 4), 2.0, dtype=np.float32)
    random = np.random.default_rng(5)
    spent = {name: list(random.uniform(low, 2 * low, 30)) for name, low in (("slow", 2.0), ("fast", 1.0))}
    runners: dict[str, Runner] = {name: Fixed(clock, taken, logits) for name, taken in spent.items()}
    slow, fast = interleave(runners, 10, 20, clock=lambda: clock[0])
    assert slow.ratio is None
    assert slow.agreement is None
    assert fast.milliseconds == pytest.approx([1e3 * seconds for seconds in spent["fast"]])
    assert fast.whole.frames == 20
    assert fast.ratio is not None
    assert fast.ratio.of_medians == pytest.approx(np.median(spent["slow"][10:]) / np.median(spent["fast"][10:]))
    assert fast.ratio.of_minima == pytest.approx(min(spent["slow"][10:]) / min(spent["fast"][10:]))
    assert fast.ratio.low <= fast.ratio.of_medians <= fast.ratio.high
    assert fast.agreement is not None
    assert (fast.agreement.mean_iou, fast.agreement.relative_error) == (1.0, 0.0)


def test_everybody_begins_and_follows_in_turn() -> None:
    names = ["a", "b", "c"]
    rounds = [order(names, index) for index in range(6)]
    assert all(sorted(names) == sorted(one) for one in rounds)
    for name in names:
        assert sum(one[0] == name for one in rounds) == 2
        assert sum(one[-1] == name for one in rounds) == 2
    assert order(["a", "b"], 0) != order(["a", "b"], 1)


@pytest.mark.full
def test_plain_export_answers_what_the_model_does(tmp_path: Path) -> None:
    """Memory that it keeps on the host has the order, the positions and the pointers of the model's own.

    Of an unpooled model; the pooled one is held against the model among the tricks.
    """
    model = small_model(Pooling.NONE)
    scene = make_scene(model.spec.image_size, tmp_path / "frames")
    paths, start = export_plain(model, tmp_path / "plain"), fill_memory(model, scene)
    runners: dict[str, Runner] = {
        "model": ModelRunner(model, scene),
        "plain": PlainRunner(paths, start, scene, 1),
        "spinning": PlainRunner(paths, start, scene, 1, spinning="always"),
    }
    for entry in interleave(runners, WARM_UP, 9)[1:]:
        assert entry.agreement is not None
        assert entry.agreement.mean_iou > 0.999
        assert entry.agreement.relative_error < 1e-4
        assert runners[entry.name].masks.shape == (1, 128, 128)  # type: ignore[attr-defined]


# --- the reference ---

SIGN = 1.0
"""Of the logits of the fake reference: -1 makes it draw what is not there."""


class FakePredictor:
    """The interface of the reference's video predictor, on this project's PyTorch model."""

    def __init__(self, name: str) -> None:
        self._model = EfficientTAM(MODELS[name]).eval()

    def load_state_dict(self, weights: Any, strict: bool) -> None:
        assert strict
        self._model.load_state_dict(weights)

    def init_state(self, folder: str) -> dict[str, Any]:
        images = [np.asarray(Image.open(path)) for path in sorted(Path(folder).glob("*.jpg"))]
        kept: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
        return {"images": images, "num_frames": len(images), "output_dict_per_obj": {0: kept}}

    def add_new_points_or_box(
        self, state: dict[str, Any], frame_idx: int, obj_id: int, points: Any, labels: Any
    ) -> None:
        assert (frame_idx, obj_id) == (0, 1)
        state["prompt"] = {"points": np.array(points), "labels": np.array(labels)}

    def propagate_in_video(self, state: dict[str, Any]) -> Iterator[tuple[int, list[int], Any]]:
        tracker = ReferenceTracker(self._model)
        for index in range(state["num_frames"]):
            answer = tracker.track(state["images"][index].copy(), {1: state["prompt"]} if index == 0 else {})
            low = SIGN * answer[1].segmentation.mask_logits
            where = "non_cond_frame_outputs" if index else "cond_frame_outputs"
            state["output_dict_per_obj"][0][where][index] = {"pred_masks": low}
            yield index, [1], torch.nn.functional.interpolate(low, scale_factor=4, mode="bilinear")


def build_efficienttam_video_predictor(config: str, **options: Any) -> FakePredictor:
    assert options["device"] == "cpu"
    assert options["vos_optimized"] is False
    return FakePredictor(Path(config).stem)


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A folder that looks like a checkout of the reference."""
    package = tmp_path / "checkout" / "efficient_track_anything"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    builder = f"from {__name__} import build_efficienttam_video_predictor\n"
    (package / "build_efficienttam.py").write_text(builder)
    yield package.parent
    for module in [name for name in sys.modules if name.split(".")[0] == package.name]:
        del sys.modules[module]


def test_beside_the_reference(
    checkout: Path, ready: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    given = ["--only", "reference", "--reference", str(checkout), "--bundles", str(ready)]
    chosen = ["reference", "plain-spinning", "plain", "fp32"]
    content = run(output, *given, "--candidates", *chosen, "--also", f"again={ready}")
    entries = {entry["name"]: entry for entry in content["parts"]["reference"][NAME]}
    assert list(entries) == [*chosen, "again"]
    base = entries["reference"]["milliseconds"][WARM_UP:]
    for name, entry in entries.items():
        times = entry["milliseconds"]
        assert len(times) == WARM_UP + FRAMES
        assert entry["whole"]["p50"] == pytest.approx(np.median(times[WARM_UP:]), abs=1e-3)
        if name == "reference":
            continue
        found = ratio(times[WARM_UP:], base)
        assert entry["ratio"]["of_medians"] == pytest.approx(found.of_medians, rel=1e-2)
        assert entry["ratio"]["of_minima"] == pytest.approx(found.of_minima, rel=1e-2)
        assert entry["agreement"]["mean_iou"] > 0.999
    said = capsys.readouterr().out
    assert said == (output / FILES[1]).read_text()
    rows = [line.split("|") for line in said.splitlines() if line.startswith("|")]
    widths = [len(row) for row in rows]
    assert widths == [9] * (2 + len(entries)) + [6] * 3, "times of all, and the share of the matrix speed of fp32"
    assert "other masks" not in said
    assert (output / "ratios.png").read_bytes().startswith(b"\x89PNG")
    assert content["machine"]["cores"] >= 1
    assert {"torch", "onnxruntime", "numpy"} <= set(content["versions"])
    assert "--only reference" in content["command"]
    assert content["OMP_WAIT_POLICY"]
    assert content["noise"]["pace_before"] > 0

    # A candidate that draws something else is told, however fast it is.
    monkeypatch.setattr(sys.modules[__name__], "SIGN", -1.0)
    content = run(tmp_path / "other", *given, "--candidates", "reference", "fp32")
    assert capsys.readouterr().out.count("**other masks**, 0.0000") == 1
    assert f"{NAME}: fp32 gives other masks than reference" in " ".join(content["warnings"])


def test_on_a_busy_machine(ready: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], checkout: Path) -> None:
    given = ["--reference", str(checkout), "--bundles", str(ready), "--candidates", "reference", "fp32"]
    content = run(tmp_path / "out", "--only", "reference", *given, "--busy", "1")
    found = content["parts"]["reference"]
    quiet, busy = found[NAME], found[f"{NAME}, busy"]
    assert [entry["name"] for entry in quiet] == [entry["name"] for entry in busy] == ["reference", "fp32"]
    assert all(len(entry["milliseconds"]) == FRAMES for entry in busy)
    assert busy[1]["agreement"]["mean_iou"] > 0.999, "the streams went on where they were"
    assert content["busy"]["processes"] == 1
    share = found[f"{NAME}, share of matrix speed"]["candidates"]["fp32"]
    assert share["gflops"] > 0
    assert share["matrix_gflops"] > 0
    said = capsys.readouterr().out
    assert "*busy*: 1 processes beside" in said
    assert "a frame multiplies" in said

    assert main(["--only", "threads", "--busy", "-1", "--models", NAME]) == 2
    assert "-1 busy processes are not possible" in capsys.readouterr().err


def test_threads_at_several_loads(ready: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["fp32", "fp32-spinning-while-running", "fp32-spinning", "fp32-one-thread"]
    content = run(tmp_path / "out", "--only", "threads", "--bundles", str(ready), "--candidates", *chosen)
    found = content["parts"]["threads"][NAME]
    assert list(found) == ["0", "1"]
    assert all([entry["name"] for entry in entries] == chosen for entries in found.values())
    assert [len(found[load][0]["milliseconds"]) for load in found] == [WARM_UP + FRAMES, FRAMES]
    assert "| fp32 bundle, one thread |" in capsys.readouterr().out


def test_the_reference_is_compiled_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("image_encoder", "memory_encoder", "memory_attention", "sam_prompt_encoder", "sam_mask_decoder")
    predictor = SimpleNamespace(**{name: torch.nn.Identity() for name in names})
    seen: list[bool] = []
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: seen.append(dynamic) or forward)
    compile_parts(predictor)
    assert seen == [name == "memory_attention" for name in names]


def test_candidates_that_this_machine_cannot_run_are_left_out(
    checkout: Path, ready: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "cpu_kind", lambda: "x86-64 AVX2")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    settings = SimpleNamespace(candidates=(), reference=checkout, also={}, bundles=bundles.Bundles(tmp_path, ready))
    settings.output = tmp_path
    wanted = ["reference", "reference-compiled", "reference-bfloat16", "fp32", "openvino-fp32"]
    assert list(candidates.candidates(NAME, settings, wanted)) == ["reference", "fp32"]  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert "note: reference-compiled is left out: torch.compile needs a C++ compiler" in said
    assert "note: reference-bfloat16 is left out: this CPU (x86-64 AVX2) has no bfloat16 products" in said
    assert "note: openvino-fp32 is left out: OpenVINO cannot be imported" in said
    settings.candidates = ("reference-bfloat16",)
    assert list(candidates.candidates(NAME, settings, wanted)) == ["reference-bfloat16"]  # type: ignore[arg-type]
    settings.candidates = ("openvino-fp32",)
    with pytest.raises(RuntimeUnavailableError, match="etam-edge\\[openvino\\]"):
        candidates.candidates(NAME, settings, wanted)  # type: ignore[arg-type]


def test_alternatives_name_what_they_need(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["--only", "alternatives", "--models", NAME, "--output", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "transformers' video models cannot be imported" in said
    assert bench_alternatives.INSTALL in said


def test_the_reference_is_asked_for_in_one_sentence(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*arguments: str) -> str:
        assert main(["--only", "reference", "--models", NAME, "--output", str(tmp_path), *arguments]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        return said.err

    assert "add --reference DIR" in refusal()
    assert f"{tmp_path} is no checkout of the reference" in refusal("--reference", str(tmp_path))
    builder = checkout / "efficient_track_anything" / "build_efficienttam.py"
    builder.write_text("import hydra_that_nobody_has\n")
    assert "needs a package that is missing (hydra_that_nobody_has)" in refusal("--reference", str(checkout))


# --- the other parts ---


@pytest.mark.full
def test_tricks_and_stages(ready: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With int8 made here, from the ready bundle, by the package's own calibration."""
    output = tmp_path / "out"
    content = run(output, "--only", "tricks", "stages", "--bundles", str(ready))
    found = content["parts"]["tricks"][NAME]
    times = {entry["name"]: entry["milliseconds"][WARM_UP:] for entry in found["candidates"]}
    assert next(iter(times)) == "pytorch"
    assert set(times) == {"pytorch", *(name for trick in bench_tricks.TRICKS for name in (trick.off, trick.on))}
    assert [trick["what"] for trick in found["tricks"]] == [trick.what for trick in bench_tricks.TRICKS]
    for trick in found["tricks"]:
        expected = np.median(times[trick["off"]]) / np.median(times[trick["on"]])
        assert trick["of_medians"] == pytest.approx(expected, rel=1e-2)
    for entry in found["candidates"][1:]:
        assert entry["agreement"]["mean_iou"] > (0.9 if entry["name"].startswith("int8") else 0.999)
    staged = content["parts"]["stages"][NAME]
    assert list(staged) == ["fp32-bare", "fp32", "int8"]
    assert all(stages["stages"]["track"]["p50"] > 0 for stages in staged.values())
    assert (output / "stages.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert said.index("## What each trick gave") < said.index("## Stages of a frame")
    assert all(f"| {trick.what} |" in said for trick in bench_tricks.TRICKS)


@pytest.mark.full
def test_what_a_candidate_leaves_out(ready: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The rewrites that are left out are not made, and the others are; windows are padded in a bundle that says so."""
    done: list[str] = []
    for name in (candidates.ATTENTION, candidates.QUERIES):
        monkeypatch.setattr(cpu_rewrites, name, lambda *given, name=name, **named: done.append(name) or 0)
    load_with(skip_rewrites=(candidates.ATTENTION,))(ready / NAME, 1)
    assert set(done) == {candidates.QUERIES}
    made = bundles.Bundles(tmp_path / "made", ready)
    sizes = [
        sum(node.op_type == "Pad" for node in onnx.load(made.get(NAME, kind) / "graphs" / "encode.onnx").graph.node)
        for kind in ("fp32", bundles.PADDED)
    ]
    assert sizes == [0, 2], "in the two windowed blocks"


def test_objects_streams_and_start(ready: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--only", "objects", "streams", "start", "--bundles", str(ready), "--threads", "1"]
    content = run(tmp_path / "out", *given, "--stream", "60", "--starts", "1")
    said = capsys.readouterr().out

    objects = content["parts"]["objects"][NAME]
    assert {count: len(values) for count, values in objects["track"].items()} == dict.fromkeys("1234", FRAMES)
    one, four = (np.median(objects["track"][count]) for count in "14")
    assert objects["further_object"]["share"] == pytest.approx((four - one) / 3 / one, rel=1e-2)
    assert objects["within"] == (objects["further_object"]["share"] <= 0.6)

    streams = content["parts"]["streams"]
    assert len(streams["milliseconds"]) == 60
    assert {name: len(values) for name, values in streams["in_turn"].items()} == {"long stream": 6, "fresh session": 6}
    late, early = (np.median(streams["in_turn"][name]) for name in ("long stream", "fresh session"))
    assert streams["late_over_early"]["of_medians"] == pytest.approx(late / early, rel=1e-2)
    assert streams["growth"] == streams["resident_late"] - streams["resident_early"]

    start = content["parts"]["start"]
    assert len(start) == 6
    assert all(len(one["milliseconds"]) == 1 for one in start.values())
    limits = [one["limit"] for one in start.values() if one["limit"] is not None]
    assert limits == [200.0, 500.0, 1500.0]
    for title in ("## Several objects", "## Long streams", "## Start"):
        assert title in said


def test_further_objects_cost() -> None:
    found = bench_objects.cost({1: [10.0, 10.0, 12.0], 4: [25.0, 25.0, 40.0]})
    assert found.share == pytest.approx(0.5)
    assert found.of_minima == pytest.approx(0.5)
    assert found.low <= 0.5 <= found.high
    assert found.within


def test_a_process_that_fails_is_told() -> None:
    with pytest.raises(EtamError, match=r"failed in a separate process: .*nobody"):
        bench_start.milliseconds(bench_start.Start("something", ["-c", "import nobody_has_this"], None))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "nobody"], "no model is named 'nobody'"),
        (["--models", NAME, "--warm-up", "3"], "ends before memory is full; use --warm-up 17"),
        (["--models", NAME, "--candidates", "nobody"], "no candidate is named 'nobody'"),
        (["--models", NAME, "--candidates", "reference"], "none of reference belongs to this part"),
        (["--models", NAME, "--candidates", "fp32", "--also", "x=nowhere"], "nowhere has no bundle of small"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], said: str, ready: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--only", "tricks", "--bundles", str(ready), "--output", str(tmp_path / "out")]
    assert main([*given, *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("error: ") == 1


def test_a_ready_bundle_of_another_model_is_refused(ready: Path, tmp_path: Path) -> None:
    (ready / NAME).rename(ready / "small-none")
    with pytest.raises(InputError, match=r"is small-score_bias in fp32, not small-none in fp32"):
        bundles.Bundles(tmp_path / "made", ready).get("small-none")


def test_the_command_finds_its_modules() -> None:
    command = [sys.executable, "-m", "benchmarks", "--only", "reference"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the reference is not part of this project")


def test_frames_are_those_of_the_files(tmp_path: Path) -> None:
    scene: Scene = make_scene(64, tmp_path, 2)
    assert [frame.shape for frame in scene.frames] == [(64, 64, 3)] * 2
    assert np.array_equal(scene.frame(3), np.asarray(Image.open(tmp_path / "00001.jpg")))


def test_kernels_answer_alike_and_are_timed_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench_kernels, "SIDES", (256,))
    monkeypatch.setattr(bench_kernels, "SLOTS", 1)
    assert main(["--only", "kernels", "--frames", "2", "--models", NAME, "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "performance.json").read_text())["parts"]["kernels"]
    assert len(results) == 4
    assert {len(times) for ways in results.values() for times in ways.values()} == {2}
    assert all("plain" in ways or "fp32" in ways for ways in results.values())
    assert "MultiHeadAttention" in (tmp_path / "performance.md").read_text()


def test_a_kernel_that_computes_something_else_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    [*_, scores] = bench_kernels.cases((256,), 1)
    monkeypatch.setattr(bench_kernels, "CLOSE", 1e-6)
    with pytest.raises(EtamError, match="answers something else than the plain form"):
        bench_kernels.measure(scores, 1, 1)


def test_a_profile_counts_operators(ready: Path, tmp_path: Path) -> None:
    content = run(tmp_path / "out", "--only", "profile", "--candidates", "fp32", "--bundles", str(ready))
    [found] = content["parts"]["profile"].values()
    assert set(found) == {"encode", "track"}
    assert found["track"]["Softmax"] > 0
    assert not list((tmp_path / "out").glob("profile*")), "ONNX Runtime's own files are removed"


def test_a_profile_counts_the_last_frames() -> None:
    def event(node: str, operator: str, microseconds: float) -> dict[str, Any]:
        return {"cat": "Node", "name": f"{node}_kernel_time", "dur": microseconds, "args": {"op_name": operator}}

    events = [
        event("a", "MatMul", 9000),
        event("a", "MatMul", 1000),
        event("b", "MatMul", 500),
        event("a", "MatMul", 3000),
        event("b", "MatMul", 500),
        event("c", "Add", 100),
        {"cat": "Session", "name": "model_run", "dur": 1e6},
    ]
    assert bench_profile.by_operator(events, 2) == pytest.approx({"MatMul": 2.5, "Add": 0.05})


def test_arithmetic_is_counted_by_hand(ready: Path, tmp_path: Path) -> None:
    content = run(tmp_path / "out", "--only", "arithmetic", "--bundles", str(ready))
    assert set(content["parts"]["arithmetic"][NAME]) == {"encode", "track"}
    encode = onnx.load(ready / NAME / "graphs" / "encode.onnx")
    found = operations(encode)
    spec = MODELS[NAME]
    tokens, width = spec.tokens, spec.vit_width
    # A patch is 16 x 16 x 3 pixels.
    assert found["/patch/linear/MatMul_output_0"] == 2 * tokens * 768 * width
    hidden = spec.vit_mlp_ratio * width
    assert found["/blocks.0/mlp/layers.0/MatMul_output_0"] == 2 * tokens * width * hidden
    assert found["/blocks.2/attn/MatMul"] == 2 * tokens * tokens * width, "all heads together"
    [three] = [count for name, count in found.items() if "conv_3x3" in name]
    assert three == 2 * tokens * 9 * spec.width * spec.width
