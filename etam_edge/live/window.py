"""Tracked frames in a window of the desktop."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from etam_edge.errors import RuntimeUnavailableError
from etam_edge.media.overlay import overlay
from etam_edge.media.sources import NamedFrame
from etam_edge.runtimes.types import FrameResult

SHARE_OF_SCREEN = 0.8
"""Share of the screen's width and height that the window takes, at most."""


class Window:
    """A window with the newest frame and its masks. It belongs to the thread that created it.

    Args:
        title: of the window.

    Attributes:
        closed: whether the user closed it, or pressed Escape or Q in it.

    Raises:
        RuntimeUnavailableError: tkinter or a display is missing.
    """

    def __init__(self, title: str) -> None:
        try:
            import tkinter

            from PIL import ImageTk
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"`show` needs tkinter, which cannot be imported ({error}); install it with: apt install python3-tk "
                "python3-pil.imagetk, or open the page with `serve`"
            ) from error
        self._photo_image: Any = ImageTk.PhotoImage
        try:
            self._root = tkinter.Tk(className="etam-edge")
        except tkinter.TclError as error:
            raise RuntimeUnavailableError(
                f"`show` needs a display ({error}); use a machine with a screen, or open the page with `serve`"
            ) from error
        self._root.title(title)
        self._root.protocol("WM_DELETE_WINDOW", self._close)
        for key in ("<Escape>", "q"):
            self._root.bind(key, lambda _: self._close())
        self._label = tkinter.Label(self._root, borderwidth=0, background="black")
        self._label.pack(expand=True, fill="both")
        self._photo: Any = None
        self.closed = False

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        """Show a frame."""
        if self.closed:
            return
        image = Image.fromarray(np.ascontiguousarray(overlay(frame.pixels, result)))
        room = self._root.winfo_screenwidth(), self._root.winfo_screenheight()
        scale = min(1.0, *(SHARE_OF_SCREEN * side / own for side, own in zip(room, image.size, strict=True)))
        if scale < 1:
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        # Tk does not hold a reference to the picture that it shows.
        self._photo = self._photo_image(image, master=self._root)
        self._label.configure(image=self._photo)
        self.idle()

    def idle(self) -> None:
        """Let the window answer the user."""
        if not self.closed:
            self._root.update()

    def close(self) -> None:
        """Close the window; calling it again does nothing."""
        if not self.closed:
            self._close()

    def _close(self) -> None:
        self.closed = True
        self._photo = None
        self._root.destroy()
