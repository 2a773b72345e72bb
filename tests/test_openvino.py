"""The OpenVINO backend gives the same results as ONNX Runtime, in float32 and in int8."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import BundleMaker, SmallBundleMaker

from etam_edge import FrameResult, Prompt, Session, Tracker
from etam_edge.bundle import Bundle
from etam_edge.errors import BundleError, EtamError, InputError, RuntimeUnavailableError
from etam_edge.recipe import INT8, Recipe
from etam_edge.runtimes.backends.openvino import backend, int8_form
from etam_edge.runtimes.backends.openvino.backend import OPTIONS, OpenVinoBackend
from etam_edge.runtimes.backends.openvino.int8_form import exact_int8_options
from etam_edge.spec import Pooling
from etam_edge_testing.golden_runs import session_outputs
from etam_edge_testing.goldens import GOLDENS, Comparison, Golden
from etam_edge_testing.small import clip_frame

pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino", reason='OpenVINO is not installed: pip install "etam-edge[openvino]"')

QUICK = ("efficienttam_ti_512x512", 11, "")
"""The weights of the goldens that are compared: one export serves them all."""


def play(session: Session, frames: int = 12) -> list[FrameResult]:
    """Prompts of every kind, late objects, a correction and a removal."""
    results = []
    for index in range(frames):
        prompts = {
            0: {1: Prompt(points=[(64, 60)], labels=[1])},
            2: {2: Prompt(box=(30, 30, 100, 100)), 3: Prompt(mask=np.indices((128, 128)).sum(0) < 128)},
        }.get(index)
        results.append(session.track(clip_frame(index), prompts))
        if index == 4:
            results.append(session.refine(1, Prompt(points=[(70, 66)], labels=[0])))
        if index == 8:
            session.remove(2)
    return results


def differences(first: list[FrameResult], second: list[FrameResult]) -> tuple[float, float]:
    """Largest differences of mask logits and of object scores."""
    assert [result.object_ids for result in first] == [result.object_ids for result in second]
    pairs = list(zip(first, second, strict=True))
    return (
        max(float(np.abs(a.mask_logits - b.mask_logits).max()) for a, b in pairs),
        max(float(np.abs(a.object_scores - b.object_scores).max()) for a, b in pairs),
    )


@pytest.mark.parametrize("pooling", list(Pooling))
def test_results_are_those_of_onnxruntime(pooling: Pooling, small_bundle: SmallBundleMaker) -> None:
    path = small_bundle(pooling)
    ours, theirs = (
        play(Tracker.load(path, runtime, threads=1).start_session()) for runtime in ("openvino", "onnxruntime")
    )
    assert max(differences(ours, theirs)) < 1e-3, "logits reach 10"
    assert len(ours[10].object_ids) == 2
    assert not np.array_equal(ours[-1].mask_logits, ours[5].mask_logits), "a stream, not one frame"


def test_a_session_saved_with_one_backend_goes_on_in_the_other(small_bundle: SmallBundleMaker, tmp_path: Path) -> None:
    path = small_bundle(Pooling.SCORE_BIAS)
    session = Tracker.load(path, "onnxruntime").start_session()
    play(session, 6)
    session.save(tmp_path / "state.npz")
    resumed = Tracker.load(path, "openvino").resume_session(tmp_path / "state.npz")
    both = [[one.track(clip_frame(index)) for index in range(6, 9)] for one in (session, resumed)]
    assert max(differences(*both)) < 1e-3


def test_the_form_of_int8_products_is_told(small_bundle: SmallBundleMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    fp32 = Bundle.load(small_bundle(Pooling.NONE))
    assert Tracker.load(fp32.path, runtime="openvino").int8_form is None
    int8 = dataclasses.replace(fp32.manifest, recipe=Recipe.default(INT8), precision=INT8)
    for form, name in ((int8_form.INTEGER, "integers"), (int8_form.FLOAT, "float")):
        monkeypatch.setattr(backend, "exact_int8_options", lambda *_, form=form: dict(form))
        assert OpenVinoBackend(dataclasses.replace(fp32, manifest=int8)).int8_form == name


def test_computation_is_float32(small_bundle: SmallBundleMaker) -> None:
    """On CPUs with bfloat16 or float16 products, OpenVINO would take those by itself."""
    backend = OpenVinoBackend(Bundle.load(small_bundle(Pooling.NONE)))
    for request in backend._requests.values():
        compiled = request.get_compiled_model()
        assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
        assert not compiled.get_property("ENABLE_CPU_PINNING")


def test_threads(small_bundle: SmallBundleMaker) -> None:
    path = small_bundle(Pooling.NONE)
    tracker = Tracker.load(path, "openvino", threads=1)
    assert tracker.runtime == "openvino (cpu)"
    assert tracker.backend.threads.startswith("1, ")  # type: ignore[attr-defined]
    assert "(auto)" in Tracker.load(path, "openvino", threads="auto").backend.threads  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="threads must be at least 1, not 0"):
        Tracker.load(path, "openvino", threads=0)
    with pytest.raises(InputError, match="must be a whole number or 'auto', not 'many'"):
        Tracker.load(path, "openvino", threads="many")
    with pytest.raises(InputError, match="provider 'cuda' is ONNX Runtime's, and the runtime is openvino"):
        Tracker.load(path, "openvino", provider="cuda")


INTERRUPTED_AFTERWARDS = """
import gc, signal, sys
from etam_edge import Tracker
older, younger = (Tracker.load(sys.argv[1], "openvino", threads=1) for _ in range(2))
del older
gc.collect()
del younger
gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_signal_after_the_last_backend_is_gone_does_not_end_the_process(small_bundle: SmallBundleMaker) -> None:
    command = [sys.executable, "-X", "faulthandler", "-c", INTERRUPTED_AFTERWARDS, str(small_bundle(Pooling.NONE))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_what_is_missing_is_named(small_bundle: SmallBundleMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        RuntimeUnavailableError, match=r'OpenVINO cannot be imported .*etam-edge\[openvino\]"'
    ) as caught:
        Tracker.load(small_bundle(Pooling.NONE), "openvino")
    assert "\n" not in str(caught.value)


def test_a_damaged_graph_is_one_sentence(small_bundle: SmallBundleMaker, tmp_path: Path) -> None:
    bundle = Bundle.load(small_bundle(Pooling.NONE))
    damaged = tmp_path / "encode.onnx"
    damaged.write_bytes(bundle.graph_path("encode").read_bytes()[:5000])

    class Damaged(Bundle):
        def graph_path(self, name: str) -> Path:
            return damaged

    with pytest.raises(
        BundleError, match=r"OpenVINO cannot load .*encode\.onnx: .*; export the bundle again"
    ) as caught:
        OpenVinoBackend(Damaged(bundle.path, bundle.manifest))
    assert "\n" not in str(caught.value)

    class Other(Bundle):
        def graph_path(self, name: str) -> Path:
            return bundle.graph_path("track")

    with pytest.raises(BundleError, match="its manifest says"):
        OpenVinoBackend(Other(bundle.path, bundle.manifest))


def test_a_graph_that_fails_is_an_error(small_bundle: SmallBundleMaker) -> None:
    tracker = Tracker.load(small_bundle(Pooling.NONE), "openvino")

    class Broken:
        def set_tensor(self, name: str, tensor: object) -> None: ...

        def infer(self, **options: bool) -> None:
            raise RuntimeError("Exception from src/core.cpp:1:\n\nno memory is left\n")

    tracker.backend._requests["encode"] = Broken()  # type: ignore[attr-defined]
    with pytest.raises(EtamError, match="OpenVINO failed in graph 'encode': no memory is left"):
        tracker.start_session().track(clip_frame(0), {1: Prompt(points=[(64, 60)], labels=[1])})


def test_int8_products_are_exact(tmp_path: Path) -> None:
    """Full-range int8 factors, whose sums of two products exceed 16 bits: compared with integer arithmetic."""
    onnx = pytest.importorskip("onnx")
    helper, constant = onnx.helper, onnx.numpy_helper.from_array
    random = np.random.default_rng(0)
    scale, zero = np.float32(0.02), np.int8(0)
    codes = random.integers(-127, 128, (64, 192), dtype=np.int8)
    weights = random.integers(-127, 128, (192, 96), dtype=np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        helper.make_node("MatMul", ["d", "wd"], ["y"]),
    ]
    tensors = [constant(np.asarray(value), name) for name, value in (("s", scale), ("z", zero), ("w", weights))]
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [64, 192]), ("y", [64, 96]))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "product", values[:1], values[1:], tensors),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    model.ir_version = 8
    onnx.save(model, tmp_path / "product.onnx")
    core = openvino.Core()
    exact_form = {**OPTIONS, **exact_int8_options(openvino, OPTIONS)}
    compiled = core.compile_model(core.read_model(tmp_path / "product.onnx"), "CPU", exact_form)
    [found] = compiled({"x": codes.astype(np.float32) * scale}).values()
    exact = codes.astype(np.int64) @ weights.astype(np.int64)
    assert np.abs(found / scale**2 - exact).max() < 1e-5 * np.abs(exact).max()


