"""Where each key leads; the window itself needs a display."""

import cv2
import pytest

from dataset_tools.errors import InputError
from seriatim.visualization.window import check_window, step


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (0xFF53, 3),
        (ord(" "), 3),
        (0xFF51, 1),
        (0xFF50, 0),
        (0xFF57, 4),
        (27, None),
        (ord("q"), None),
        (ord("x"), 2),
    ],
)
def test_keys(key, expected):
    assert step(2, 5, key) == expected


def test_the_ends_meet():
    assert step(4, 5, 0xFF53) == 0 and step(0, 5, 0xFF51) == 4


def test_an_opencv_without_windows_is_named(monkeypatch):
    monkeypatch.setattr(
        cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n"
    )
    with pytest.raises(InputError, match="pip install opencv-python"):
        check_window()


def test_a_missing_display_is_named(monkeypatch):
    monkeypatch.setattr(
        cv2, "getBuildInformation", lambda: "  GUI:                           QT5\n"
    )
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(InputError, match="DISPLAY"):
        check_window()
