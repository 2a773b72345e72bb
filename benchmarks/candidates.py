"""Candidates: what can be measured, and how each is set up. A new one is a line in `VARIANTS`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.bundles import PADDED, make_model
from benchmarks.interleave import Runner
from benchmarks.plain_graphs import export_plain
from benchmarks.plain_runner import FullMemory, PlainRunner, fill_memory
from benchmarks.reference import ReferenceRunner, build_predictor, find_reference, need_bfloat16, need_compiler
from benchmarks.runners import ModelRunner, SessionRunner
from benchmarks.scene import Scene, make_scene
from benchmarks.session_options import Load, load_bundle, load_openvino, load_with
from benchmarks.settings import Settings
from etam_edge.errors import InputError, RuntimeUnavailableError
from etam_edge.recipe import FP32, INT8
from etam_edge.runtimes.backends.openvino.core import import_openvino
from etam_edge.spec import find_spec

Make = Callable[[], Runner]
"""Makes a candidate, its model loaded. Raises EtamError where that cannot be done."""


class Parts:
    """What the candidates of one model are set up from. All track the same frames; what several need is made once.

    Args:
        name: of the model.
        settings: of the run.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self._folder = settings.output / "made" / name

    @cached_property
    def scene(self) -> Scene:
        """Frames and click that all candidates get."""
        return make_scene(find_spec(self.name).image_size, self._folder / "frames")

    def reference(self, **how: Any) -> Make:
        """The reference's predictor; `how` goes to `ReferenceRunner`.

        Raises:
            InputError: the reference is not there.
            RuntimeUnavailableError: a package that it needs is missing.
        """
        if how.get("compiled"):
            need_compiler()
        if how.get("bfloat16") and REFERENCE_BFLOAT16 not in self.settings.candidates:
            need_bfloat16()
        builder = find_reference(self.settings.reference)

        def make() -> Runner:
            weights = make_model(self.name).state_dict()
            predictor = build_predictor(builder, self.name, weights)
            return ReferenceRunner(predictor, self.scene, self.settings.all_frames, **how)

        return make

    def model(self) -> Make:
        return lambda: ModelRunner(make_model(self.name), self.scene)

    def plain(self, spinning: str | None = None) -> Make:
        def make() -> Runner:
            paths, start = self._plain
            return PlainRunner(paths, start, self.scene, self.settings.threads, spinning)

        return make

    def session(self, kind: str, load: Load = load_bundle) -> Make:
        """A bundle of a kind of `bundles.KINDS`, which is made now where it is missing: that draws bars of its own.

        Raises:
            EtamError: the bundle cannot be made.
        """
        return self.session_of(self.settings.bundles.get(self.name, kind), load)

    def openvino(self, kind: str) -> Make:
        """The same in OpenVINO.

        Raises:
            RuntimeUnavailableError: OpenVINO is not installed.
            EtamError: the bundle cannot be made.
        """
        import_openvino()
        return self.session(kind, load_openvino)

    def session_of(self, path: Path, load: Load = load_bundle) -> Make:
        return lambda: SessionRunner(load(path, self.settings.threads), self.scene)

    @cached_property
    def _plain(self) -> tuple[dict[str, Path], FullMemory]:
        model = make_model(self.name)
        return export_plain(model, self._folder / "plain"), fill_memory(model, self.scene)


@dataclass(frozen=True, eq=False)
class Variant:
    """A candidate by name.

    Attributes:
        name: for `--candidates` and the JSON file.
        words: in tables.
        prepare: checks that what it needs is there, and returns the function that sets it up.
    """

    name: str
    words: str
    prepare: Callable[[Parts], Make]


