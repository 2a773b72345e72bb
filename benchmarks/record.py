"""One JSON file with every single time, and the tables."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.settings import Part, Settings
from etam_edge.benchmark import machine
from etam_edge.benchmark.background import DESCRIPTION
from etam_edge.benchmark.noise import NoiseWatch
from etam_edge.benchmark.packages import PACKAGES, look_up

SCHEMA = 1
NAME = "performance"
WAIT_POLICY = "OMP_WAIT_POLICY"


class Recorder:
    """Watches the machine from now on and keeps what parts find.

    Args:
        command: the words of the call.
        settings: of the run.
    """

    def __init__(self, command: Sequence[str], settings: Settings) -> None:
        self._command = shlex.join(["python", *command])
        self._settings = settings
        self._machine = machine.look_at_machine(Path("/"))
        self._watch = NoiseWatch()
        self._created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._parts: dict[str, Part] = {}

    def add(self, name: str, part: Part) -> None:
        self._parts[name] = part

    def content(self) -> dict[str, Any]:
        """What the JSON file holds: times in milliseconds, memory in bytes."""
        import torch

        noise = self._watch.finish([], self._machine.cores)
        packages = {package.name: look_up(package).version for package in PACKAGES}
        return {
            "schema": SCHEMA,
            "created": self._created,
            "command": self._command,
            "machine": asdict(self._machine),
            "governor": machine.governor(Path("/")),
            "versions": {name: version for name, version in packages.items() if version is not None},
            "threads": {"torch": torch.get_num_threads(), "onnxruntime": self._settings.threads},
            WAIT_POLICY: os.environ.get(WAIT_POLICY),
            "frames": self._settings.frames,
            "warm_up": self._settings.warm_up,
            "busy": {"processes": self._settings.busy, "load": DESCRIPTION},
            "noise": asdict(noise),
            "parts": {name: part.results for name, part in self._parts.items()},
            "warnings": [*noise.warnings, *(text for part in self._parts.values() for text in part.warnings)],
        }

    def markdown(self, content: dict[str, Any]) -> str:
        """All tables, with what they were measured on.

        Args:
            content: of `content`.
        """
        found, threads = content["machine"], content["threads"]
        versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
        busy = content["busy"]["processes"]
        cpu = f"{found['cpu']} ({found['instruction_set']}), {found['cores']} cores"
        software = f"Python {found['python']}, {versions}"
        lines = [
            f"{cpu}; {software}; threads: torch {threads['torch']}, ONNX Runtime "
            f"{threads['onnxruntime'] or 'its own choice'}; {WAIT_POLICY}={content[WAIT_POLICY]}",
            f"`{content['command']}`",
        ]
        if busy:
            lines.append(f"*busy*: beside {busy} {content['busy']['load']}")
        for part in self._parts.values():
            lines += [f"## {part.title}", *part.tables]
        lines += [f"warning: {text}" for text in content["warnings"]]
        return "\n\n".join(lines)

    def write(self) -> str:
        """Write all that is known so far to the folder of the settings, and return the tables."""
        folder, content = self._settings.output, self.content()
        folder.mkdir(parents=True, exist_ok=True)
        tables = self.markdown(content)
        text = json.dumps(rounded(content), indent=1, allow_nan=False)
        (folder / f"{NAME}.json").write_text(text + "\n", encoding="utf-8")
        (folder / f"{NAME}.md").write_text(tables + "\n", encoding="utf-8")
        for part in self._parts.values():
            for name, image in part.plots.items():
                (folder / name).write_bytes(image)
        return tables


def rounded(value: Any) -> Any:
    """Times to a tenth of a microsecond."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {str(name): rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value
