"""The kind of CPU, out of /proc/cpuinfo."""

from __future__ import annotations

from pathlib import Path

import pytest

from etam_edge.cpu import cpu_kind

CASES = {
    "x86-64 AVX2": ("x86_64", "flags\t\t: fpu sse2 sse4_2 avx f16c avx2 vaes"),
    "x86-64 AVX2 VNNI": ("AMD64", "flags\t\t: sse2 avx avx2 avx_vnni"),
    "x86-64 AVX-512": ("x86_64", "flags\t\t: sse2 avx avx2 avx512f avx512bw"),
    "x86-64 AVX-512 VNNI BF16": ("x86_64", "flags\t\t: sse2 avx avx2 avx512f avx512_vnni avx512_bf16"),
    "x86-64 AVX-512 VNNI BF16 FP16 AMX": (
        "x86_64",
        "flags : avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_bf16 amx_tile amx_int8",
    ),
    "x86-64 SSE4.2": ("x86_64", "flags\t\t: sse2 sse4_2"),
    "ARM64 fp16 dotprod": ("aarch64", "Features\t: fp asimd aes asimdhp cpuid asimdrdm lrcpc dcpop asimddp"),
    "ARM64 fp16 dotprod i8mm bf16 SVE": ("aarch64", "Features\t: fp asimd asimdhp asimddp sve i8mm bf16"),
    "ARM64": ("aarch64", "Features\t: fp asimd crc32"),
}


@pytest.mark.parametrize("kind", CASES)
def test_the_instructions_that_matter_are_told(tmp_path: Path, kind: str) -> None:
    machine, line = CASES[kind]
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor\t: 0\nmodel name\t: One\n{line}\n\nprocessor\t: 1\n{line}\n")
    assert cpu_kind(tmp_path, machine) == kind


@pytest.mark.parametrize(("machine", "kind"), [("arm64", "ARM64"), ("AMD64", "x86-64"), ("riscv64", "riscv64")])
def test_without_cpuinfo_the_architecture_is_told(tmp_path: Path, machine: str, kind: str) -> None:
    assert cpu_kind(tmp_path, machine) == kind


def test_this_machine_has_a_kind() -> None:
    assert cpu_kind()
