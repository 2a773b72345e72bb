"""Self-tests of several bundles on a GPU that is at hand for a few minutes.

    python -m benchmarks.gpu_selftest prepare FOLDER                # anywhere, with the packages of export
    python -m benchmarks.gpu_selftest run FOLDER --output OUT       # on the GPU, with TensorRT; neither torch nor onnx

`prepare` exports etam_nano with its own weights and efficienttam_ti_512x512 with seeded ones, in fp32, fp16 and int8,
and stores what each answers in ONNX Runtime. `run` tests them with `etam-edge selftest`, those first from which most is
learnt, until the time is used up; every test writes its results when it ends, and its output goes to a log of its own.
OUT/summary.md holds all tables. TensorRT 8.6 is used without cuBLAS and cuDNN.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NANO, OFFICIAL = "etam_nano", "efficienttam_ti_512x512"
MODELS = (NANO, OFFICIAL)
ORDER = (
    (NANO, "fp16"),
    (NANO, "fp32"),
    (NANO, "int8"),
    (OFFICIAL, "fp16"),
    (OFFICIAL, "int8"),
    (OFFICIAL, "fp32"),
)
"""Models and precisions, in the order in which they are tested."""
ANSWERS = "answers.npz"
MARGIN = 5.0
"""Seconds that a test is given beyond its own limit, to write its results."""


def prepare(folder: Path, models: Sequence[str]) -> None:
    """Export models in every precision, and store their answers.

    Args:
        folder: gets MODEL/PRECISION, a bundle, and MODEL/PRECISION-answers.npz.
        models: names.
    """
    import etam_edge
    from benchmarks.gpu_figures import export_model
    from etam_edge.exporters.checkpoints import PACKAGED

    for name in models:
        export_model(name, PACKAGED if name == NANO else None, folder)
        for model, precision in ORDER:
            if model != name:
                continue
            bundle = folder / name / precision
            result = etam_edge.selftest(
                bundle, runtime="onnxruntime", provider="cpu", write_answers=answers_of(bundle), frames=1
            )
            print(f"{bundle}: {'answers stored' if result.passed else 'failed'}", flush=True)


def answers_of(bundle: Path) -> Path:
    return bundle.with_name(f"{bundle.name}-{ANSWERS}")


def run(folder: Path, output: Path, seconds: float, level: int, build_limit: float, python: str) -> bool:
    """Test all bundles of a folder that `prepare` filled; whether all of them passed.

    Args:
        folder: with bundles and answers.
        output: folder for results and logs.
        seconds: for all tests together.
        level: optimisation level of TensorRT's builder.
        build_limit: seconds for building one graph.
        python: interpreter that has TensorRT.
    """
    output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    passed = True
    for model, precision in ORDER:
        bundle = folder / model / precision
        if not bundle.is_dir():
            continue
        left = end - time.monotonic() - MARGIN
        target = output / f"{model}-{precision}"
        if left < MARGIN:
            print(f"{model} {precision}: no time left", flush=True)
            passed = False
            continue
        command = [python, "-m", "etam_edge", "selftest", str(bundle), "--runtime", "tensorrt"]
        command += ["--against", str(answers_of(bundle)), "--output", str(target), "--no-external-tactics"]
        command += [
            "--optimization-level",
            str(level),
            "--time-limit",
            f"{left:.0f}",
            "--limit",
            f"build={build_limit:g}",
        ]
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        with open(target.with_suffix(".log"), "wb") as log:
            try:
                code = subprocess.run(
                    command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=left + MARGIN,
                    check=False,
                    env={**os.environ, "PYTHONPATH": paths, "COLUMNS": "200"},
                ).returncode
            except subprocess.TimeoutExpired:
                code = -1
        print(f"{model} {precision}: exit code {code}", flush=True)
        passed &= code == 0
    tables = sorted(output.glob("*/selftest.md"), key=lambda path: path.stat().st_mtime)
    (output / "summary.md").write_text("\n".join(path.read_text() for path in tables))
    return passed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    preparing = verbs.add_parser("prepare", help="export bundles and store their answers")
    preparing.add_argument("folder", type=Path)
    preparing.add_argument("models", nargs="*", metavar="MODEL", help=f"{' and '.join(MODELS)} without it")
    running = verbs.add_parser("run", help="test the bundles")
    running.add_argument("folder", type=Path)
    running.add_argument("--output", type=Path, required=True, help="folder for results and logs")
    running.add_argument("--seconds", type=float, default=380, help="for all tests together")
    running.add_argument("--optimization-level", type=int, default=2, help="of TensorRT's builder")
    running.add_argument("--build-limit", type=float, default=120, help="seconds for building one graph")
    running.add_argument("--python", default=sys.executable, help="interpreter that has TensorRT")
    options = parser.parse_args(arguments)
    if options.verb == "prepare":
        unknown = set(options.models) - set(MODELS)
        if unknown:
            parser.error(f"no model named {', '.join(sorted(unknown))}; models: {', '.join(MODELS)}")
        prepare(options.folder, options.models or MODELS)
        return 0
    level, limit = options.optimization_level, options.build_limit
    return 0 if run(options.folder, options.output, options.seconds, level, limit, options.python) else 1


if __name__ == "__main__":
    sys.exit(main())