def test_a_saturating_cpu_computes_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    exact: list[dict[str, object]] = []

    def is_exact(module: object, options: dict[str, object]) -> bool:
        exact.append(options)
        return options.get("LP_TRANSFORMS_MODE") == "NO"

    monkeypatch.setattr(int8_form, "_is_exact", is_exact)
    int8_form._found.cache_clear()
    try:
        assert exact_int8_options(openvino, OPTIONS) == int8_form.FLOAT
        assert len(exact) == 2
        int8_form._found.cache_clear()
        monkeypatch.setattr(int8_form, "_is_exact", lambda module, options: False)
        with pytest.raises(RuntimeUnavailableError, match="computes wrong int8 products on this CPU"):
            exact_int8_options(openvino, OPTIONS)
    finally:
        int8_form._found.cache_clear()


@pytest.mark.full
@pytest.mark.parametrize(
    "golden", [golden for golden in GOLDENS if golden.weights_id == QUICK], ids=lambda golden: golden.id
)
def test_goldens_of_the_reference_hold(golden: Golden, seeded_bundle: BundleMaker) -> None:
    tracker = Tracker.load(seeded_bundle(*golden.weights_id), runtime="openvino")
    comparison = Comparison(golden)
    comparison.check(session_outputs(golden, tracker))
    print(comparison.row())
    assert not comparison.failures