REFERENCE, MODEL = "reference", "pytorch"
REFERENCE_COMPILED, REFERENCE_BFLOAT16 = "reference-compiled", "reference-bfloat16"
OPENVINO_FP32, OPENVINO_INT8 = "openvino-fp32", "openvino-int8"
FP32_WHILE_RUNNING, FP32_ONE_THREAD = "fp32-spinning-while-running", "fp32-one-thread"
ALWAYS, WHILE_RUNNING = "always", "while running"
"""What waiting threads of ONNX Runtime do; the default is that they sleep."""
PLAIN_SPINNING, PLAIN, FP32_SPINNING = "plain-spinning", "plain", "fp32-spinning"
FP32_BARE, FP32_UNFUSED, FP32_UNSPLIT, INT8_UNFUSED = "fp32-bare", "fp32-unfused", "fp32-unsplit", "int8-unfused"
ATTENTION, PRODUCTS, QUERIES = "fuse_attention", "fuse_int8_products", "split_queries"
"""What `etam_edge.runtimes.backends.onnxruntime.cpu_rewrites` does."""
VARIANTS = (
    Variant(REFERENCE, "reference, PyTorch eager", lambda parts: parts.reference()),
    Variant(REFERENCE_COMPILED, "reference, torch.compile", lambda parts: parts.reference(compiled=True)),
    Variant(REFERENCE_BFLOAT16, "reference, eager, bfloat16 autocast", lambda parts: parts.reference(bfloat16=True)),
    Variant(MODEL, "this project's PyTorch model, eager", lambda parts: parts.model()),
    Variant(PLAIN_SPINNING, "peer-style export, ONNX Runtime's defaults", lambda parts: parts.plain(ALWAYS)),
    Variant(PLAIN, "peer-style export, threads as a bundle", lambda parts: parts.plain()),
    Variant(FP32_SPINNING, "fp32 bundle, threads spin on", lambda parts: parts.session(FP32, load_with(ALWAYS))),
    Variant(
        FP32_BARE,
        "fp32 bundle, windows padded, graphs loaded as they are",
        lambda parts: parts.session(PADDED, load_with(skip_rewrites=(ATTENTION, QUERIES))),
    ),
    Variant(PADDED, "fp32 bundle, windows padded", lambda parts: parts.session(PADDED)),
    Variant(
        FP32_UNFUSED,
        "fp32 bundle, attention not fused",
        lambda parts: parts.session(FP32, load_with(skip_rewrites=(ATTENTION,))),
    ),
    Variant(
        FP32_UNSPLIT,
        "fp32 bundle, all queries of memory attention at once",
        lambda parts: parts.session(FP32, load_with(skip_rewrites=(QUERIES,))),
    ),
    Variant(
        FP32_WHILE_RUNNING,
        "fp32 bundle, threads spin while a graph runs",
        lambda parts: parts.session(FP32, load_with(WHILE_RUNNING)),
    ),
    Variant(FP32_ONE_THREAD, "fp32 bundle, one thread", lambda parts: parts.session(FP32, load_with(only_threads=1))),
    Variant(OPENVINO_FP32, "fp32 bundle in OpenVINO", lambda parts: parts.openvino(FP32)),
    Variant(OPENVINO_INT8, "int8 bundle in OpenVINO", lambda parts: parts.openvino(INT8)),
    Variant(FP32, "fp32 bundle", lambda parts: parts.session(FP32)),
    Variant(
        INT8_UNFUSED,
        "int8 bundle, products not fused",
        lambda parts: parts.session(INT8, load_with(skip_rewrites=(PRODUCTS,))),
    ),
    Variant(INT8, "int8 bundle, other regions fp32", lambda parts: parts.session(INT8)),
)
OPTIONAL = (REFERENCE_COMPILED, REFERENCE_BFLOAT16, OPENVINO_FP32, OPENVINO_INT8)
"""Left out with a note, unless they are asked for by name, where this machine lacks what they need."""
WORDS = {variant.name: variant.words for variant in VARIANTS}
"""Description by name, for tables."""


def candidates(name: str, settings: Settings, wanted: Sequence[str]) -> dict[str, Make]:
    """Candidates that are measured, by name: those of `wanted` that the settings name, in this order; then `--also`.

    Args:
        name: of the model.
        settings: of the run.
        wanted: names of variants; the first one is the base of all ratios.

    Raises:
        EtamError: a bundle cannot be made, the reference cannot be used, or no candidate is left.
    """
    parts, named = Parts(name, settings), settings.candidates
    unknown = [word for word in named if word not in WORDS]
    if unknown:
        raise InputError(f"no candidate is named '{unknown[0]}'; use {', '.join(WORDS)}")
    known = {variant.name: variant for variant in VARIANTS}
    found: dict[str, Make] = {}
    for word in wanted:
        if named and word not in named:
            continue
        try:
            found[word] = known[word].prepare(parts)
        except RuntimeUnavailableError as error:
            if named or word not in OPTIONAL:
                raise
            print(f"note: {word} is left out: {error}", file=sys.stderr)
    found |= {word: parts.session_of(bundle_of(folder, name)) for word, folder in settings.also.items()}
    if not found:
        raise InputError(f"none of {', '.join(named)} belongs to this part; name some of {', '.join(wanted)}")
    return found


def bundle_of(folder: Path, name: str) -> Path:
    """A further bundle of a model, of a folder that `--also` names.

    Raises:
        InputError: it has none.
    """
    for path in (folder / name, folder / f"{name}-{FP32}"):
        if path.is_dir():
            return path
    raise InputError(f"{folder} has no bundle of {name}; export one there, or leave --also out")
