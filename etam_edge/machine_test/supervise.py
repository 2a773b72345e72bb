"""Runs steps one after another in a child process, each with a time limit."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import IO, Any, cast

import etam_edge
from etam_edge.machine_test.steps import Settings

PASSED, FAILED, TIMED_OUT, CRASHED, SKIPPED = "passed", "failed", "timed out", "crashed", "skipped"
LAST_LINES = 40
"""Lines of a crashed process's standard error that are kept."""


@dataclass(frozen=True)
class Step:
    """A step to run.

    Attributes:
        name: "build track", for example.
        limit: seconds that it may take.
        needs: names of steps without which it cannot run.
        fresh: whether it runs in a new process: TensorRT's builder keeps memory.
    """

    name: str
    limit: float
    needs: tuple[str, ...] = ()
    fresh: bool = False


@dataclass(frozen=True)
class StepResult:
    """What became of a step.

    Attributes:
        name: of the step.
        status: "passed", "failed", "timed out", "crashed" or "skipped".
        seconds: that it took.
        text: what was found, in one line.
        values: figures; "traceback" or "stderr" where something broke.
    """

    name: str
    status: str
    seconds: float
    text: str
    values: dict[str, Any] = field(default_factory=dict)


def run_steps(
    steps: Sequence[Step],
    settings: Settings,
    on_step: Callable[[str], None] = lambda name: None,
    end: float = math.inf,
) -> list[StepResult]:
    """Run steps in order. A step whose needs failed is skipped; one that fails does not end the others.

    Args:
        steps: to run.
        settings: of the self-test.
        on_step: called with the name of each step before it runs.
        end: time of `time.monotonic` at which the last step has to end; those for which no time is left are skipped.
    """
    results: dict[str, StepResult] = {}
    child: _Child | None = None
    try:
        for step in steps:
            on_step(step.name)
            missing = [name for name in step.needs if name in results and results[name].status != PASSED]
            if missing:
                results[step.name] = StepResult(step.name, SKIPPED, 0.0, f"needs the step '{missing[0]}'")
                continue
            left = end - time.monotonic()
            if left <= 0:
                results[step.name] = StepResult(step.name, SKIPPED, 0.0, "no time is left")
                continue
            step = replace(step, limit=min(step.limit, left))
            if child is not None and step.fresh:
                child.end()
                child = None
            child = child or _Child(settings)
            results[step.name] = child.run(step)
            if results[step.name].status != PASSED:
                # After an error of the GPU, a process cannot use it any more.
                child.end()
                child = None
    finally:
        if child is not None:
            child.end()
    return list(results.values())


class _Child:
    """A process that runs steps (`child.py`)."""

    def __init__(self, settings: Settings) -> None:
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, closed with the object
        self._read, write = os.pipe()
        root = str(Path(etam_edge.__file__).parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH", "")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "etam_edge.machine_test.child", str(write), json.dumps(asdict(settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            pass_fds=(write,),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        os.close(write)

    def run(self, step: Step) -> StepResult:
        begin = time.monotonic()
        pipe = cast(IO[bytes], self._process.stdin)
        try:
            pipe.write(f"{step.name}\n".encode())
            pipe.flush()
        except BrokenPipeError:
            return self._crashed(step, begin)
        received = b""
        while not received.endswith(b"\n"):
            left = begin + step.limit - time.monotonic()
            if left <= 0 or not select.select([self._read], [], [], left)[0]:
                self.end()
                return StepResult(step.name, TIMED_OUT, step.limit, f"did not end within {step.limit:.3g} s")
            part = os.read(self._read, 1 << 16)
            if not part:
                return self._crashed(step, begin)
            received += part
        answer = json.loads(received)
        status = PASSED if answer["passed"] else FAILED
        return StepResult(step.name, status, time.monotonic() - begin, answer["text"], answer["values"])

    def end(self) -> None:
        """End the process now."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            # A name that the process did not read is flushed again here.
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        if self._read >= 0:
            os.close(self._read)
            self._read = -1

    def _crashed(self, step: Step, begin: float) -> StepResult:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = [line for line in self._stderr.read().decode(errors="replace").splitlines() if line.strip()]
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        # The last words of the library; Python's own report of the crash follows them.
        said = list(takewhile(lambda line: not line.startswith("Fatal Python error"), lines))
        text = f"the process ended with {how}" + (f": {said[-1]}" if said else "")
        return StepResult(step.name, CRASHED, time.monotonic() - begin, text, {"stderr": lines[-LAST_LINES:]})
