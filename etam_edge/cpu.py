"""The kind of CPU: its architecture, with the instructions that decide how fast and how exact int8 and fp16 are."""

from __future__ import annotations

import platform
import re
from pathlib import Path

X86, ARM = ("x86_64", "amd64", "i386", "i686"), ("aarch64", "arm64")
_X86_VECTORS = (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("avx", "AVX"), ("sse4_2", "SSE4.2"), ("sse2", "SSE2"))
"""Vector instructions by Linux's name, widest first; only the widest one is told."""
_X86_EXTRAS = (
    (("avx512_vnni", "avx_vnni"), "VNNI"),
    (("avx512_bf16",), "BF16"),
    (("avx512_fp16",), "FP16"),
    (("amx_int8",), "AMX"),
)
_ARM_EXTRAS = (("asimdhp", "fp16"), ("asimddp", "dotprod"), ("i8mm", "i8mm"), ("bf16", "bf16"), ("sve", "SVE"))


def cpu_kind(root: Path = Path("/"), machine: str | None = None) -> str:
    """For example "x86-64 AVX2", "x86-64 AVX-512 VNNI BF16" or "ARM64 fp16 dotprod i8mm".

    Args:
        root: under which proc/cpuinfo is read.
        machine: of `platform.machine()`, which it is without it.

    Returns:
        the architecture alone where the system does not list instructions.
    """
    machine = (machine or platform.machine()).lower()
    try:
        cpuinfo = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = set(match[1].split()) if match else set()
    if machine in X86:
        vectors = next((word for flag, word in _X86_VECTORS if flag in flags), None)
        extras = [word for names, word in _X86_EXTRAS if flags & set(names)]
        return " ".join(filter(None, ("x86-64" if "64" in machine else "x86", vectors, *extras)))
    if machine in ARM:
        return " ".join(("ARM64", *(word for flag, word in _ARM_EXTRAS if flag in flags)))
    return machine or "unknown"
