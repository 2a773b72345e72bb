"""Threads of PyTorch."""

from __future__ import annotations

import torch


def limit_threads(count: int | None) -> str:
    """Limit PyTorch to `count` CPU threads, or leave its own choice with None.

    Returns:
        the version of PyTorch, for reports.
    """
    if count is not None:
        torch.set_num_threads(count)
    return str(torch.__version__)
