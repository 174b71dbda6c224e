"""Each fault, planted alone into a clean dataset, is found, alone, and mended where a mend is
promised."""

import copy
import io
import json
import math
import re
import shutil

import pytest
from PIL import Image

from dataset_tools import check, parallel
from dataset_tools.check import check_dataset
from dataset_tools.checks import pictures
from dataset_tools.checks.pictures import State, probe_images
from dataset_tools.checks.report import RULES, Severity
from dataset_tools.cli import main
from dataset_tools.errors import EXIT_BAD_INPUT, InputError
from seriatim.testing.shapes import encode_rle, make_shapes


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    make_shapes(folder, num_images=6)
    return folder


@pytest.fixture
def folder(drawn, tmp_path):
    """A copy of the drawn dataset that a test may spoil."""
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    return tmp_path


def content_of(folder):
    return json.loads((folder / "shapes.json").read_text())


def rules_found(folder, content=None, **options):
    path = folder / "shapes.json"
    if content is not None:
        path.write_text(json.dumps(content))
    return {
        finding.rule: finding
        for finding in check_dataset(path, folder / "images", **options).findings
    }


def solid(content, index=0):
    """An annotation that is no crowd, has a polygon, and is not alone in its category."""
    return [a for a in content["annotations"] if not a["iscrowd"]][index]


def without_mask(annotation):
    """Masks and areas say where the box is, too: a fault of the box alone needs them gone."""
    for key in ("segmentation", "keypoints", "num_keypoints", "area"):
        annotation.pop(key, None)
    return annotation


def bare(content):
    """The dataset with boxes only."""
    for annotation in content["annotations"]:
        without_mask(annotation)
    return content


# ---- faults of the JSON: rule → how to plant it ----


def plant_zero_area_box(content):
    solid(bare(content))["bbox"][2] = 0


def plant_inverted_box(content):
    box = solid(bare(content))["bbox"]
    box[:] = [box[0] + box[2], box[1] + box[3], -box[2], -box[3]]


def plant_box_outside_image(content):
    solid(bare(content))["bbox"] = [100, 20, 31, 20]


def plant_box_beyond_image(content):
    solid(bare(content))["bbox"] = [-40, -30, 31, 20]


def plant_duplicate_annotation(content):
    content["annotations"].append({**copy.deepcopy(solid(content)), "id": 999})


def plant_nearly_duplicate_annotation(content):
    first = solid(bare(content))
    first["bbox"] = [10, 10, 60, 60]
    content["annotations"].append({**first, "bbox": [10, 11, 60, 60], "id": 999})


def plant_one_box_two_categories(content):
    first = solid(bare(content))
    other = first["category_id"] % 3 + 1
    content["annotations"].append({**first, "category_id": other, "id": 999})


def plant_mask_without_area(content):
    x, y, _, _ = solid(content)["bbox"]
    solid(content)["segmentation"].append([x + 2, y + 2, x + 4, y + 4])


def plant_self_crossing_polygon(content):
    x, y, width, height = solid(content)["bbox"]
    right, bottom = x + width, y + height
    solid(content)["segmentation"] = [[x, y, right, bottom, right, y, x, bottom]]


def plant_broken_mask(content):
    solid(content)["segmentation"] = {"size": [96, 128], "counts": "123"}


def plant_mask_of_other_size(content):
    import numpy as np

    x, y, width, height = solid(content)["bbox"]
    mask = np.zeros((97, 128), bool)
    mask[y : y + height, x : x + width] = True
    solid(content)["segmentation"] = encode_rle(mask)


def plant_mask_box_disagreement(content):
    annotation = solid(content)
    annotation["bbox"][2] *= 0.6
    annotation["area"] *= 0.5


def plant_partly_masked(content):
    del solid(content)["segmentation"]


def plant_impossible_area(content):
    solid(content)["area"] *= 3


def plant_keypoint_count(content):
    annotation = solid(content)
    annotation["keypoints"] = annotation["keypoints"][:-3]
    annotation["num_keypoints"] -= 1


def plant_keypoint_visibility(content):
    solid(content)["keypoints"][2] = 3


