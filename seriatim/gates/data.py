"""Is the dataset what it says it is?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from dataset_tools.check import check_dataset
from dataset_tools.checks.report import Finding as DataFinding
from dataset_tools.checks.report import Report, Severity
from dataset_tools.coco import read_json
from seriatim.data.catalog import is_classification
from seriatim.gates import classification
from seriatim.gates.agreement import MIN_IMAGES, Agreement, agreement, draw_agreement
from seriatim.gates.base import Gate, Skip
from seriatim.gates.context import Context, Record, numbers_of, objects_of
from seriatim.gates.pixel_labels import check_pixels
from seriatim.gates.verdict import Cause, Finding

# Of these a few do no harm: the catalog leaves them out and says so. Many are a broken conversion.
_TOLERABLE = ("zero-area-box", "inverted-box", "box-outside-image", "not-a-number")
TOLERATED = 0.005  # share of the annotations
# Of these a few are slips of a labeller's hand; where so many are hit a converter was wrong.
_SYSTEMATIC = ("box-outside-image", "duplicate-annotation", "mask-box-disagreement")
SYSTEMATIC = 0.2  # share of the annotations
MOVED = 0.02  # share of the objects that may have another class than in the file
# Share of the tested objects whose classes were never trained: a rare class that a split left to
# one side, or a handful of objects, costs little and is told; a common one makes the test's AP
# meaningless.
UNTRAINED, HANDFUL = 0.05, 5
MOST_BYTES = 200_000_000  # of a file that is read again to count its classes


class DataGate(Gate):
    """`dataset_tools check`, train against test, and boxes against pixels."""

    name = "data"
    question = "is the dataset what it says?"
    packages = ("dataset_tools", "seriatim.data.catalog", "seriatim.data.classification")

    def examine(self, context: Context, folder: Path) -> str:
        train, test = list(context.cfg.DATASETS.TRAIN), list(context.cfg.DATASETS.TEST)
        checked = self._check_files([*train, *test])
        self._compare_names(train, test)
        self._compare_classes(train, test)
        if any(is_classification(name) for name in (*train, *test)):
            self.findings += classification.check_data(context, train, test)
            self.findings += check_pixels(train, test, self.numbers)
            return "labels agree with pixels, no test image is trained on"
        self._compare_keypoints(train, test)
        self._compare_images(train, test)
        for name in dict.fromkeys((*train, *test)):
            self._compare_with_file(name)
            self._compare_with_pixels(name, folder)
        if not checked and not train:
            raise Skip("there is no dataset")
        return f"{checked}; labels agree with pixels, train with test"

    def _check_files(self, names: list[str]) -> str:
        """All rules of `dataset_tools check` on the datasets' files together."""
        files: dict[str, str] = {}
        for name in names:
            metadata = MetadataCatalog.get(name)
            if metadata.get("json_file") and metadata.get("image_root") is not None:
                files[metadata.json_file] = metadata.image_root
        if not files:
            return "datasets without files were not checked"
        report = check_dataset(list(files), list(files.values()))
        for found in report.findings:
            self.numbers[found.rule] = found.count
            if found.severity is not Severity.NOTE:
                self.findings.append(_told(found, report))
        return f"{report.images:,} images and {report.annotations:,} objects without an error"

    def _compare_names(self, train: list[str], test: list[str]) -> None:
        """The number of a class must mean the same in training and in testing."""
        if not train or not test:
            return
        ours = list(MetadataCatalog.get(train[0]).get("thing_classes") or ())
        for name in test:
            theirs = list(MetadataCatalog.get(name).get("thing_classes") or ())
            if ours == theirs or not ours or not theirs:
                continue
            place = next(
                (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0
            )
            here, there = (x[place : place + 1] or ["nothing"] for x in (ours, theirs))
            causes = [
                Cause("the two files number their categories differently", f"{train[0]}, {name}")
            ]
            self.findings.append(
                Finding(
                    f"class {place} is {here[0]!r} in {train[0]} but {there[0]!r} in {name}.",
                    "the same names in the same order.",
                    [*causes, Cause("one file lacks a category: convert or merge them together")],
                )
            )

    def _compare_classes(self, train: list[str], test: list[str]) -> None:
        """What is never trained cannot be found; the evaluation would count it as missed."""
        seen, asked = (_counts(names) for names in (train, test))
        absent = [number for number in asked if number not in seen]
        missed = sum(asked[number] for number in absent)
        if not absent or not seen:
            return
        classes = MetadataCatalog.get(test[0]).get("thing_classes") or []
        named = [classes[n] if n < len(classes) else str(n) for n in absent]
        places = ", ".join(f"{name} ({asked[n]})" for name, n in zip(named, absent, strict=True))
        self.findings.append(
            Finding(
                f"classes of the test set that the training set never shows: {places}.",
                "every class that is tested is trained.",
                [
                    Cause(
                        "the split left a rare class to one side", "dataset_tools split --stratify"
                    ),
                    Cause(
                        "a category of another name or number in one of the files, or marked as"
                        " crowds"
                    ),
                ],
                fails=missed > max(UNTRAINED * sum(asked.values()), HANDFUL),
            )
        )

    def _compare_keypoints(self, train: list[str], test: list[str]) -> None:
        """A keypoint that is labelled in no training object has no loss, and is never learnt."""
        seen, asked = (_labelled_keypoints(names) for names in (train, test))
        if not sum(seen.values()):
            return
        names = MetadataCatalog.get(train[0]).get("keypoint_names") or []
        absent = [n for n in range(len(names)) if not seen[n]]
        if absent:
            self.findings.append(
                Finding(
                    "keypoints that no training object has labelled:"
                    f" {', '.join(names[n] for n in absent)}.",
                    "every keypoint is visible somewhere.",
                    [
                        Cause("the converter writes 0 (not labelled) as their visibility"),
                        Cause("the list of keypoints is that of another dataset", train[0]),
                    ],
                    fails=any(asked[n] for n in absent),
                )
            )

    def _compare_images(self, train: list[str], test: list[str]) -> None:
        """An image in both sets makes the test a test of memory."""
        ours = {record["file_name"] for name in train for record in DatasetCatalog.get(name)}
        theirs = [record["file_name"] for name in test for record in DatasetCatalog.get(name)]
        shared = [file for file in theirs if file in ours]
        if not shared:
            return
        self.numbers["images in train and test"] = len(shared)
        everything = len(shared) == len(theirs)
        cause = (
            Cause("training is tested on its own images", "DATASETS.TRAIN, DATASETS.TEST")
            if set(train) & set(test)
            else Cause("the split was made after images were copied, or by annotation not by image")
        )
        self.findings.append(
            Finding(
                f"{len(shared)} of {len(theirs)} test images are training images, {shared[0]} "
                "first.",
                "no image in both.",
                [cause, Cause("two files list the same folder", "SERIATIM.DATASETS")],
                # To be tested on what was trained is a choice one may make while debugging.
                fails=not everything or not set(train) & set(test),
            )
        )

    def _compare_with_file(self, name: str) -> None:
        """A dataset function of one's own must give its objects the classes that the file names."""
        metadata = MetadataCatalog.get(name)
        file, classes = metadata.get("json_file"), list(metadata.get("thing_classes") or ())
        if not file or Path(file).stat().st_size > MOST_BYTES:
            return
        content = read_json(Path(file))
        names = {category["id"]: category["name"] for category in content["categories"]}
        if set(classes) != set(names.values()):
            return  # renamed or merged on purpose
        written = Counter(
            names[annotation["category_id"]]
            for annotation in content.get("annotations", ())
            if not annotation.get("iscrowd") and annotation["category_id"] in names
        )
        given = Counter({classes[n]: count for n, count in _counts([name]).items()})
        changed = sum((given - written).values())
        if changed <= MOVED * sum(given.values()):
            return
        self.findings.append(
            Finding(
                f"{changed} of {sum(given.values())} objects of {name} have another class in the"
                f" catalog than in {Path(file).name}.",
                "the same number of objects in each class.",
                [
                    Cause("class numbers are shifted where records are made", "DatasetCatalog"),
                    Cause("thing_classes are in another order than the numbers", "MetadataCatalog"),
                ],
            )
        )

    def _compare_with_pixels(self, name: str, folder: Path) -> None:
        """Do boxes lie where the image has edges, more than the boxes of other images would?"""
        records = [record for record in DatasetCatalog.get(name) if _upright(record)]
        if len(records) < MIN_IMAGES:
            self.numbers[f"{name}: agreement"] = f"not measured: fewer than {MIN_IMAGES} images"
            return
        found = agreement(records)
        self.numbers[f"{name}: agreement"] = found.as_dict()
        if not found.suspicious:
            return
        picture = f"{name}.png".replace("/", "_")
        draw_agreement(found, folder / picture)
        self.evidence.append(picture)
        self.findings.append(_disagreement(name, found, picture))


def _disagreement(name: str, found: Agreement, picture: str) -> Finding:
    """What boxes that do not lie on the edges of their images mean."""
    causes = [Cause(misreading, name) for misreading in found.misread]
    if found.rank >= found.bound:
        measured = (
            f"boxes of {name} fit the edges of their images better if they are read otherwise."
        )
        expected = "that they fit best as they stand."
    else:
        shift = f"; they fit the image {found.shift:+d} in the list better" if found.shift else ""
        measured = (
            f"boxes of {name} fit the edges of their own image no better than those of other images"
            f" (mean rank {found.rank:.2f} where chance is 0.50{shift})."
        )
        expected = (
            f"a mean rank well above 0.5, at least {found.bound:.2f} for {found.images} images."
        )
    causes += [
        Cause("annotations belong to other images: shifted or unsorted lists", name),
        Cause("boxes in another unit, order or image size than the file says"),
        Cause("images were flipped, cropped or resized after labelling"),
    ]
    return Finding(measured, expected, causes, pictures=[picture])


def _told(found: DataFinding, report: Report) -> Finding:
    places = "; ".join(found.places[:3])
    share = found.count / max(report.annotations, 1)
    few = found.rule in _TOLERABLE and share <= TOLERATED
    many = found.rule in _SYSTEMATIC and share > SYSTEMATIC
    mend = f"dataset_tools check --fix {found.mend}" if found.mend else "dataset_tools check --all"
    return Finding(
        f"{found.rule} ×{found.count}: {places}.",
        "none.",
        [Cause(found.why.rstrip("."), mend)],
        fails=many or (found.severity is Severity.ERROR and not few),
    )


def _counts(names: list[str]) -> Counter[int]:
    return Counter(
        number
        for name in names
        for record in DatasetCatalog.get(name)
        for number in numbers_of(record)
    )


def _labelled_keypoints(names: list[str]) -> Counter[int]:
    """How often each keypoint, by its number, has a visibility above 0."""
    found: Counter[int] = Counter()
    for name in names:
        for record in DatasetCatalog.get(name):
            for annotation in objects_of(record):
                visible = (annotation.get("keypoints") or ())[2::3]
                found.update(n for n, v in enumerate(visible) if v > 0)
    return found


def _upright(record: Record) -> bool:
    return any(len(annotation.get("bbox", ())) == 4 for annotation in objects_of(record))
