"""Splits depend on names and the seed alone, keep groups whole, and keep shares where asked."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools.cli import main
from dataset_tools.coco import Annotation, Category, Dataset, Image, load_coco, write_coco
from dataset_tools.errors import InputError
from dataset_tools.split import assign_split, parse_fractions, split_dataset

SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}
NAMES = st.text("abc/_09.é", min_size=1, max_size=12)


def dataset_of(categories_of):
    """A dataset with an image for each file name, holding objects of the categories given."""
    images = [
        Image(name, 10, 10, [Annotation(category, (0, 0, 5, 5)) for category in categories])
        for name, categories in categories_of.items()
    ]
    names = sorted({category for some in categories_of.values() for category in some})
    return Dataset(images, [Category(name) for name in names])


def names_in(splits):
    return {split: [image.file_name for image in images] for split, images in splits.items()}


@settings(deadline=None)
@given(st.sets(NAMES, min_size=1), st.sets(NAMES), st.integers(0, 99))
def test_new_images_never_move_others(old, new, seed):
    before = split_dataset(dataset_of({name: "a" for name in old}), SHARES, seed)
    after = split_dataset(dataset_of({name: "a" for name in sorted(old | new)}), SHARES, seed)
    for split in SHARES:
        assert {image.file_name for image in before[split]} <= {i.file_name for i in after[split]}


def test_the_shares_are_met_and_the_seed_matters():
    names = [f"photos/{index:05d}.jpg" for index in range(10_000)]
    chosen = [assign_split(name, SHARES, 3) for name in names]
    for split, share in SHARES.items():
        # five standard deviations of the binomial distribution
        assert chosen.count(split) / 1e4 == pytest.approx(
            share, abs=5 * (share * (1 - share) / 1e4) ** 0.5
        )
    assert chosen != [assign_split(name, SHARES, 4) for name in names]


def test_an_assignment_is_the_same_on_every_machine_and_day():
    frozen = "test train train val train train test test"
    assert [assign_split(f"{index}.jpg", SHARES, 2) for index in range(8)] == frozen.split()


def test_a_split_of_no_share_gets_nothing():
    shares = {"none": 0.0, "all": 1.0, "more": 0.0}
    assert {assign_split(str(index), shares) for index in range(500)} == {"all"}


def test_groups_stay_whole():
    names = {f"patient{index // 10:02d}_{index}.png": "a" for index in range(300)}
    for stratify in (False, True):
        splits = split_dataset(
            dataset_of(names), SHARES, stratify=stratify, group=lambda image: image.file_name[:9]
        )
        patients = [{image.file_name[:9] for image in images} for images in splits.values()]
        assert sum(map(len, patients)) == 30
        assert len(set().union(*patients)) == 30


def test_stratified_shares_hold_in_every_category():
    # "a" in all images, "b" in every fourth, "c" in ten of two hundred.
    content = {
        f"{index}.jpg": "a" + "b" * (index % 4 == 0) + "c" * (index % 20 == 1)
        for index in range(200)
    }
    splits = split_dataset(dataset_of(content), SHARES, stratify=True)
    for category, count in (("a", 200), ("b", 50), ("c", 10)):
        for split, share in SHARES.items():
            found = sum(category in content[image.file_name] for image in splits[split])
            assert found == pytest.approx(share * count, abs=1)
    everything = sorted(name for names in names_in(splits).values() for name in names)
    assert everything == sorted(content)


@settings(deadline=None)
@given(st.dictionaries(NAMES, st.sets(st.sampled_from("abcde")), max_size=25), st.integers(0, 9))
def test_stratification_loses_no_image_and_ignores_the_order(content, seed):
    splits = names_in(split_dataset(dataset_of(content), SHARES, seed, stratify=True))
    assert sorted(name for names in splits.values() for name in names) == sorted(content)
    backwards = dict(reversed(content.items()))
    again = names_in(split_dataset(dataset_of(backwards), SHARES, seed, stratify=True))
    assert {k: sorted(v) for k, v in again.items()} == {k: sorted(v) for k, v in splits.items()}


@pytest.mark.parametrize(
    "text",
    ["train", "train=x", "train=0.8", "train=1.2,val=-0.2", "a=0.5,a=0.5", "a/b=1", "=1", "a=nan"],
)
def test_shares_that_make_no_sense(text):
    with pytest.raises(InputError):
        parse_fractions(text)


# ---- the command ----


@pytest.fixture
def coco(tmp_path):
    images = [
        Image(f"p{index // 4}_{index}.png", 10, 10, [Annotation("ab"[index % 2], (0, 0, 5, 5))])
        for index in range(40)
    ]
    for image in images[:20]:
        image.attributes = {"tile": {"source": f"s{image.file_name[1]}"}}
    path = tmp_path / "all.json"
    (tmp_path / "photos").mkdir()
    write_coco(path, images, None, {"image_root": "photos", "source": "drawn"})
    return path


def test_files_hold_each_image_once_with_its_id_and_find_the_images(coco, tmp_path, capsys):
    output = tmp_path / "deep" / "splits"
    assert main(["split", str(coco), "-o", str(output), "--split", "train=0.5,val=0.5"]) == 0
    whole = json.loads(coco.read_text())
    parts = {name: json.loads((output / f"{name}.json").read_text()) for name in ("train", "val")}
    for key in ("images", "annotations"):
        joined = sorted(parts["train"][key] + parts["val"][key], key=lambda entry: entry["id"])
        assert joined == whole[key]
    for part in parts.values():
        assert part["categories"] == whole["categories"]
        assert (output / part["info"]["image_root"]).resolve() == (tmp_path / "photos").resolve()
        assert part["info"]["steps"][-1]["seed"] == 0
    assert "train" in capsys.readouterr().out


@pytest.mark.parametrize("group", [["--group-by", r"^(p\d)_"], ["--group-by", r"^p\d"]])
def test_group_by_pattern(coco, tmp_path, group):
    assert main(["split", str(coco), "-o", str(tmp_path / "out"), *group]) == 0
    seen = [
        {image.file_name[:2] for image in load_coco(tmp_path / "out" / f"{name}.json").images}
        for name in ("train", "val")
    ]
    assert not seen[0] & seen[1]


def test_group_by_attribute(coco, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(["split", str(coco), "-o", str(output), "--group-by-attribute", "tile.source"]) == 0
    assert "20 images are in no group" in capsys.readouterr().out
    sources = [
        {image.attributes["tile"]["source"] for image in load_coco(path).images if image.attributes}
        for path in sorted(output.glob("*.json"))
    ]
    assert not sources[0] & sources[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--group-by", "("],
        ["--group-by", "xyz"],
        ["--group-by-attribute", "none"],
        ["--split", "all=1"],
    ],
)
def test_mistakes_are_told(coco, arguments, capsys):
    before = coco.read_bytes()
    assert main(["split", str(coco), "-o", str(coco.parent), *arguments]) == 2
    assert "error: " in capsys.readouterr().err
    assert coco.read_bytes() == before