def plant_absent_keypoint_with_place(content):
    solid(content)["keypoints"][2] = 0
    solid(content)["num_keypoints"] -= 1


def plant_num_keypoints_wrong(content):
    solid(content)["num_keypoints"] = 0


def plant_keypoint_outside_image(content):
    solid(content)["keypoints"][0] = 140


def plant_not_coco(content):
    content["categories"] = {"1": "circle"}
    content["annotations"] = []


def plant_wrong_type(content):
    solid(content)["bbox"] = "10 10 20 20"


def plant_not_a_number(content):
    solid(content)["bbox"][0] = math.nan


def plant_duplicate_image_id(content):
    content["images"][5]["id"] = 1  # image 6 has no annotations


def plant_duplicate_file_name(content):
    content["images"].append({**content["images"][0], "id": 99})


def plant_duplicate_annotation_id(content):
    solid(content, 1)["id"] = solid(content, 0)["id"]


def plant_duplicate_category_id(content):
    content["categories"].append({**content["categories"][0], "name": "ellipse"})


def plant_duplicate_category_name(content):
    content["categories"].append({**content["categories"][0], "id": 9})
    solid(content)["category_id"] = 9


def plant_dangling_image_id(content):
    solid(content)["image_id"] = 77


def plant_dangling_category_id(content):
    solid(content)["category_id"] = 77


def plant_unused_category(content):
    content["categories"].append({"id": 9, "name": "hexagon", "supercategory": "shape"})


def plant_similar_category_names(content):
    content["categories"].append({**content["categories"][0], "id": 9, "name": "Cir cle"})
    solid(content)["category_id"] = 9


PLANTS = {
    name.removeprefix("plant_").replace("_", "-"): plant
    for name, plant in list(globals().items())
    if name.startswith("plant_")
}
MENDED = [rule.name for rule in RULES if rule.mend and rule.name in PLANTS]


def spoiled(folder, name):
    content = content_of(folder)
    PLANTS[name](content)
    return content


def test_a_clean_dataset_gives_no_finding(drawn):
    report = check_dataset(drawn / "shapes.json", drawn / "images")
    assert report.findings == [] and report.limits == []
    assert (report.images, report.categories) == (6, 3)
    assert report.annotations == len(content_of(drawn)["annotations"])


@pytest.mark.parametrize("name", sorted(PLANTS))
def test_a_planted_fault_is_found_and_only_it(folder, name):
    found = rules_found(folder, spoiled(folder, name))
    assert set(found) == {name}
    assert found[name].count == 1
    assert len(found[name].places) == 1


@pytest.mark.parametrize("name", MENDED)
def test_a_mended_file_passes(folder, name, capsys):
    content = spoiled(folder, name)
    if name == "duplicate-image-id":
        content = content_of(folder)
        content["images"].append(dict(content["images"][0]))
    (folder / "shapes.json").write_text(json.dumps(content))
    before = (folder / "shapes.json").read_bytes()
    arguments = [str(folder / "shapes.json"), "--images", str(folder / "images")]
    code = main(["check", *arguments, "--fix", "-o", str(folder / "new" / "mended.json")])
    assert code == 0, capsys.readouterr().out
    assert (folder / "shapes.json").read_bytes() == before
    # The mended file finds its images by itself, from its new place.
    left = check_dataset(folder / "new" / "mended.json")
    assert {finding.rule for finding in left.findings} <= {"partly-masked"}
    assert left.limits == []


def test_every_rule_is_planted_somewhere():
    elsewhere = {
        "not-json",
        "missing-image",
        "unreadable-image",
        "truncated-image",
        "wrong-image-size",
        "unreferenced-image",
        "copied-image",
        "image-in-two-splits",
        "near-duplicate-image",
        "near-duplicate-across-splits",
        "categories-differ",
    }
    assert {rule.name for rule in RULES} == elsewhere | set(PLANTS)
    assert all(rule.why for rule in RULES)


# ---- what a mend makes ----


def mended(folder, content):
    (folder / "shapes.json").write_text(json.dumps(content))
    out = folder / "mended.json"
    arguments = [str(folder / "shapes.json"), "--images", str(folder / "images")]
    main(["check", *arguments, "--fix", "-o", str(out)])
    return json.loads(out.read_text())


