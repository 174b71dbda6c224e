"""Panoptic quality against the definition, segment pair by segment pair, and by hand."""

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from hypothesis import given
from hypothesis import strategies as st

from seriatim.config import get_cfg
from seriatim.data.catalog import register_datasets, unregister_datasets
from seriatim.evaluation.panoptic import PanopticEvaluator
from seriatim.evaluation.panoptic_quality import Counts, count_segments
from seriatim.testing.shapes import make_panoptic_shapes


def twin(truth, true_categories, found, found_categories, crowds):
    """PQ's parts by masks of whole segments, as the paper's section 4.1 and 4.2 put it."""
    result = {c: [0.0, 0, 0, 0] for c in {*true_categories.values(), *found_categories.values()}}
    void = truth == 0
    taken_true, taken_found = set(), set()
    for t, category in true_categories.items():
        for f, other in found_categories.items():
            mask, guess = truth == t, found == f
            if t in crowds or category != other or not mask.any():
                continue
            union = (mask | (guess & ~void)).sum()
            if (mask & guess).sum() / union > 0.5:
                result[category][0] += (mask & guess).sum() / union
                result[category][1] += 1
                taken_true.add(t)
                taken_found.add(f)
    for f, category in found_categories.items():
        guess = found == f
        if not guess.any() or f in taken_found:
            continue
        excused = void.copy()
        for t in crowds:
            if true_categories[t] == category:
                excused |= truth == t
        result[category][2] += (guess & excused).sum() <= 0.5 * guess.sum()
    for t, category in true_categories.items():
        if (truth == t).any() and t not in taken_true | crowds:
            result[category][3] += 1
    return result


@st.composite
def images(draw):
    """Two label maps that overlap well enough for matches, with void, crowds and few categories."""
    size = draw(st.integers(2, 8))
    cells = st.lists(st.integers(0, 4), min_size=size * size, max_size=size * size)
    truth = np.array(draw(cells)).reshape(size, size)
    changed = np.array(draw(st.lists(st.booleans(), min_size=size * size, max_size=size * size)))
    found = np.where(changed.reshape(size, size), np.array(draw(cells)).reshape(size, size), truth)
    category = st.sampled_from([3, 7])
    true_categories = {n: draw(category) for n in range(1, 5)}
    found_categories = {n: draw(category) for n in range(draw(st.integers(0, 1)), 5)}
    crowds = frozenset(draw(st.sets(st.integers(1, 4), max_size=2)))
    return truth, true_categories, found, found_categories, crowds


@given(images())
def test_counts_are_those_of_the_definition(image):
    truth, true_categories, found, found_categories, crowds = image
    counts = count_segments(truth, true_categories, found, found_categories, crowds)
    for category, wanted in twin(*image).items():
        got = counts.by_category[category]
        assert [got.matched, got.false, got.missed] == wanted[1:]
        assert got.iou == pytest.approx(wanted[0])


def test_numbers_by_hand():
    truth = np.array([[1, 1, 1, 2], [1, 1, 1, 2], [0, 3, 3, 3]])
    found = np.array([[1, 1, 1, 1], [1, 1, 2, 2], [1, 4, 4, 4]])
    counts = count_segments(truth, {1: 10, 2: 10, 3: 20}, found, {1: 10, 2: 10, 4: 20})
    # 1 with 1: 5 px of 6 + 7 - 5 - 1 void; 2 with 2: 1 px of 3, no match.
    assert counts.by_category[10].iou == pytest.approx(5 / 7)
    assert counts.mean([10, 20, 30]) == pytest.approx(
        {"PQ": 50 * (5 / 7 / 2 + 1), "SQ": 50 * (5 / 7 + 1), "RQ": 50 * (0.5 + 1)}
    )
    assert np.isnan(Counts().mean([10])["PQ"])


@pytest.fixture
def dataset(tmp_path):
    drawn = make_panoptic_shapes(tmp_path, 4, size=(48, 64))
    cfg = get_cfg()
    name = f"{tmp_path.name}_pan"
    entry = {"NAME": name, "JSON": drawn.instances_json, "IMAGES": drawn.images}
    entry |= {"SEM_SEG_ROOT": drawn.sem_seg_root, "PANOPTIC_ROOT": drawn.panoptic_root}
    entry |= {"PANOPTIC_JSON": drawn.panoptic_json}
    cfg.SERIATIM.DATASETS = [{k: str(v) for k, v in entry.items()}]
    cfg.DATASETS.TEST = (name,)
    register_datasets(cfg)
    yield name
    unregister_datasets([name])


def predicted(evaluator, image_id, shift=0):
    """The truth as PanopticFPN would give it, or with every class `shift` further."""
    truth, annotation = evaluator._truth_of(image_id)
    metadata = MetadataCatalog.get(evaluator._name)
    segments = []
    for info in annotation["segments_info"]:
        thing = info["category_id"] in metadata.thing_dataset_id_to_contiguous_id
        kind = "thing" if thing else "stuff"
        numbers = getattr(metadata, f"{kind}_dataset_id_to_contiguous_id")
        number = numbers[info["category_id"]]
        if thing:
            number = (number + shift) % len(numbers)
        segments.append({"id": info["id"], "isthing": thing, "category_id": number})
    return {"panoptic_seg": (torch.as_tensor(truth), segments)}


@pytest.mark.parametrize("shift", [0, 1])
def test_true_segments_score_100_and_of_another_class_0(dataset, shift):
    evaluator = PanopticEvaluator(dataset)
    for image_id in evaluator._truth:
        evaluator.process([{"image_id": image_id}], [predicted(evaluator, image_id, shift)])
    scores = evaluator.evaluate()["panoptic_seg"]
    assert scores["PQ_st"] == pytest.approx(100)
    assert scores["PQ_th"] == pytest.approx(0 if shift else 100)
    assert len(scores) == 9
    evaluator.reset()
    assert np.isnan(evaluator.evaluate()["panoptic_seg"]["PQ"])


def test_numbers_of_class_and_instance_in_one(dataset):
    """Panoptic-DeepLab gives no segments: class · divisor + instance, and -1 for nothing."""
    evaluator = PanopticEvaluator(dataset)
    for image_id in evaluator._truth:
        (truth, segments), joint = predicted(evaluator, image_id)["panoptic_seg"], None
        joint = torch.full_like(truth, -1)
        for segment in segments:
            if segment["isthing"]:
                joint[truth == segment["id"]] = 1000 * segment["category_id"] + segment["id"] % 1000
        evaluator.process([{"image_id": image_id}], [{"panoptic_seg": (joint, None)}])
    assert evaluator.evaluate()["panoptic_seg"]["PQ_th"] == pytest.approx(100)
