"""Where the pixels of an input come from in its file, found from the pixels alone.

For mappers that crop, flip or scale by themselves and keep to themselves how: features of both
images are matched (SIFT, Lowe 2004), an affine map is fitted to the matches (RANSAC) and refined on
the pixels (ECC, Evangelidis & Psarakis 2008). Boxes have no part in it, so that they can be held
against it.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from fvcore.transforms.transform import Transform, TransformList

SIDE = 320  # px to which the longer side of a small image is enlarged: SIFT needs room
RATIO = 0.85  # Lowe's: the second best match must be this much worse
LEAST_MATCHES = 4  # that agree on one map; three would always do
# Correlation with the file where both are seen. Colour jitter keeps it; an image of another file,
# or a warp that is not affine, does not come near.
LEAST_LIKENESS = 0.9
LEAST_SHARE = 0.25  # of the input, that must come from the file


class FittedTransform(Transform):
    """An affine map of the plane, (2, 3): (x, y, 1) of the file → (x, y) of the input.

    Pixel centres lie at halves, as Detectron2's coordinates have them.
    """

    def __init__(self, matrix: np.ndarray, size: tuple[int, int]) -> None:
        super().__init__()
        self.matrix, self.size = matrix, size

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        scale = np.sqrt(abs(np.linalg.det(self.matrix[:, :2])))
        if scale < 1:  # as resizing does: what a pixel covers is averaged
            img = cv2.GaussianBlur(img, (0, 0), 0.4 / scale)
        return self._warped(img, cv2.INTER_LINEAR)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        labels = self._warped(segmentation.astype(np.float32), cv2.INTER_NEAREST)
        return labels.astype(segmentation.dtype)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return np.asarray(coords, dtype=float) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def _warped(self, image: np.ndarray, how: int) -> np.ndarray:
        height, width = self.size
        return cv2.warpAffine(image, _centred(self.matrix), (width, height), flags=how)


def registered(file: np.ndarray, image: np.ndarray) -> TransformList | None:
    """The affine map from `file` (H, W, 3) to `image` (h, w, 3), both uint8; None: none fits."""
    size = image.shape[:2]
    source, target = _grey(file), _grey(image)
    best, most = None, LEAST_LIKENESS
    for matrix in _candidates(source, target):
        for refined in (matrix, _refined(source, target, matrix)):
            fitted = FittedTransform(refined, size)
            value = _likeness(fitted, source, target)
            if value > most:
                best, most = fitted, value
    return TransformList([best]) if best else None


def _grey(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image).mean(axis=2).round().astype(np.uint8)


def _candidates(source: np.ndarray, target: np.ndarray) -> Iterator[np.ndarray]:
    """Maps that matches agree on, of the file as it is and of its mirror image."""
    width = source.shape[1]
    for mirror in (np.array([[1.0, 0, 0], [0, 1, 0]]), np.array([[-1.0, 0, width], [0, 1, 0]])):
        turned = source if mirror[0, 0] > 0 else np.ascontiguousarray(source[:, ::-1])
        here, there = _matches(turned, target)
        if len(here) < LEAST_MATCHES:
            continue
        found, agree = cv2.estimateAffine2D(
            here, there, ransacReprojThreshold=max(1.5, 0.01 * max(target.shape))
        )
        if found is not None and agree.sum() >= LEAST_MATCHES:
            yield np.column_stack(
                [found[:, :2] @ mirror[:, :2], found[:, :2] @ mirror[:, 2] + found[:, 2]]
            )


def _matches(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) points of the one and of the other, px, that look alike."""
    detector = cv2.SIFT_create(contrastThreshold=0.01, edgeThreshold=30)
    found = []
    for picture in (source, target):
        factor = max(1.0, SIDE / max(picture.shape))
        larger = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        points, features = detector.detectAndCompute(larger, None)
        places = np.array([p.pt for p in points], np.float64).reshape(-1, 2) + 0.5
        found.append((places / factor, features))
    (here, one), (there, other) = found
    if one is None or other is None or len(one) < 2 or len(other) < 2:
        return here[:0], there[:0]
    pairs = [
        (near.queryIdx, near.trainIdx)
        for near, next_near in cv2.BFMatcher().knnMatch(one, other, k=2)
        if near.distance < RATIO * next_near.distance
    ]
    rows = np.array(pairs, int).reshape(-1, 2)
    return here[rows[:, 0]], there[rows[:, 1]]


def _refined(source: np.ndarray, target: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """`matrix` after ECC, which maximises the correlation of the pixels; as it was if that ends
    nowhere."""
    inverse = cv2.invertAffineTransform(_centred(matrix)).astype(np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-5)
    seen = FittedTransform(matrix, target.shape).apply_segmentation(np.full_like(source, 255))
    try:
        _, found = cv2.findTransformECC(target, source, inverse, cv2.MOTION_AFFINE, stop, seen, 5)
        back = cv2.invertAffineTransform(found.astype(np.float64))
    except cv2.error:
        return matrix
    back[:, 2] += 0.5 - 0.5 * back[:, :2].sum(axis=1)
    return back


def _centred(matrix: np.ndarray) -> np.ndarray:
    """The map of OpenCV, whose pixel centres are whole numbers."""
    centred = matrix.copy()
    centred[:, 2] += 0.5 * matrix[:, :2].sum(axis=1) - 0.5
    return centred


def _likeness(fitted: FittedTransform, source: np.ndarray, target: np.ndarray) -> float:
    """Correlation of the pixels where both show the file; -1 if that is little."""
    seen = fitted.apply_segmentation(np.full_like(source, 255)) > 0
    if seen.mean() < LEAST_SHARE:
        return -1.0
    warped = fitted.apply_image(source)
    one, other = (cv2.GaussianBlur(x, (0, 0), 1.0)[seen].astype(float) for x in (warped, target))
    if one.std() < 1 or other.std() < 1:
        return -1.0
    return float(np.corrcoef(one, other)[0, 1])
