"""GStreamer's Python packages of Debian, made importable in a virtual environment that does not see them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

DEBIAN = Path("/usr/lib/python3/dist-packages")


def need_gstreamer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *elements: str) -> None:
    """Import PyGObject and GStreamer for a test, or skip it with the reason.

    Args:
        monkeypatch: of the test.
        tmp_path: folder that a link to Debian's package `gi` is put into, for this test.
        elements: elements that the test needs.
    """
    from etam_edge.errors import RuntimeUnavailableError
    from etam_edge.media.sources.gstreamer import import_gstreamer

    if "gi" not in sys.modules and (DEBIAN / "gi").is_dir():
        place = tmp_path / "gi_of_debian"
        place.mkdir()
        (place / "gi").symlink_to(DEBIAN / "gi")
        monkeypatch.syspath_prepend(str(place))
    try:
        gst, _, _ = import_gstreamer()
    except RuntimeUnavailableError as error:
        pytest.skip(str(error))
    missing = [element for element in elements if gst.ElementFactory.find(element) is None]
    if missing:
        pytest.skip(f"GStreamer has no {', '.join(missing)} here")