def test_mends_do_what_they_say(folder):
    clean = content_of(folder)
    content = copy.deepcopy(clean)
    first, second, third, fourth = (solid(content, index) for index in range(4))
    x, y, width, height = first["bbox"]
    first["bbox"] = [x + width, y + height, -width, -height]
    second["bbox"] = [math.nan, 0, 1, 1]  # its polygon still knows
    third["area"] = math.inf
    fourth["keypoints"][0] = math.nan
    result = {a["id"]: a for a in mended(folder, content)["annotations"]}
    assert len(result) == len(clean["annotations"])
    assert result[first["id"]]["bbox"] == [x, y, width, height]
    polygon = second["segmentation"][0]
    xs, ys = polygon[0::2], polygon[1::2]
    left, top, *size = result[second["id"]]["bbox"]
    assert (left, top) == (min(xs), min(ys))
    assert size == pytest.approx([max(xs) - min(xs), max(ys) - min(ys)])
    assert result[third["id"]]["area"] == pytest.approx(solid(clean, 2)["area"], rel=0.15)
    assert result[fourth["id"]]["keypoints"][:3] == [0, 0, 0]
    assert result[fourth["id"]]["num_keypoints"] == 3


def test_joined_images_keep_all_annotations(folder):
    content = content_of(folder)
    moved = solid(content)
    content["images"].append({**content["images"][0], "id": 99})
    moved["image_id"] = 99
    result = mended(folder, content)
    assert len(result["images"]) == 6
    assert {a["id"] for a in result["annotations"]} == {a["id"] for a in content["annotations"]}
    assert next(a for a in result["annotations"] if a["id"] == moved["id"])["image_id"] == 1


def test_what_a_person_must_decide_is_left(folder):
    content = content_of(folder)
    solid(content)["category_id"] = 77
    assert solid(mended(folder, content))["category_id"] == 77


@pytest.mark.parametrize("output", [[], ["-o", "shapes.json"]])
def test_a_mend_never_goes_to_the_users_file(folder, output, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["check", "shapes.json", "--fix", *output]) == 2
    assert "error: " in capsys.readouterr().err


# ---- faults of the files ----


def test_a_syntax_error_is_found_with_line_and_column(folder):
    (folder / "shapes.json").write_text('{"images": [],\n "annotations": [,]}')
    found = rules_found(folder, decode=False)
    assert "line 2, column 18" in found["not-json"].places[0]


def test_a_missing_annotation_file_or_folder_is_an_input_error(folder):
    with pytest.raises(InputError, match=r"nothing\.json"):
        check_dataset(folder / "nothing.json", folder)
    with pytest.raises(InputError, match="no folder"):
        check_dataset(folder / "shapes.json", folder / "nowhere")


@pytest.mark.parametrize("decode", [True, False])
def test_missing_image(folder, decode):
    (folder / "images/0002.png").rename(folder / "images/0002.PNG")
    found = rules_found(folder, decode=decode)
    assert set(found) == {"missing-image", "unreferenced-image"}
    assert "but there is 0002.PNG" in found["missing-image"].places[0]


@pytest.mark.parametrize("name", ["a\0b.png", "long" * 100 + ".png", "0001.png/0002.png"])
def test_impossible_names_are_missing(folder, name):
    content = content_of(folder)
    content["images"][0]["file_name"] = name
    assert set(rules_found(folder, content)) == {"missing-image", "unreferenced-image"}


@pytest.mark.parametrize("content", [b"", b"no picture at all"])
@pytest.mark.parametrize("decode", [True, False])
def test_unreadable_image(folder, content, decode):
    (folder / "images/0002.png").write_bytes(content)
    assert set(rules_found(folder, decode=decode)) == {"unreadable-image"}


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_truncated_image_is_found_by_decoding_only(folder, format):
    path = folder / "images/0002.png"
    stream = io.BytesIO()
    Image.open(path).save(stream, format)
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) * 2 // 3])
    assert set(rules_found(folder)) == {"truncated-image"}
    assert rules_found(folder, decode=False) == {}


