"""The options of the ONNX Runtime backend reach its sessions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from conftest import SmallBundleMaker

from etam_edge import Tracker
from etam_edge.bundle import GRAPH_NAMES, Bundle
from etam_edge.errors import InputError
from etam_edge.recipe import INT8, Recipe
from etam_edge.runtimes.backends.onnxruntime.backend import OnnxRuntimeBackend
from etam_edge.runtimes.backends.onnxruntime.int8_forms import form_of_this_cpu
from etam_edge.runtimes.backends.onnxruntime.options import OnnxRuntimeOptions
from etam_edge.spec import Pooling

onnxruntime = pytest.importorskip("onnxruntime")


class RecordedOptions:
    """`onnxruntime.SessionOptions`, as far as it is used."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.intra_op_num_threads = 0
        self.enable_profiling = False

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


class RecordedModule:
    SessionOptions = RecordedOptions


@pytest.mark.parametrize(
    ("spinning", "entries"),
    [
        ("never", {"session.intra_op.allow_spinning": "0"}),
        ("while running", {"session.force_spinning_stop": "1"}),
        ("always", {}),
    ],
)
def test_spinning(spinning: str, entries: dict[str, str]) -> None:
    options = OnnxRuntimeOptions(3, spinning).session_options(RecordedModule)
    # ONNX Runtime's own fusion of Q/DQ pairs saturates on some CPUs: it is off whatever the threads do.
    assert options.entries == {**entries, "session.disable_quant_qdq": "1"}
    assert options.intra_op_num_threads == 3
    assert OnnxRuntimeOptions().session_options(RecordedModule).intra_op_num_threads == 0, "ONNX Runtime chooses"


def test_int8_regions_decide_the_form_of_products_whatever_the_precision_is_called(
    small_bundle: SmallBundleMaker,
) -> None:
    fp32 = Bundle.load(small_bundle(Pooling.NONE))
    assert OnnxRuntimeBackend(fp32).int8_form is None
    mixed = dataclasses.replace(fp32.manifest, precision="mixed", recipe=Recipe.default(INT8))
    assert OnnxRuntimeBackend(dataclasses.replace(fp32, manifest=mixed)).int8_form == form_of_this_cpu().name


def test_the_choice_is_reported(small_bundle: SmallBundleMaker) -> None:
    path = small_bundle(Pooling.NONE)
    assert Tracker.load(path, "onnxruntime", threads=2).backend.threads == "2; spinning: never"  # type: ignore[attr-defined]
    for auto in ("auto", None):
        backend = Tracker.load(path, "onnxruntime", threads=auto).backend
        assert backend.threads == "auto: one for each physical core; spinning: never"  # type: ignore[attr-defined]


@pytest.mark.parametrize("threads", [0, -1, "many", True, 1.5])
def test_impossible_threads_are_refused(threads: object) -> None:
    with pytest.raises(InputError, match="threads must be"):
        OnnxRuntimeOptions(threads)  # type: ignore[arg-type]


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(InputError, match="spinning 'seldom' is not known; use never, while running, always"):
        OnnxRuntimeOptions(spinning="seldom")


def test_a_profile_is_written_for_each_graph(small_bundle: SmallBundleMaker, tmp_path: Path) -> None:
    bundle = Bundle.load(small_bundle(Pooling.NONE))
    backend = OnnxRuntimeBackend(bundle, "cpu", OnnxRuntimeOptions(1, profile=tmp_path / "profile"))
    files = backend.end_profiling()
    assert set(files) == set(GRAPH_NAMES)
    assert all(file.read_text().startswith("[") for file in files.values())
    with pytest.raises(InputError, match="nothing was profiled"):
        OnnxRuntimeBackend(bundle, "cpu").end_profiling()
