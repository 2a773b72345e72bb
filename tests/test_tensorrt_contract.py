"""Every TensorRT name that the code touches exists in the real bindings of every TensorRT that it runs with.

The names are read from the source: what is reached from a variable `trt`, and from objects whose class is known from
how they were made or, where they come in as arguments of type `Any`, from what they are called. The bindings are those
of the wheels (`tensorrt_bindings.py`), which are downloaded once, into pytest's cache.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import etam_edge
from etam_edge.bundle import GraphSignature, TensorSpec
from etam_edge.errors import ExportError
from etam_edge.exporters.tensorrt.builder import RTX_CAPABILITIES, BuildOptions, build_engine
from etam_edge_testing.tensorrt_bindings import RELEASES, NotHereError, Offer, offer_of

PACKAGE = Path(etam_edge.__file__).parent

OBJECTS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "layer": "ILayer",
    "tensor": "ITensor",
    "error": "ParserError",
    "runtime": "Runtime",
    "constant": "IConstantLayer",
    "engine": "ICudaEngine",
    "executable": "ICudaEngine",
    "context": "IExecutionContext",
}
"""What arguments, fields and results of type `Any` are, by name, in files that have a `trt`."""
RETURNS = {
    "Builder.create_network": "INetworkDefinition",
    "Builder.create_builder_config": "IBuilderConfig",
    "Builder.create_optimization_profile": "IOptimizationProfile",
    "Builder.build_serialized_network": "IHostMemory",
    "IBuilderConfig.create_timing_cache": "ITimingCache",
    "IBuilderConfig.get_timing_cache": "ITimingCache",
    "ITimingCache.serialize": "IHostMemory",
    "INetworkDefinition.get_layer": "ILayer",
    "INetworkDefinition.get_input": "ITensor",
    "INetworkDefinition.get_output": "ITensor",
    "ILayer.get_input": "ITensor",
    "ILayer.get_output": "ITensor",
    "OnnxParser.get_error": "ParserError",
    "Runtime.deserialize_cuda_engine": "ICudaEngine",
    "ICudaEngine.create_execution_context": "IExecutionContext",
    "ICudaEngine.create_engine_inspector": "EngineInspector",
}
"""The class that a method or property returns."""

TENSORRTS = {"8.6", "10.3", "10.13", "10.16", "11.4"}
NEWEST = {"11.4", "rtx"}
WITHOUT: tuple[tuple[str, set[str], tuple[str, ...]], ...] = (
    (
        "types are constrained layer by layer (is_weakly_typed), networks have an explicit batch",
        {"8.6"},
        ("NetworkDefinitionCreationFlag.STRONGLY_TYPED",),
    ),
    (
        "networks are strongly typed (is_weakly_typed), and no flag is given",
        NEWEST,
        (
            "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
            "BuilderFlag.OBEY_PRECISION_CONSTRAINTS",
            "ILayer.precision=",
            "ILayer.set_output_type",
        ),
    ),
    (
        "builder precision flags are set on TensorRT 8 only (is_weakly_typed)",
        NEWEST,
        ("BuilderFlag.FP16", "BuilderFlag.INT8"),
    ),
    (
        "no progress is shown (hasattr)",
        {"8.6"},
        (
            "IBuilderConfig.progress_monitor=",
            "IProgressMonitor",
            "IProgressMonitor.phase_finish",
            "IProgressMonitor.phase_start",
            "IProgressMonitor.step_complete",
        ),
    ),
    ("nodes are numbers (hasattr)", {"8.6"}, ("ParserError.node_name",)),
    ("the older name is used (hasattr)", {"8.6"}, ("ICudaEngine.device_memory_size_v2",)),
    (
        "contexts are created without memory, which is given by its address (hasattr)",
        {"8.6"},
        (
            "ExecutionContextAllocationStrategy",
            "ExecutionContextAllocationStrategy.USER_MANAGED",
            "IExecutionContext.set_device_memory",
        ),
    ),
    (
        "contexts are created with a strategy (hasattr)",
        NEWEST,
        ("ICudaEngine.create_execution_context_without_device_memory",),
    ),
    ("the newer name is used (hasattr)", NEWEST, ("ICudaEngine.device_memory_size",)),
    (
        "engines are built for the GPU that is here; only TensorRT for RTX compiles for others",
        TENSORRTS,
        (
            "IBuilderConfig.num_compute_capabilities=",
            "IBuilderConfig.set_compute_capability",
            "ComputeCapability",
            *(f"ComputeCapability.SM{major}{minor}" for major, minor in RTX_CAPABILITIES),
        ),
    ),
)
"""Names that some releases lack: what the code does without them, which releases, and the names. All such, exactly."""
GUARDED = {
    "IProgressMonitor",
    "ParserError.node_name",
    "ICudaEngine.device_memory_size_v2",
    "ExecutionContextAllocationStrategy",
}
"""Those of them that the code looks for first; the other branches go by the version or by what is asked."""


class Names(ast.NodeVisitor):
    """TensorRT names that a file touches.

    Attributes:
        touched: dotted names, with "=" at the end where they are written, and the lines.
        guarded: those that the code looks for with `hasattr` or `getattr` before it uses them.
        unknown: attributes of objects whose class is not known, and the lines.
    """

    def __init__(self, source: str) -> None:
        self.touched: dict[str, set[int]] = defaultdict(set)
        self.guarded: set[str] = set()
        self.unknown: dict[str, set[int]] = defaultdict(set)
        self._fields: dict[str, str] = {}
        self._variables: dict[str, str] = {}
        tree = ast.parse(source)
        nodes = list(ast.walk(tree))
        self._functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef) and _is_any(node.returns)}
        calls = [node.func for node in nodes if isinstance(node, ast.Call)]
        self._called = {function.attr for function in calls if isinstance(function, ast.Attribute)}
        # Twice: methods may use a field above the place where it is set.
        self.visit(tree)
        self.touched.clear()
        self.unknown.clear()
        self.visit(tree)

    # What an expression is: "trt" for the module, "type X" for a class, "X" for an object of it, "[X]" for several.

    def _what(self, node: ast.expr | None) -> str:
        match node:
            case ast.Name(name):
                return self._variables.get(name, "")
            case ast.Attribute(value, name):
                owner = self._what(value)
                if owner == "trt":
                    return "" if name.startswith("__") else f"type {name}"
                if owner.startswith("type "):
                    return f"{owner}.{name}"
                return RETURNS.get(f"{owner}.{name}", "") if owner else self._fields.get(name, "")
            case ast.Call(ast.Attribute(value, name)) if owner := self._what(value):
                if owner.startswith("[") and name in ("values", "get", "pop"):
                    return owner if name == "values" else owner[1:-1]
                return name if owner == "trt" else RETURNS.get(f"{owner}.{name}", "")
            case ast.Subscript(value):
                return self._what(value)[1:-1]
            case ast.ListComp(element, loops) | ast.GeneratorExp(element, loops) | ast.DictComp(_, element, loops):
                for loop in loops:
                    self._loop(loop.target, loop.iter)
                what = self._what(element)
                return f"[{what}]" if what else ""
            case ast.BoolOp(values=parts):
                return next(filter(None, map(self._what, parts)), "")
            case ast.IfExp(_, one, other):
                return self._what(one) or self._what(other)
            case ast.NamedExpr(value=value):
                return self._what(value)
        return ""

    def _set(self, target: ast.expr, what: str) -> None:
        """Nothing is forgotten where a variable becomes None, or something unknown in another branch."""
        if isinstance(target, ast.Name):
            self._variables[target.id] = what or self._variables.get(target.id, "")
        elif isinstance(target, ast.Attribute) and what:
            self._fields[target.attr] = what

    def _loop(self, target: ast.expr, several: ast.expr) -> None:
        match several:
            case ast.Call(ast.Name("enumerate"), [inner, *_]) if isinstance(target, ast.Tuple):
                self._loop(target.elts[1], inner)
            case ast.Call(ast.Attribute(inner, "items")) if isinstance(target, ast.Tuple):
                self._set(target.elts[1], self._what(inner)[1:-1])
            case _:
                self._set(target, self._what(several)[1:-1])

    # What is done with it.

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = self._what(node.value)
        name = node.attr + ("=" if isinstance(node.ctx, ast.Store) else "")
        if owner:
            self._touch(owner, name, node)
        else:
            self.unknown[node.attr].add(node.lineno)
        self.generic_visit(node)

    def _touch(self, owner: str, name: str, node: ast.AST) -> str:
        full = name if owner == "trt" else f"{owner.removeprefix('type ')}.{name}"
        if not owner.startswith("[") and not name.startswith("__"):
            self.touched[full].add(getattr(node, "lineno", 0))
        return full

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(ast.Name("hasattr" | "getattr" as how), [thing, ast.Constant(str(name)), *default]):
                if owner := self._what(thing):
                    full = self._touch(owner, name, node)
                    if how == "hasattr" or default:
                        self.guarded.add(full)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            what = self._what(node.value)
            if isinstance(target, ast.Name) and isinstance(node.value, ast.Call):
                function = node.value.func
                if target.id == "trt":
                    what = "trt"
                elif getattr(function, "id", getattr(function, "attr", "")) in self._functions:
                    what = what or OBJECTS.get(target.id, "")
            self._set(target, what)
            self.visit(target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        what = self._what(node.value) if node.value else ""
        name = getattr(node.target, "id", getattr(node.target, "attr", ""))
        if not what:
            what = _declared(name, node.annotation)
            # In the body of a class it is a field.
            self._fields |= {name: what} if what else {}
        self._set(node.target, what)
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._set(node.target, self._what(node.value))
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self._loop(node.target, node.iter)
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.expr) -> None:
        self._what(node)
        self.generic_visit(node)

    visit_GeneratorExp = visit_DictComp = visit_SetComp = visit_ListComp

    def visit_alias(self, node: ast.alias) -> None:
        if node.asname == "trt":
            self._variables["trt"] = "trt"

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            what = self._what(base)
            # What the file itself does not call, TensorRT has to.
            if what.startswith("type "):
                for inner in node.body:
                    if not isinstance(inner, ast.FunctionDef) or inner.name in self._called:
                        continue
                    if not inner.name.startswith("_"):
                        self._touch(what, inner.name, inner)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.Lambda) -> None:
        outside = dict(self._variables)
        arguments = node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            self._variables[argument.arg] = _declared(argument.arg, argument.annotation)
        self.generic_visit(node)
        self._variables = outside

    visit_Lambda = visit_FunctionDef


def _is_any(annotation: ast.expr | None) -> bool:
    return annotation is not None and ast.unparse(annotation) in ("Any", "Any | None")


def _declared(name: str, annotation: ast.expr | None) -> str:
    """What a name of type `Any`, or of a list or dictionary of such, is."""
    known = {"trt": "trt", **OBJECTS}.get(name.strip("_"), "")
    if known and annotation is not None and ast.unparse(annotation) in ("list[Any]", "dict[str, Any]"):
        return f"[{known}]"
    return known if _is_any(annotation) else ""


def files() -> list[Path]:
    """Files of the package that have a `trt`."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
    found = [path for path, text in texts.items() if re.search(r"\btrt\b", text) and Names(text).touched]
    assert PACKAGE / "exporters/tensorrt/builder.py" in found
    return found