def save_turned(path, orientation):
    """Store the picture so that a reader that applies EXIF orientation sees it as it was."""
    image = Image.open(path).convert("RGB")
    undo = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.transpose(undo).save(path, "JPEG", exif=exif, quality=95)


@pytest.mark.parametrize("decode", [True, False])
def test_the_size_is_that_after_exif_orientation(folder, decode):
    save_turned(folder / "images/0001.png", 6)
    assert rules_found(folder, decode=decode) == {}
    content = content_of(folder)
    for image in content["images"][1:3]:
        image["width"], image["height"] = image["height"], image["width"]
    found = rules_found(folder, content, decode=decode)
    assert set(found) == {"wrong-image-size"}
    assert found["wrong-image-size"].count == 2
    assert "recorded 96×128, the file has 128×96" in found["wrong-image-size"].places[0]


def test_a_wrong_size_is_mended_only_if_the_boxes_refute_it(folder):
    content = content_of(folder)
    sizes = [(40, 30), (256, 192), (0, 0)]
    for image, (width, height) in zip(content["images"], sizes, strict=False):
        image |= {"width": width, "height": height}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 1]
    for image_id, box in ((1, [50, 10, 30, 30]), (2, [5, 5, 30, 30]), (3, [5, 5, 30, 30])):
        area = {"area": 900, "iscrowd": 0, "category_id": 1}
        content["annotations"].append(
            {"id": 900 + image_id, "image_id": image_id, "bbox": box, **area}
        )
    result = [(image["width"], image["height"]) for image in mended(folder, content)["images"]]
    # The second may have been labelled at twice its size; the others cannot have been.
    assert result == [(128, 96), (256, 192)] + [(128, 96)] * 4


def test_unreferenced_image(folder):
    (folder / "images/more").mkdir()
    shutil.copy(folder / "images/0001.png", folder / "images/more/unknown.png")
    (folder / "images/readme.txt").write_text("no image")
    (folder / "images/masks").mkdir()  # labels, not images
    shutil.copy(folder / "images/0001.png", folder / "images/masks/0001.png")
    found = rules_found(folder)
    assert found["unreferenced-image"].places == ["more/unknown.png"]
    assert set(found) == {"unreferenced-image"}


def test_without_images_the_report_says_what_was_not_looked_at(drawn):
    report = check_dataset(drawn / "shapes.json")
    assert not report.findings and "--images" in report.limits[0]


# ---- several files ----


def halves(folder):
    """train.json and val.json, three images each."""
    content = content_of(folder)
    for name, ids in (("train", (1, 2, 4)), ("val", (3, 5, 6))):
        part = {
            "images": [image for image in content["images"] if image["id"] in ids],
            "annotations": [a for a in content["annotations"] if a["image_id"] in ids],
            "categories": content["categories"],
        }
        (folder / f"{name}.json").write_text(json.dumps(part))
    return [folder / "train.json", folder / "val.json"]


def rules_across(folder, paths):
    return {finding.rule: finding for finding in check_dataset(paths, folder / "images").findings}


def test_clean_splits_have_no_error(folder):
    found = rules_across(folder, halves(folder))
    assert set(found) <= {"unused-category"}


def test_an_image_in_two_splits(folder):
    paths = halves(folder)
    shutil.copy(folder / "images/0001.png", folder / "images/0005.png")
    found = rules_across(folder, paths)
    assert found["image-in-two-splits"].severity is Severity.ERROR
    assert found["image-in-two-splits"].places == ["train.json: 0001.png ~ val.json: 0005.png"]
    assert "near-duplicate-across-splits" not in found and "copied-image" not in found


def test_categories_that_differ(folder):
    paths = halves(folder)
    content = json.loads(paths[1].read_text())
    content["categories"][0]["name"], content["categories"][1]["name"] = "square", "circle"
    paths[1].write_text(json.dumps(content))
    found = rules_across(folder, paths)
    assert "1: 'circle' or 'square'" in found["categories-differ"].places[0]


# ---- the command ----


