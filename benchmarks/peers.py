"""The same labels read by this project, Datumaro and PyLabel: which numbers are equal, and why not.

    python benchmarks/peers.py --peers output/peers     (the environment is made if it is not there)

Prints the table of docs/data.md. Where another tool reads something else, the reason is a function
from our objects to its: if that does not give exactly what it reads, the exit code is 1. Globox and
supervision are compared in tests/dataset_tools/test_peers.py. These two cannot be, for they do not
go into one environment with the project: Datumaro asks for a NumPy before 2.2, for one version of
PyYAML, and, as PyLabel does, for opencv-python, which replaces opencv-python-headless.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from convert import environment

from dataset_tools.coco import annotation_box, load_coco, write_coco
from dataset_tools.convert import convert_dataset
from dataset_tools.export import export_dataset, place_image
from dataset_tools.images import is_image_name
from dataset_tools.rle import encode_mask, polygons_box, polygons_mask
from seriatim.testing.shapes import make_shapes

PEERS = ("datumaro", "pylabel")
READER = Path(__file__).with_name("_peer.py")
TOLERANCE = 0.02  # px; Datumaro rounds to hundredths, centre and size apart

Object = tuple[str, tuple[float, ...] | None, str]  # class, XYXY, counts of the RLE
Found = dict[str, list[Object]]  # by the image's name without folders and suffix
Change = Callable[[Object], Object]


@dataclass(frozen=True)
class Case:
    """Labels, how to make them in a folder from a COCO file of drawn shapes, and what others make
    of them: a reason, and the change of our objects that it stands for."""

    name: str  # ours, with - and more if there are several of a format
    make: Callable[[Path, Path], None]
    masks: bool = False
    images: str = ""  # the folder of the images, where the labels do not lead there
    differs: dict[str, tuple[str, Change]] = field(default_factory=dict)

    @property
    def format(self) -> str:
        """Our name of the format."""
        return self.name.partition("-")[0]


def exported(format_: str, split: str | None = "train", **options: str) -> Callable:
    """Written by `export`."""

    def make(coco: Path, folder: Path) -> None:
        images = coco.parent / "images"
        export_dataset(format_, {split: coco}, folder, images=images, **options)

    return make


def as_datumaro_has_it(kinds: str) -> Callable:
    """COCO with the images where Datumaro looks for them."""

    def make(coco: Path, folder: Path) -> None:
        exported("coco", photos="none", kinds=kinds)(coco, folder)
        for image in load_coco(coco).images:
            target = folder / "images/train" / image.file_name
            place_image(coco.parent / "images", image.file_name, target)

    return make


def written(**files: str) -> Callable:
    """Written by hand, `__` in a name for `/`; what is called image or picture has 20 × 10 px."""
    from PIL import Image

    def make(_: Path, folder: Path) -> None:
        for name, content in files.items():
            suffix = {"image": ".jpg", "picture": ".png"}.get(content, "")
            path = folder / (
                name.replace("__", "/").replace("_DOT_", ".").replace("DASH", "--") + suffix
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            if suffix:
                Image.new("RGB", (20, 10)).save(path)
            else:
                path.write_text(content, encoding="utf-8")

    return make


def moved(left: float = 0, top: float = 0, right: float = 0, bottom: float = 0) -> Change:
    """Edges that are elsewhere."""

    def change(found: Object) -> Object:
        name, box, mask = found
        return name, box and (box[0] + left, box[1] + top, box[2] + right, box[3] + bottom), mask

    return change


def centre_as_corner(found: Object) -> Object:
    """The centre taken for the top left corner."""
    left, top, right, bottom = found[1]
    return moved(*[(right - left) / 2, (bottom - top) / 2] * 2)(found)


_LAST_PIXEL = (
    "the box of a mask ends with its last pixel's number, and so is a pixel less wide and high "
    "than the mask; COCO's boxes go from edge to edge",
    moved(right=-1, bottom=-1),
)
_VOC = (
    "<annotation><folder>VOC2007</folder><filename>a.jpg</filename>"
    "<source><database>The VOC2007 Database</database></source>"
    "<size><width>20</width><height>10</height><depth>3</depth></size>"
    "<object><name>dog</name><bndbox><xmin>3</xmin><ymin>2</ymin><xmax>20</xmax><ymax>10</ymax>"
    "</bndbox></object></annotation>"
)
_CORNERS_FROM_1 = (
    "(1, 1) is the middle of the first pixel in VOC's challenge, whose kit has no pixel 0 and "
    "counts xmax - xmin + 1 of them; it is taken for the corner one pixel further in",
    moved(left=1, top=1),
)

CASES = (
    Case("coco-boxes and polygons", as_datumaro_has_it("instances"), masks=True),
    Case(
        "coco-panoptic",
        as_datumaro_has_it("panoptic"),
        masks=True,
        images="images",
        differs={"datumaro": _LAST_PIXEL},
    ),
    Case("voc-corners from 0", exported("voc")),
    Case(
        "voc-of the challenge",
        written(
            JPEGImages__a="image",
            Annotations__a_DOT_xml=_VOC,
            ImageSets__Main__train_DOT_txt="a\n",
        ),
        differs={"datumaro": _CORNERS_FROM_1, "pylabel": _CORNERS_FROM_1},
    ),
    Case("yolo-boxes", exported("yolo", task="detect")),
    Case("cvat-boxes and polygons", exported("cvat", split=None), masks=True),
    Case("datumaro-boxes and polygons", exported("datumaro"), masks=True),
    Case("dota", exported("dota")),
    Case(
        "createml",
        exported("createml"),
        differs={
            "datumaro": (
                "x and y are the box's centre by Create ML's documentation; they are taken for its "
                "top left corner",
                centre_as_corner,
            )
        },
    ),
    Case(
        "kitti",
        written(
            training__image_2__a="picture",
            training__label_2__a_DOT_txt="Car 0.0 0 -1.57 2.5 3 12.25 9 1.5 1.6 3.9 -2 1.7 25 -1\n",
        ),
    ),
    Case(
        "mot",
        written(
            seqinfo_DOT_ini="[Sequence]\nname=a\nimDir=img1\nframeRate=30\nseqLength=1\n"
            "imWidth=20\nimHeight=10\nimExt=.jpg\n",
            gt__gt_DOT_txt="1,7,3,2,4,5,1,1,1\n",
            img1__000001="image",
        ),
        differs={
            "datumaro": (
                "pixels are numbered from 1 by the MOT16 paper, so that the first one's left edge "
                "is 0; it is left at 1",
                moved(1, 1, 1, 1),
            )
        },
    ),
    Case(
        "widerface",
        written(
            WIDER_train__images__0DASHParade__a="image",
            wider_face_split__wider_face_train_bbx_gt_DOT_txt="0--Parade/a.jpg\n1\n"
            "3 2 5 4 0 0 0 0 0 0 \n",
        ),
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, metavar="DIR", required=True, help="environment")
    parser.add_argument("--only", metavar="NAME", help="cases whose name begins so")
    args = parser.parse_args()
    python = environment(args.peers)
    print(f"| labels | objects | {' | '.join(PEERS)} |\n|---|---|{'---|' * len(PEERS)}")
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        coco = shapes(Path(folder) / "shapes")
        for number, case in enumerate(CASES):
            if not case.name.startswith(args.only or ""):
                continue
            labels = Path(folder) / f"case {number}"
            case.make(coco, labels)
            ours = read_ours(case, labels, Path(folder) / f"out {number}")
            cells = []
            for peer in PEERS:
                cells.append(verdict(case, peer, ours, read_theirs(python, peer, case, labels)))
                faults += [f"{case.name}, {peer}"] if cells[-1] == UNEXPLAINED else []
            count = sum(map(len, ours.values()))
            print(f"| {case.name.replace('-', ': ', 1)} | {count} | {' | '.join(cells)} |")
    for fault in faults:
        print(f"differs for no known reason: {fault}", file=sys.stderr)
    return 1 if faults else 0


def shapes(folder: Path) -> Path:
    """COCO file of boxes and polygons on quarters of a pixel, for Datumaro keeps hundredths, and
    without crowds, which few formats have."""
    coco = make_shapes(folder, num_images=4, seed=3)
    dataset = load_coco(coco)
    for image in dataset.images:
        image.annotations = [a for a in image.annotations if not a.iscrowd]
        for one in image.annotations:
            one.segmentation = [[round(4 * side) / 4 for side in ring] for ring in one.segmentation]
            one.bbox = polygons_box(one.segmentation)
    write_coco(folder / "quarters.json", dataset.images, dataset.categories, {})
    return folder / "quarters.json"


UNEXPLAINED = "differs"


def verdict(case: Case, peer: str, ours: Found, theirs: Found | str) -> str:
    """What is to be said of a peer's reading; masks count if it reads any."""
    if isinstance(theirs, str):
        return theirs
    if not any(mask for found in theirs.values() for *_, mask in found):
        ours = {name: [(*one[:2], "") for one in found] for name, found in ours.items()}
    if same(ours, theirs):
        return "equal"
    reason, change = case.differs.get(peer, ("", lambda found: found))
    changed = {name: [change(one) for one in found] for name, found in ours.items()}
    if reason and same(changed, theirs):
        return reason
    for name, found in ours.items():
        if not same({name: found}, {name: theirs.get(name, [])}):
            print(f"{case.name}, {peer}, {name}:", sorted(found), file=sys.stderr)
            print("  but", sorted(theirs.get(name, theirs)), file=sys.stderr)
            break
    return UNEXPLAINED


