"""A warning before something is timed on a machine that does other work."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


def warn_if_busy() -> None:
    """Log a warning where other processes keep the machine busy, as `bench` reports it."""
    from etam_edge.benchmark import machine
    from etam_edge.benchmark.noise import busy_warning

    for sentence in busy_warning(machine.load(), machine.cores()):
        logger.warning("%s", sentence)
