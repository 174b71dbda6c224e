"""What is taken is what was asked for, and what is left out is told."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools.cli import main
from dataset_tools.coco import Annotation, Category, Dataset, Image, load_coco
from dataset_tools.errors import InputError
from dataset_tools.subset import cover_categories, select
from seriatim.testing.shapes import make_shapes


def image(name, categories, size=5):
    return Image(name, 90, 90, [Annotation(c, (0, 0, size, size)) for c in categories])


def dataset(*images):
    names = sorted({a.category for image in images for a in image.annotations})
    return Dataset(list(images), [Category(name) for name in names])


def names(images):
    return [image.file_name for image in images]


def test_categories():
    selection = select(dataset(image("1", "ab"), image("2", "b"), image("3", "")), categories=["a"])
    assert names(selection.dataset.images) == ["1", "3"]
    assert [category.name for category in selection.dataset.categories] == ["a"]
    assert selection.dropped_annotations == {"of other categories": 2}
    assert selection.dropped_images == 1
    kept = select(dataset(image("1", "ab"), image("2", "b")), categories=["a"], keep_empty=True)
    assert names(kept.dataset.images) == ["1", "2"] and kept.dropped_images == 0


def test_the_dataset_given_is_not_changed():
    source = dataset(image("1", "ab"))
    select(source, categories=["a"])
    assert len(source.images[0].annotations) == 2


def test_sizes():
    source = dataset(image("1", "a", 4), image("2", "a", 8), image("3", "a", 16))
    assert names(select(source, min_size=8).dataset.images) == ["2", "3"]
    assert names(select(source, max_size=8).dataset.images) == ["1", "2"]
    told = select(source, min_size=5, max_size=9).dropped_annotations
    assert told == {"that are too small": 1, "that are too large": 1}


def test_first():
    source = dataset(*(image(str(index), "a") for index in range(5)))
    assert names(select(source, first=2).dataset.images) == ["0", "1"]


def test_cover_names_what_it_does_not_show():
    source = dataset(image("1", "abc"), image("2", "cd"), image("3", "d"), image("4", "e"))
    selection = select(source, cover=2)
    # "3" shows as much that is new as "2", with fewer objects.
    assert names(selection.dataset.images) == ["1", "3"]
    assert selection.uncovered == ["e"]


def test_cover_goes_on_when_all_is_shown():
    images = [image("1", "ab"), image("2", "a"), image("3", ""), image("4", "b")]
    chosen, uncovered = cover_categories(images, 3)
    assert names(chosen) == ["1", "2", "4"] and uncovered == []
    assert len(cover_categories(images, 100)[0]) == 3


@settings(deadline=None)
@given(st.lists(st.sets(st.sampled_from("abcdef")), min_size=1, max_size=7), st.integers(1, 4))
def test_cover_is_within_the_bound_of_the_best(contents, count):
    images = [image(str(index), content) for index, content in enumerate(contents)]
    chosen, uncovered = cover_categories(images, count)
    everything = set().union(*contents)
    best = max(
        len(set().union(*some))
        for some in itertools.combinations(contents, min(count, len(contents)))
    )
    shown = {a.category for image in chosen for a in image.annotations}
    assert len(chosen) <= count
    assert set(uncovered) == everything - shown
    assert best * (1 - 1 / 2.718) <= len(shown) <= best
    if count == 1:
        assert len(shown) == best


def test_nothing_left_or_unknown_is_an_input_error():
    source = dataset(image("1", "a"))
    with pytest.raises(InputError, match="No image is left"):
        select(source, min_size=50)
    with pytest.raises(InputError, match="There are: a"):
        select(source, categories=["b"])


def test_the_command(tmp_path, capsys):
    path = make_shapes(tmp_path, num_images=8)
    out = tmp_path / "sub" / "one.json"
    assert (
        main(["subset", str(path), "-o", str(out), "--categories", "circle", "--cover", "1"]) == 0
    )
    part = load_coco(out)
    assert len(part.images) == 1 and {a.category for a in part.images[0].annotations} == {"circle"}
    source = {image.id: image.file_name for image in load_coco(path).images}
    assert source[part.images[0].id] == part.images[0].file_name
    step = json.loads(out.read_text())["info"]["steps"][-1]
    assert step == {"command": "subset", "categories": ["circle"], "cover": 1}
    assert "of other categories" in capsys.readouterr().out
    assert main(["subset", str(path), "-o", str(path)]) == 2