def touched() -> dict[str, str]:
    """Every name, with a place where it is used."""
    found: dict[str, str] = {}
    for path in files():
        for name, lines in Names(path.read_text(encoding="utf-8")).touched.items():
            found.setdefault(name, f"{path.relative_to(PACKAGE)}:{min(lines)}")
    # The code makes these names of numbers.
    found |= {f"ComputeCapability.SM{major}{minor}": "RTX_CAPABILITIES" for major, minor in RTX_CAPABILITIES}
    return found


_offers: dict[str, Offer | str] = {}
"""By release; or why it is not here."""


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def offer(release: str, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Offer:
    if release not in _offers:
        cache = getattr(pytestconfig, "cache", None)
        folder = Path(cache.mkdir("tensorrt")) if cache else tmp_path_factory.mktemp("tensorrt")
        try:
            _offers[release] = offer_of(RELEASES[release], folder)
        except NotHereError as error:
            _offers[release] = str(error)
    found = _offers[release]
    if isinstance(found, str):
        pytest.skip(found)
    return found


def missing_of(names: dict[str, str], offer: Offer) -> dict[str, str]:
    return {name: where for name, where in names.items() if not offer.has(name)}


def test_every_name_exists_where_the_code_uses_it(release: str, offer: Offer) -> None:
    """And those that `WITHOUT` names are missing, so that what the code does without them is needed."""
    expected = {name for _, releases, names in WITHOUT if release in releases for name in names}
    found = missing_of(touched(), offer)
    unexpected = {name: where for name, where in found.items() if name not in expected}
    assert not unexpected, f"TensorRT {release} ({offer.version}) has no such names"
    assert not expected - set(found), f"TensorRT {release} has them, or the code uses them no longer"


def test_what_is_looked_for_is_missing_somewhere() -> None:
    guarded = set().union(*(Names(path.read_text(encoding="utf-8")).guarded for path in files()))
    assert guarded == GUARDED
    assert guarded <= {name for _, _, names in WITHOUT for name in names}


def test_classes_of_objects_are_what_the_table_says(offer: Offer) -> None:
    for name, kind in RETURNS.items():
        if name in offer.names:
            assert offer.returns.get(name, kind) == kind, name
    assert set(OBJECTS.values()) <= set(offer.names)


def test_no_tensorrt_object_is_overlooked(offer: Offer) -> None:
    """Where an object of unknown class has an attribute named as one of TensorRT's, `OBJECTS` should know it.

    Names of one word are too common for this.
    """
    members = {name.rpartition(".")[2] for name in offer.names if "." in name}
    for path in files():
        unknown = Names(path.read_text(encoding="utf-8")).unknown
        overlooked = {name: lines for name, lines in unknown.items() if name in members and "_" in name.strip("_")}
        assert not overlooked, path


SAMPLE = """
def run(trt: Any, engine: Any, other: Engine) -> None:
    log = trt.Logger(trt.ILogger.NO_SUCH_LEVEL)
    builder = trt.Builder(log)
    config = builder.create_builder_config()
    config.no_such_option = 1
    config.progress_monitor = None
    builder.no_such_method()
    trt.NoSuchThing
    kept = True and config.get_timing_cache()
    kept.no_such_cache()
    layers = [builder.create_network(0).get_layer(i) for i in range(3)]
    for index, layer in enumerate(layers):
        layer.no_such_layer()
        layer.num_inputs = 2
    other.no_such_method_either()
    if hasattr(engine, "no_such_size"):
        engine.no_such_size

    class Monitor(trt.IProgressMonitor):
        def no_such_phase(self) -> None:
            builder.reset()

class Engine:
    def use(self):
        self._context.no_such_run()

    def __init__(self, trt: Any, runtime: Any) -> None:
        engines = {name: runtime.deserialize_cuda_engine(b"") for name in "ab"}
        self._context = engines["a"].create_execution_context()
"""


def test_names_that_do_not_exist_are_caught(release: str, offer: Offer) -> None:
    names = Names(SAMPLE)
    found = missing_of(dict.fromkeys(names.touched, ""), offer)
    assert set(found) == {
        "NoSuchThing",
        "ILogger.NO_SUCH_LEVEL",
        "IBuilderConfig.no_such_option=",
        "Builder.no_such_method",
        "ITimingCache.no_such_cache",
        "ILayer.no_such_layer",
        "ILayer.num_inputs=",
        "ICudaEngine.no_such_size",
        "IProgressMonitor.no_such_phase",
        "IExecutionContext.no_such_run",
    } | ({"IProgressMonitor", "IBuilderConfig.progress_monitor="} if release == "8.6" else set())
    assert names.guarded == {"ICudaEngine.no_such_size"}
    assert "no_such_method_either" in names.unknown


# --- the builder, with no more names than a release has ---

FRAME = GraphSignature((TensorSpec("frame", "uint8", ("objects", 8)),), ())


def stand_in(release: str, offer: Offer) -> Any:
    """A module with a release's classes, methods and properties, which do nothing, and not a name more."""
    module: Any = ModuleType("tensorrt_rtx" if release == "rtx" else "tensorrt")
    module.__version__ = offer.version

    def answer(name: str) -> Any:
        kind = getattr(module, offer.returns.get(name, RETURNS.get(name, "")), None)
        if isinstance(kind, type):
            # The first member of an enum, or an object.
            return 0 if issubclass(kind, Enumeration) else kind()
        return "text" if name.endswith(("name", "desc")) else 1

    def member(name: str, what: str | int) -> Any:
        if isinstance(what, int):
            return what
        if what == "method":
            return lambda *_: answer(name)
        return property(lambda _: answer(name), (lambda *_: None) if what == "settable" else None)

    for name in [name for name, what in offer.names.items() if what == "class" and "." not in name]:
        inside = {one.rpartition(".")[2]: one for one in offer.names if one.rpartition(".")[0] == name}
        body = {short: member(one, offer.names[one]) for short, one in inside.items() if not short.startswith("__")}
        numbers = any(isinstance(offer.names[one], int) for one in inside.values())
        base = Enumeration if numbers and name != "ILogger" else Nothing
        setattr(module, name, type(name, (base,), {"__slots__": (), **body}))
    return module


class Nothing:
    __slots__ = ()

    def __init__(self, *_: Any) -> None:
        pass

    def __bytes__(self) -> bytes:
        return b"content"


class Enumeration(Nothing):
    __slots__ = ()


def options_of(release: str) -> BuildOptions:
    return BuildOptions(compute_capabilities=RTX_CAPABILITIES if release == "rtx" else (), verbose=True)


def test_a_build_uses_no_name_that_is_missing(release: str, offer: Offer, tmp_path: Path) -> None:
    trt = stand_in(release, offer)
    with pytest.raises(AttributeError):
        trt.Builder().no_such_method()
    with pytest.raises(AttributeError):
        trt.IBuilderConfig().no_such_option = 1
    built = build_engine(trt, tmp_path / "a.onnx", FRAME, options_of(release), b"timings")
    assert built.plan == b"content"
    assert built.timing_cache == (b"" if release == "rtx" else b"content")


def test_a_refusal_uses_no_name_that_is_missing(release: str, offer: Offer, tmp_path: Path) -> None:
    trt = stand_in(release, offer)
    trt.OnnxParser.parse_from_file = lambda *_: False
    with pytest.raises(ExportError, match=r"cannot parse a.onnx: (text|node 1): text"):
        build_engine(trt, tmp_path / "a.onnx", FRAME, options_of(release))
