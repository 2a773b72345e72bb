"""The builder of a simulated TensorRT: engines of ONNX graphs that run in ONNX Runtime, rounding fp16 as a GPU does.

It refuses what TensorRT refuses: an operator set that is too new, flags that contradict the kind of network, inputs
without a profile, and kernels of cuBLAS and cuDNN where those libraries are missing.
"""

from __future__ import annotations

from enum import IntEnum, auto
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx

from etam_edge.exporters.passes.round_to_float16 import round_to_float16
from etam_edge_testing.parsed_network import ConstantLayer, LayerType, Network
from etam_edge_testing.simulated import ILogger, Severity, SimulatedCuda, simulated_plan

NEWEST_OPSET = {8: 17, 10: 20, 11: 25}
"""Newest operator set of each major version's parser."""


class Flag(IntEnum):
    """`BuilderFlag` and `NetworkDefinitionCreationFlag`; numbers of different enums do not collide."""

    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1
    FP16 = auto()
    INT8 = auto()
    TF32 = auto()
    OBEY_PRECISION_CONSTRAINTS = auto()


class TacticSource(IntEnum):
    CUBLAS = 0
    CUBLAS_LT = 1
    CUDNN = 2
    EDGE_MASK_CONVOLUTIONS = 3
    JIT_CONVOLUTIONS = 4


EXTERNAL = (TacticSource.CUBLAS, TacticSource.CUBLAS_LT, TacticSource.CUDNN)
PRECISION_FLAGS = frozenset({Flag.FP16, Flag.INT8, Flag.OBEY_PRECISION_CONSTRAINTS})


class Profile:
    """An `IOptimizationProfile`: (smallest, best, largest) shape by input."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, name: str, smallest: tuple[int, ...], best: tuple[int, ...], largest: tuple[int, ...]) -> None:
        assert all(a <= b <= c for a, b, c in zip(smallest, best, largest, strict=True))
        self.shapes[name] = smallest, best, largest


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content or b"simulated timings"


class BuilderConfig:
    """An `IBuilderConfig`. Its defaults are those of the version that creates it."""

    def __init__(self, major: int) -> None:
        self.flags = {Flag.TF32}
        self.profiles: list[Profile] = []
        self.limits: dict[str, int] = {}
        self.builder_optimization_level = 3
        self.profiling_verbosity = ""
        self.progress_monitor: Any = None
        self.tactic_sources = set(TacticSource) if major < 10 else set(TacticSource) - set(EXTERNAL)
        self._cache: TimingCache | None = None

    def set_flag(self, flag: Flag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Flag) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: str, nbytes: int) -> None:
        self.limits[pool] = nbytes

    def set_tactic_sources(self, mask: int) -> bool:
        self.tactic_sources = {source for source in TacticSource if mask & 1 << source}
        return True

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> TimingCache:
        return TimingCache(content)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self._cache


class ParsedNetwork:
    """An `INetworkDefinition` that a parser fills."""

    def __init__(self, strongly_typed: bool) -> None:
        self.strongly_typed = strongly_typed
        self.name = ""
        self.model: onnx.ModelProto | None = None
        self._network: Network | None = None

    def fill(self, path: Path, model: onnx.ModelProto) -> None:
        self.name, self.model, self._network = path.stem, model, Network(model, weakly_typed=not self.strongly_typed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


def add_builder(module: Any, cuda: SimulatedCuda, missing_libraries: bool = False, workspace_needed: int = 1) -> None:
    """Give a simulated TensorRT what it needs to build engines. `built` of the module lists (network, config).

    Args:
        module: of `simulated_tensorrt`.
        cuda: the GPU.
        missing_libraries: whether cuBLAS and cuDNN are not installed.
        workspace_needed: bytes of workspace without which no kernel is found.
    """
    module.built = []
    version = str(module.__version__)
    major = int(version.split(".")[0])

    class Builder:
        def __init__(self, logger: Any) -> None:
            assert logger.made
            assert cuda.depth, "TensorRT finds no context"
            self._logger = logger

        def create_network(self, flags: int) -> ParsedNetwork:
            if major < 10:
                assert flags == 1 << Flag.EXPLICIT_BATCH
            return ParsedNetwork(strongly_typed=major >= 11 or bool(flags & 1 << Flag.STRONGLY_TYPED))

        def create_builder_config(self) -> BuilderConfig:
            return BuilderConfig(major)

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: ParsedNetwork, config: BuilderConfig) -> bytes | None:
            assert cuda.depth, "TensorRT finds no context"
            problem = _problem(network, config, missing_libraries, workspace_needed)
            module.built.append((network, config))
            if problem:
                self._logger.log(Severity.ERROR, f"[builder] {problem}")
                return None
            shapes = [largest for _, _, largest in (config.profiles[0].shapes if config.profiles else {}).values()]
            objects = max((shape[0] for shape in shapes), default=1)
            assert network.model is not None
            graph = round_to_float16(network.model).model.SerializeToString()
            return simulated_plan(network.name, objects, version, graph)

    class OnnxParser:
        def __init__(self, network: ParsedNetwork, logger: Any) -> None:
            assert logger.made
            self._network = network
            self._errors: list[Any] = []

        def parse_from_file(self, path: str) -> bool:
            model = onnx.load(path)
            opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
            if opset > NEWEST_OPSET[major]:
                text = f"operator set {opset} is newer than {NEWEST_OPSET[major]}"
                name = model.graph.node[0].name
                self._errors.append(SimpleNamespace(desc=lambda: text, node=lambda: 0, node_name=lambda: name))
                return False
            self._network.fill(Path(path), model)
            return True

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> Any:
            return self._errors[index]

    class Logger(ILogger):
        def __init__(self, severity: Any) -> None:
            super().__init__()

        def log(self, severity: Any, text: str) -> None:
            pass

    module.Builder, module.OnnxParser, module.Logger = Builder, OnnxParser, Logger
    module.NetworkDefinitionCreationFlag = module.BuilderFlag = Flag
    module.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    module.ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    module.TacticSource, module.LayerType, module.IConstantLayer = TacticSource, LayerType, ConstantLayer


def _problem(network: ParsedNetwork, config: BuilderConfig, missing_libraries: bool, workspace_needed: int) -> str:
    """Why TensorRT would not build this network, or ""."""
    model = network.model
    assert model is not None, "nothing was parsed"
    if network.strongly_typed and config.flags & PRECISION_FLAGS:
        return "Error Code 3: API Usage Error (precision flags are set and the network is strongly typed)"
    profiled = set(config.profiles[0].shapes) if config.profiles else set()
    dynamic = {
        value.name for value in model.graph.input if any(size.dim_param for size in value.type.tensor_type.shape.dim)
    }
    if dynamic - profiled:
        return f"Error Code 4: Internal Error (Network has dynamic inputs without a profile: {sorted(dynamic)})"
    if missing_libraries and config.tactic_sources & set(EXTERNAL):
        return "Error Code 1: Cublas (initializing cublas failed: the library is missing)"
    if config.limits.get("workspace", 0) < workspace_needed:
        return "Error Code 10: Internal Error (Could not find any implementation: insufficient workspace)"
    return ""
