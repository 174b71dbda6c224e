"""Pictures in a window, leafed through with the arrow keys."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset_tools.errors import InputError

KEYS = "→ or space: next   ←: back   Home/End: first, last   q or Esc: close"

# Codes of cv2.waitKeyEx on X11, Windows and macOS.
_NEXT = {0xFF53, 0x270000, 63235, ord(" "), ord("n"), ord("d")}
_BACK = {0xFF51, 0x250000, 63234, ord("p"), ord("a"), 8}
_FIRST = {0xFF50, 0x240000, 63273}
_LAST = {0xFF57, 0x230000, 63275}
_CLOSE = {27, ord("q")}


def check_window() -> None:
    """Complain if no window can be opened.

    Raises:
        InputError: OpenCV was built without windows, or there is no display.
    """
    import cv2

    gui = next((s for s in cv2.getBuildInformation().splitlines() if "GUI:" in s), "GUI: NONE")
    if gui.split("GUI:")[1].strip().upper() in ("NONE", "NO", ""):
        raise InputError(
            "--show needs windows, and this OpenCV was built without them (opencv-python-headless)."
            " For windows: pip uninstall opencv-python-headless, then pip install opencv-python."
            " Without --show the pictures are written to files."
        )
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise InputError(
            "--show needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set (over ssh: use"
            " ssh -X). Without --show the pictures are written to files."
        )


def show_files(paths: Sequence[Path], title: str = "Seriatim") -> None:
    """Show image files one by one until the window is closed. Keys: see KEYS."""
    import cv2

    if not paths:
        return
    check_window()
    print(KEYS)
    position = 0
    cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
    while position is not None:
        image = cv2.imdecode(np.fromfile(paths[position], np.uint8), cv2.IMREAD_COLOR)
        cv2.setWindowTitle(title, f"{position + 1}/{len(paths)}  {paths[position].name}")
        cv2.imshow(title, image)
        position = _wait(title, position, len(paths))
    cv2.destroyWindow(title)


def _wait(title: str, position: int, count: int) -> int | None:
    """The position after the next key, or None when the window is to be closed."""
    import cv2

    while True:
        key = cv2.waitKeyEx(100)
        if cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1:
            return None
        if key != -1:
            return step(position, count, key)


def step(position: int, count: int, key: int) -> int | None:
    """Where `key` leads from `position` among `count` pictures; None closes."""
    if key in _CLOSE:
        return None
    if key in _NEXT:
        return (position + 1) % count
    if key in _BACK:
        return (position - 1) % count
    if key in _FIRST:
        return 0
    return count - 1 if key in _LAST else position


class LiveWindow:
    """A window for the frames of a video or a camera."""

    def __init__(self, title: str = "Seriatim"):
        check_window()
        self._title = title

    def show(self, image: np.ndarray) -> bool:
        """Show uint8 RGB (H, W, 3); False when the person wants to stop (q, Esc, closed window)."""
        import cv2

        cv2.imshow(self._title, image[:, :, ::-1])
        key = cv2.waitKeyEx(1)
        return key not in _CLOSE and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1

    def close(self) -> None:
        import cv2

        cv2.destroyAllWindows()
