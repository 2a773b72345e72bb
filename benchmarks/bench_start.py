"""How long it takes until there is something: imports, the first mask, and the command's help, in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.settings import Part, Settings, counted
from benchmarks.tables import table
from etam_edge.errors import EtamError

MODEL = "etam_nano"
IMPORT = "import json, time; t = time.perf_counter(); import {}; print(json.dumps(1e3 * (time.perf_counter() - t)))"
FIRST_MASK = """
import json, sys, time
begin = time.perf_counter()
import numpy as np
from etam_edge import Prompt, Tracker
imported = time.perf_counter()
tracker = Tracker.load(sys.argv[1], "onnxruntime", provider="cpu", threads=int(sys.argv[2]) or None)
loaded = time.perf_counter()
session = tracker.start_session()
frame = (np.indices((240, 320)).sum(0)[..., None] % 256 + np.zeros(3)).astype(np.uint8)
result = session.track(frame, prompts={1: Prompt(box=(80, 60, 240, 180))})
assert result.masks.shape == (1, 240, 320)
end = time.perf_counter()
print(json.dumps(1e3 * (end - begin)))
"""


@dataclass(frozen=True)
class Start:
    """Something that is timed in a process of its own.

    Attributes:
        what: it is.
        arguments: of Python.
        limit: milliseconds, or None where there is none.
        inside: whether the process itself prints its milliseconds as JSON; else its whole life counts.
    """

    what: str
    arguments: list[str]
    limit: float | None
    inside: bool = True


def run(settings: Settings) -> Part:
    """
    Raises:
        EtamError: the bundle cannot be made, or a process fails.
    """
    first_mask = ["-c", FIRST_MASK, str(settings.bundles.get(MODEL)), str(settings.threads or 0)]
    starts = [
        Start("Python alone, whole process", ["-c", "pass"], None, inside=False),
        Start("`import etam_edge`", ["-c", IMPORT.format("etam_edge")], 200.0),
        Start("`import etam_edge.runtimes`", ["-c", IMPORT.format("etam_edge.runtimes")], 500.0),
        Start(f"imports, `Tracker.load` of {MODEL}, first frame with a prompt", first_mask, 1500.0),
        Start("the same, whole process", first_mask, None, inside=False),
        Start("`etam-edge --help`, whole process", ["-m", "etam_edge", "--help"], None, inside=False),
    ]
    times: dict[str, list[float]] = {start.what: [] for start in starts}
    with counted("start", len(starts) * settings.starts) as advance:
        # In turn, too: a busy minute should not meet one of them alone.
        for _ in range(settings.starts):
            for start in starts:
                times[start.what].append(milliseconds(start))
                advance("processes")
    rows, warnings = [], []
    results: dict[str, Any] = {}
    for start in starts:
        median = float(np.median(times[start.what]))
        limit = "" if start.limit is None else f"{start.limit:.0f}"
        rows.append([start.what, f"{median:.0f}", f"{min(times[start.what]):.0f}", limit])
        results[start.what] = {"milliseconds": times[start.what], "median": median, "limit": start.limit}
        if start.limit is not None and median > start.limit:
            warnings.append(f"{start.what} takes {median:.0f} ms, above {start.limit:.0f}")
    header = ["", "median, ms", "minimum, ms", "limit, ms"]
    return Part("Start", results, [table(f"fresh processes, n = {settings.starts}", header, rows)], warnings)


def milliseconds(start: Start) -> float:
    """Of one fresh process.

    Raises:
        EtamError: it failed; the message has the last line of its output.
    """
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, *start.arguments], capture_output=True, text=True, check=False)
    whole = 1e3 * (time.perf_counter() - begin)
    if done.returncode:
        printed = done.stderr.strip().splitlines() or ["nothing"]
        raise EtamError(f"{start.what} failed in a separate process: {printed[-1]}; run it by itself")
    return float(json.loads(done.stdout)) if start.inside else whole
