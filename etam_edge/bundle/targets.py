"""The machines that engines are built for: what `etam-edge build`, `doctor` and the docs say of them, in one table."""

from __future__ import annotations

from dataclasses import dataclass

from etam_edge.errors import InputError

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Target:
    """A kind of machine.

    Attributes:
        name: value of `target` in a build.
        device: what it is.
        compute_capability: of its GPU, (major, minor), or None for whatever is here.
        system: what has to be installed on it.
        tensorrt: oldest and newest TensorRT that it comes with or takes.
        workspace: bytes that a layer may use while engines are built, at most.
        integrated: whether GPU and CPU share one memory.
        max_objects: objects that engines are built for if no number is asked for.
        advice: which precision to start with.
    """

    name: str
    device: str
    compute_capability: tuple[int, int] | None
    system: str
    tensorrt: tuple[str, str]
    workspace: int
    integrated: bool
    max_objects: int
    advice: str


TARGETS = {
    target.name: target
    for target in (
        Target(
            "a100",
            "NVIDIA A100",
            (8, 0),
            "Linux x86-64 with a CUDA driver",
            ("8.6", "11.4"),
            8192 * MEBIBYTE,
            False,
            8,
            "fp16; int8 where the check allows it",
        ),
        Target(
            "jetson-orin",
            "Jetson AGX Orin, Orin NX",
            (8, 7),
            "JetPack 6.0 (TensorRT 8.6), 6.1 and 6.2 (10.3), 7.2 (10.16, 11.4)",
            ("8.6", "11.4"),
            2048 * MEBIBYTE,
            True,
            2,
            "fp16; int8 where the check allows it (no FP8 there)",
        ),
        Target(
            "jetson-orin-nano",
            "Jetson Orin Nano, 4 or 8 GB shared with the CPU",
            (8, 7),
            "JetPack 6.0 (TensorRT 8.6), 6.1 and 6.2 (10.3), 7.2 (10.16, 11.4)",
            ("8.6", "11.4"),
            1024 * MEBIBYTE,
            True,
            1,
            "fp16 at 512 px; int8 where the check allows it",
        ),
        Target(
            "jetson-thor",
            "Jetson AGX Thor",
            (11, 0),
            "JetPack 7.0 and 7.1 (TensorRT 10.13), 7.2 (10.16, 11.4)",
            ("10.13", "11.4"),
            4096 * MEBIBYTE,
            True,
            2,
            "fp16; int8 where the check allows it",
        ),
        Target(
            "this-machine",
            "the GPU that is here",
            None,
            "a CUDA driver and TensorRT",
            ("8.6", "11.4"),
            2048 * MEBIBYTE,
            False,
            8,
            "fp16; int8 where the check allows it",
        ),
    )
}
"""By name."""
THIS_MACHINE = "this-machine"
SHARED_MEMORY_OBJECTS = 2
"""Objects of engines for this machine where its GPU shares the CPU's memory."""
OLDEST_TENSORRT = (8, 6)


def find_target(name: str) -> Target:
    """
    Raises:
        InputError: no target has this name.
    """
    try:
        return TARGETS[name]
    except KeyError:
        raise InputError(f"no target is named '{name}'; targets: {', '.join(TARGETS)}") from None


def version_numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: "10.13.2.6" is (10, 13, 2, 6)."""
    numbers = []
    for part in text.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)
