"""Classification in COCO: labels of whole images (`coco.whole_image`), found again and named."""

from __future__ import annotations

from dataset_tools.coco import Image
from dataset_tools.notes import Notes


def image_labels(image: Image, notes: Notes) -> list[str]:
    """The classes of an image, each once; its other objects are noted as dropped."""
    labels: dict[str, None] = {}
    for annotation in image.annotations:
        if annotation.attributes.get("whole_image"):
            labels[annotation.category] = None
        else:
            notes.drop("object in an image (labels of whole images only)", image.file_name)
    return list(labels)
