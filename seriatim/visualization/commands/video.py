"""Predictions on the frames of a video or a camera; a part of `visualize.py predictions`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dataset_tools.errors import InputError
from dataset_tools.files import atomic_path, write_text
from dataset_tools.progress import track
from seriatim.visualization.commands.predictions import to_records
from seriatim.visualization.draw import draw_predictions
from seriatim.visualization.window import LiveWindow


def predict_video(source: str | int, predictor: Any, args: argparse.Namespace) -> int:
    """Write a video with the detections drawn in, and detections.json with one image id a frame.

    A camera runs until q is pressed in its window, Ctrl-C, or --num frames.
    """
    window = LiveWindow() if args.show else None
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        what = f"Camera {source}" if isinstance(source, int) else f"The video {source}"
        raise InputError(f"{what} cannot be opened. Check that it exists and its format is known.")
    name = f"camera{source}" if isinstance(source, int) else Path(source).stem
    rate = capture.get(cv2.CAP_PROP_FPS)
    total = 0 if isinstance(source, int) else int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    total = min(total, args.num) if args.num and total else args.num or total
    video, detections, start = args.output / f"{name}.mp4", [], time.perf_counter()
    count = 0
    try:
        with atomic_path(video) as temporary:
            writer = _Writer(temporary, rate if 0 < rate < 1000 else 25.0)
            try:
                for frame in track(_frames(capture, args.num), total, "predicting"):
                    count += 1
                    output = predictor(frame)
                    detections += to_records(
                        output, count, f"{name}#{count}", predictor.metadata, None
                    )
                    picture = draw_predictions(
                        frame, output, predictor.metadata, threshold=args.threshold, scale=1
                    )
                    writer.write(picture)
                    if window and not window.show(picture):
                        break
            except KeyboardInterrupt:
                print("stopped: what was seen so far is written")
            finally:
                writer.close()
            if not count:
                raise InputError(f"{source} holds no frame that can be read.")
    finally:
        capture.release()
        if window:
            window.close()
    file = args.output / "detections.json"
    write_text(file, json.dumps(detections))
    speed = count / (time.perf_counter() - start)
    print(f"{count} frames at {speed:.1f} a second, {len(detections)} detections")
    print(f"\nWritten to {args.output}:\n  {video.name}\n  {file.name}")
    return 0


def _frames(capture: cv2.VideoCapture, limit: int | None) -> Iterator[np.ndarray]:
    """uint8 RGB (H, W, 3), at most `limit`."""
    count = 0
    while limit is None or count < limit:
        good, frame = capture.read()
        if not good:
            return
        yield np.ascontiguousarray(frame[:, :, ::-1])
        count += 1


class _Writer:
    """A video that opens with its first frame, whose size it takes."""

    def __init__(self, path: Path, rate: float):
        self._path, self._rate = path, rate
        self._writer: cv2.VideoWriter | None = None

    def write(self, picture: np.ndarray) -> None:
        height, width = picture.shape[:2]
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._path), code, self._rate, (width, height))
            if not self._writer.isOpened():
                raise InputError("This OpenCV cannot write mp4 videos. Install opencv-python anew.")
        self._writer.write(picture[:, :, ::-1])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