def test_exit_code_and_json(folder, capsys):
    arguments = ["check", str(folder / "shapes.json"), "--images", str(folder / "images"), "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
    (folder / "images/0002.png").unlink()
    assert main(arguments) == 2
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["rule"], finding["severity"], finding["count"]) == ("missing-image", "error", 1)


def test_the_report_shows_few_places_and_counts_all(folder, capsys):
    content = bare(content_of(folder))
    for annotation in content["annotations"][:12]:
        annotation["bbox"][2] = 0
    (folder / "shapes.json").write_text(json.dumps(content))
    main(["check", str(folder / "shapes.json"), "--images", str(folder / "images")])
    short = capsys.readouterr().out
    assert "zero-area-box ×12" in short and "… and 9 more" in short and "\033" not in short
    main(["check", str(folder / "shapes.json"), "--images", str(folder / "images"), "--all"])
    assert "… and 2 more" in capsys.readouterr().out


def test_rubbish_of_any_kind_is_reported_not_raised(tmp_path):
    values = [None, True, 3, -1, 1e400, "text", [], [1], [[1, 2]], {}, {"size": 1, "counts": []}]
    keys = ["id", "image_id", "category_id", "bbox", "segmentation", "keypoints", "area", "iscrowd"]
    entry = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [1, 1, 5, 5],
        "area": 25,
        "iscrowd": 0,
    }
    annotations = [{**entry, key: value} for key in keys for value in values] + values
    names = ["id", "file_name", "width", "height", "name", "keypoints"]
    image = {"id": 1, "file_name": "a.png", "width": 9, "height": 9, "name": "thing"}
    entries = [image] + [{**image, name: value} for name in names for value in values] + values
    path = tmp_path / "rubbish.json"
    for content in [
        {"images": entries, "annotations": annotations, "categories": entries},
        *values,
        {"images": 3, "annotations": [entry], "categories": None},
    ]:
        path.write_text(json.dumps(content))
        assert check_dataset(path, tmp_path).errors


def test_headers_are_read_by_processes_as_by_one(folder, monkeypatch):
    monkeypatch.setattr(parallel, "FEWEST_ITEMS", 2)
    monkeypatch.setattr(pictures, "FEWEST_HEADERS", 2)
    images = folder / "images"
    (images / "empty.png").write_bytes(b"")
    (images / "noise.jpg").write_bytes(b"\xff\xd8noise")
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (8, 4)).save(images / "turned.jpg", exif=exif)
    paths = [*map(str, sorted(images.iterdir())), str(images), str(images / "gone.png"), "a\0b"]
    alone = probe_images(paths, decode=False, workers=1)
    assert probe_images(paths, decode=False, workers=2) == alone
    assert list(alone) == paths
    assert alone[str(images / "turned.jpg")].size == (4, 8)
    others = [probe.state for probe in alone.values() if probe.state is not State.FINE]
    assert others == [State.UNREADABLE] * 3 + [State.MISSING] * 2


@pytest.mark.parametrize(("options", "words"), [(["--fast"], "headers read"), ([], "decoded")])
def test_the_speed_is_said(folder, capsys, options, words):
    main(["check", str(folder / "shapes.json"), "--images", str(folder / "images"), *options])
    assert re.search(rf"6 image.* {words} in \d+\.\d s: [\d,]+ images/s", capsys.readouterr().out)


def test_of_several_files_all_are_mended_or_none(folder, monkeypatch):
    shutil.copy(folder / "shapes.json", folder / "other.json")
    files = [str(folder / name) for name in ("shapes.json", "other.json")]
    out = folder / "mended"
    arguments = ["check", *files, "--images", str(folder / "images"), "--fix", "-o", str(out)]
    mend = check.mend

    def mend_but_one(subject):
        if subject.path.name == "other.json":
            raise InputError("the disk is full")
        return mend(subject)

    with monkeypatch.context() as patch:
        patch.setattr(check, "mend", mend_but_one)
        assert main(arguments) == EXIT_BAD_INPUT
    assert list(out.iterdir()) == []
    main(arguments)
    assert sorted(path.name for path in out.iterdir()) == ["other.json", "shapes.json"]
