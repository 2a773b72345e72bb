"""How ONNX Runtime computes a bundle's graphs: threads, what waiting threads do, and rewrites on load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etam_edge.errors import InputError
from etam_edge.runtimes.backends.onnxruntime.int8_forms import FORMS
from etam_edge.runtimes.backends.threads import Threads, thread_count

ALLOW_SPINNING = "session.intra_op.allow_spinning"
STOP_SPINNING = "session.force_spinning_stop"
NO_QDQ_FUSION = "session.disable_quant_qdq"
"""ONNX Runtime fuses Q/DQ pairs with what is between them, on x86 always as uint8 by int8, which saturates on CPUs
without VNNI. This switches it off: Q/DQ pairs that no pass rewrites are computed in float. (Its option
`session.x64quantprecision` would keep the fusion and be exact, but fails to load graphs that share a constant.)"""
SPIN_POLICIES = ("never", "while running", "always")
"""What a worker thread does while it waits: it sleeps; it spins until its graph has ended; or it spins on after that
for some 35 ms, which is ONNX Runtime's own default."""
AUTO_SPINNING = "never"
"""What `threads="auto"` and a given number both use; the figures are in docs/performance.md."""


@dataclass(frozen=True)
class OnnxRuntimeOptions:
    """Options of the ONNX Runtime backend. The defaults need no tuning.

    Attributes:
        threads: for one graph; "auto" or None for the physical cores.
        spinning: what a worker thread does while it waits, one of `SPIN_POLICIES`. A thread that spins reacts faster,
            and keeps a core from other work meanwhile.
        skip_rewrites: names of functions of `cpu_rewrites` that are not applied when a graph is loaded on a CPU.
        int8_form: name of the form in which int8 products are computed on a CPU (`int8_forms.FORMS`), for measurements;
            None for the fastest one that this CPU computes exactly.
        profile: prefix of the files in which ONNX Runtime writes how long each operator took; None for no profile.
    """

    threads: Threads = None
    spinning: str = AUTO_SPINNING
    skip_rewrites: tuple[str, ...] = ()
    int8_form: str | None = None
    profile: Path | None = None

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: an option is not known.
        """
        thread_count(self.threads)
        if self.spinning not in SPIN_POLICIES:
            raise InputError(f"spinning '{self.spinning}' is not known; use {', '.join(SPIN_POLICIES)}")
        if self.int8_form is not None and self.int8_form not in FORMS:
            raise InputError(f"int8_form '{self.int8_form}' is not known; use {', '.join(FORMS)}")

    @property
    def description(self) -> str:
        """The choice of threads in words, for reports."""
        count = thread_count(self.threads)
        chosen = "auto: one for each physical core" if count is None else str(count)
        return f"{chosen}; spinning: {self.spinning}"

    def session_options(self, ort: Any) -> Any:
        """The `SessionOptions` of the imported module `ort`."""
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if self.spinning == "never":
            options.add_session_config_entry(ALLOW_SPINNING, "0")
        elif self.spinning == "while running":
            # Sessions run one after the other: an idle one's workers would spin on the cores that the next one needs.
            options.add_session_config_entry(STOP_SPINNING, "1")
        options.add_session_config_entry(NO_QDQ_FUSION, "1")
        count = thread_count(self.threads)
        if count is not None:
            options.intra_op_num_threads = count
        if self.profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(self.profile)
        return options