def same(first: Found, second: Found) -> bool:
    """Whether images, classes, boxes (to `TOLERANCE`) and masks (to the pixel) are the same."""
    if first.keys() != second.keys():
        return False
    for name, found in first.items():
        pairs = list(zip(sorted(found), sorted(second[name]), strict=False))
        if len(pairs) != max(len(found), len(second[name])):
            return False
        for (label, box, mask), (other, its_box, its_mask) in pairs:
            if (label, mask) != (other, its_mask) or (box is None) != (its_box is None):
                return False
            if box and any(abs(a - b) > TOLERANCE for a, b in zip(box, its_box, strict=True)):
                return False
    return True


def read_ours(case: Case, labels: Path, output: Path) -> Found:
    """By `convert`; polygons as pycocotools draws them."""
    found: Found = {}
    images = labels / case.images if case.images else None
    for summary in convert_dataset(case.format, labels, output, images=images).files.values():
        for image in load_coco(summary.path).images:
            entries = found.setdefault(Path(image.file_name).stem, [])
            for entry in image.annotations:
                mask = entry.segmentation if case.masks else None
                if isinstance(mask, list):
                    mask = encode_mask(polygons_mask(mask, image.width, image.height))
                box = tuple(round(side, 2) for side in annotation_box(entry))
                entries.append((entry.category, box, mask["counts"] if mask else ""))
    return found


def read_theirs(python: Path, peer: str, case: Case, labels: Path) -> Found | str:
    """By the peer, in its environment; a dash if it does not read the format."""
    images = next(path for path in sorted(labels.rglob("*")) if is_image_name(path.name)).parent
    name = case.name if case.name == "coco-panoptic" else case.format
    done = subprocess.run(
        [python, READER, peer, name, labels.absolute(), images.absolute()],
        capture_output=True,
        text=True,
        cwd=labels,
    )
    if done.returncode == 3:
        return "–"
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return "cannot read it: " + done.stderr.strip().splitlines()[-1][:100]
    return {
        image: [
            (
                label,
                box and tuple(round(side, 2) for side in box),
                mask["counts"] if mask and case.masks else "",
            )
            for label, box, mask in found
        ]
        for image, found in json.loads(done.stdout).items()
    }


if __name__ == "__main__":
    sys.exit(main())
