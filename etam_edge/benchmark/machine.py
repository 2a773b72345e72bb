"""What this computer is, out of system files, so that the answer comes at once. Nothing that is absent is an error."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from etam_edge.cpu import cpu_kind

JETPACKS = {32: "4", 34: "5.0", 35: "5.1", 36: "6", 38: "7"}
"""JetPack by major release of Jetson Linux (L4T)."""
QUERY_TIMEOUT = 5.0
"""Seconds that nvidia-smi or nvpmodel has to answer."""


@dataclass(frozen=True)
class Machine:
    """The computer. What could not be found out is None or empty; memory is in bytes."""

    system: str
    python: str
    cpu: str
    instruction_set: str
    cores: int
    memory: int | None
    memory_available: int | None
    cuda_driver: str | None
    gpus: list[str]
    board: str | None
    l4t: str | None
    jetpack: str | None


def look_at_machine(root: Path) -> Machine:
    """The facts of this computer, its system files read under `root`."""
    l4t = _l4t(_read(root / "etc/nv_tegra_release"))
    model = _read(root / "proc/device-tree/model").strip("\0\n ")
    driver, gpus = _nvidia(root)
    memory = _memory(_read(root / "proc/meminfo"))
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        cpu=_cpu(_read(root / "proc/cpuinfo")) or model or platform.processor() or platform.machine(),
        instruction_set=cpu_kind(root),
        cores=cores(),
        memory=memory.get("MemTotal"),
        memory_available=memory.get("MemAvailable"),
        cuda_driver=driver,
        gpus=gpus,
        board=model or None if l4t else None,
        l4t=l4t,
        jetpack=_jetpack(l4t, _read(root / "var/lib/dpkg/status")) if l4t else None,
    )


def _read(path: Path) -> str:
    """The text of a system file, "" where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpu(cpuinfo: str) -> str:
    match = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else ""


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory(meminfo: str) -> dict[str, int]:
    """Bytes by name."""
    return {name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", meminfo, re.MULTILINE)}


def _l4t(release: str) -> str | None:
    """Jetson Linux's version, as "36.4.3", of /etc/nv_tegra_release."""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    return f"{match[1]}.{match[2]}" if match else None


def _jetpack(l4t: str, dpkg_status: str) -> str | None:
    """JetPack's version: of its package where that is installed, else what the Jetson Linux release belongs to."""
    match = re.search(r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: ([\d.]+)", dpkg_status, re.MULTILINE)
    return match[1] if match else JETPACKS.get(int(l4t.split(".")[0]))


def _nvidia(root: Path) -> tuple[str | None, list[str]]:
    """Driver version and GPU names: of nvidia-smi, else of the driver's own files."""
    rows = _ask_nvidia_smi()
    if rows:
        # Memory that the GPU shares with the CPU is answered as [N/A].
        return rows[0][1], [name if memory.startswith("[") else f"{name}, {memory}" for name, _, memory in rows]
    version = re.search(r"Module.*?\s(\d+\.[\d.]+)", _read(root / "proc/driver/nvidia/version"))
    try:
        files = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    except OSError:
        files = []
    names = [re.search(r"^Model:\s*(.+)$", _read(file), re.MULTILINE) for file in files]
    return version[1] if version else None, [name[1].strip() for name in names if name]


def _ask_nvidia_smi() -> list[tuple[str, str, str]]:
    """(name, driver version, memory) of each GPU; empty where nvidia-smi is missing or fails."""
    rows: list[tuple[str, str, str]] = []
    for line in _ask("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"):
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3:
            rows.append((parts[0], parts[1], parts[2]))
    return rows


def _ask(name: str, *arguments: str) -> list[str]:
    """The lines that a program of the system prints; none where it is missing or fails."""
    program = shutil.which(name)
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=QUERY_TIMEOUT, check=True, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()


# --- what changes from run to run ---


def power_mode() -> str | None:
    """A Jetson's power mode, as "MAXN" or "15W", of `nvpmodel -q`; None where there is none, or it does not tell."""
    for line in _ask("nvpmodel", "-q"):
        match = re.match(r"\s*NV Power Mode\s*:\s*(\S.*?)\s*$", line)
        if match:
            return match[1]
    return None


def governor(root: Path) -> str | None:
    """How the first core's clock is chosen, as "performance" or "schedutil"; None where the system does not say."""
    return _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None


def load() -> float | None:
    """Processes that ran or wanted to, on average over the last minute; None where the system does not count."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def resident_memory(root: Path) -> int | None:
    """Bytes of memory that this process holds now."""
    match = re.search(r"^VmRSS:\s+(\d+) kB$", _read(root / "proc/self/status"), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def peak_memory() -> int | None:
    """Bytes of memory that this process held at most."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_memory() -> int | None:
    """Bytes of GPU memory that this process holds, as nvidia-smi counts them; None where it does not tell.

    It tells nothing on a Jetson, whose GPU shares the CPU's memory, nor in a container with process numbers of its own.
    """
    for line in _ask("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"):
        match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", line)
        if match and int(match[1]) == os.getpid():
            return int(match[2]) << 20
    return None
