"""Reading configs: what they may say, what they may not, and what a person is told."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import pytest
from detectron2 import model_zoo
from detectron2.config import get_cfg as get_detectron2_cfg
from hypothesis import given
from hypothesis import strategies as st

from dataset_tools.errors import InputError
from seriatim.config import (
    add_seriatim_config,
    evaluate_arithmetic,
    get_cfg,
    load_config,
    load_yaml_with_base,
)
from tools.config_docs import PAGE, page

ZOO = Path(model_zoo.__file__).parent / "configs"
ZOO_CONFIGS = sorted(str(path.relative_to(ZOO)) for path in ZOO.rglob("*.yaml"))


def write(tmp_path, text, name="config.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def complaint(path, *overrides):
    with pytest.raises(InputError) as error:
        load_config(path, overrides)
    message = str(error.value)
    assert "\n" not in message.strip()
    return message


def test_there_are_zoo_configs():
    assert len(ZOO_CONFIGS) > 60


@pytest.mark.parametrize("name", ZOO_CONFIGS)
def test_every_zoo_config_says_what_detectron2_reads_in_it(name):
    """Our defaults differ on purpose; whatever the file sets must come out as Detectron2 has it."""
    theirs = get_detectron2_cfg()
    theirs.merge_from_file(str(ZOO / name), allow_unsafe=True)
    ours = load_config(name)
    untouched_theirs, untouched_ours = get_detectron2_cfg(), get_cfg()

    def compare(a, b, default_a, default_b, path):
        for key, value in a.items():
            where = f"{path}.{key}"
            if isinstance(value, type(a)):
                compare(value, b[key], default_a[key], default_b[key], where)
            elif value != default_a[key]:
                assert b[key] == value, where
            else:
                assert b[key] in (value, default_b[key]), where

    compare(theirs, ours, untouched_theirs, untouched_ours, "")


def test_retinanet_has_the_anchors_of_the_paper():
    sizes = load_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml").MODEL.ANCHOR_GENERATOR.SIZES
    expected = [[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in (32, 64, 128, 256, 512)]
    assert [pytest.approx(row) for row in expected] == sizes


@pytest.mark.parametrize(
    "text",
    [
        "A: !!python/object/apply:os.system ['touch broken']",
        "A: !!python/object/apply:eval [\"__import__('os').system('touch broken')\"]",
        'A: !!python/object/apply:eval [\'open("broken", "w")\']',
        "A: !!python/object/apply:eval ['().__class__.__mro__']",
        "A: !!python/object/apply:eval ['[x for x in [1] if x]']",
        "A: !!python/object/apply:eval ['9**9**9']",
        "A: !!python/object/apply:eval ['1000000**65']",
        "A: !!python/object/apply:eval ['1/0']",
        "A: !!python/object/apply:eval ['(-8)**0.5']",
        "A: !!python/object/apply:eval ['1', '2']",
        "A: !!python/object/apply:eval {a: 1}",
        "A: !!python/name:os.system",
        "A: !!python/object:os._wrap_close {}",
        "A: !!python/module:os",
        "A: [unclosed",
        "- a list",
    ],
)
def test_yaml_that_is_more_than_data_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=str(path)):
        load_yaml_with_base(path)
    assert not (tmp_path / "broken").exists()


def test_arithmetic_is_limited_in_time():
    loops = "[" * 5 + "1" + " for x in [0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]]" * 5
    with pytest.raises(ValueError, match="steps"):
        evaluate_arithmetic(loops)
    for text in ("-" * 900 + "1", "(" * 400 + "1" + ")" * 400, "1+" * 400 + "1"):
        # The config loader makes an InputError of each.
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            evaluate_arithmetic(text)


def expressions():
    numbers = st.integers(0, 50) | st.floats(0, 50, allow_nan=False).map(lambda x: round(x, 3))

    def combine(inner):
        operator = st.sampled_from(["+", "-", "*", "/", "//"])
        return (
            st.tuples(inner, operator, inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
            | inner.map(lambda x: f"(-{x})")
            | st.tuples(inner, st.integers(0, 3)).map(lambda t: f"({t[0]} ** {t[1]})")
        )

    scalar = st.recursive(numbers.map(repr), combine, max_leaves=6)
    items = st.lists(scalar, min_size=1, max_size=3)
    return (
        scalar
        | items.map(lambda xs: f"[{', '.join(xs)}]")
        | items.map(lambda xs: f"({', '.join(xs)},)")
        | items.map(lambda xs: f"[[x, x * 2, (x + 1) / 3] for x in [{', '.join(xs)}]]")
    )


@given(expressions())
def test_arithmetic_is_that_of_python(text):
    try:
        expected = eval(text)
    except ArithmeticError as error:
        with pytest.raises(type(error)):
            evaluate_arithmetic(text)
        return
    try:
        result = evaluate_arithmetic(text)
    except ValueError as error:
        assert "too large" in str(error)
        return
    assert result == expected
    assert type(result) is type(expected)


def test_unknown_keys_get_a_suggestion(tmp_path):
    assert "Did you mean SOLVER.MAX_ITER" in complaint(write(tmp_path, "SOLVER: {MAX_ITERS: 5}"))
    assert "SERIATIM.AUG.HFLIP" in complaint(write(tmp_path, "SERIATIM: {AUG: {H_FLIP: 1.0}}"))
    message = complaint(write(tmp_path, ""), "SOLVR.MAX_ITER", "5")
    assert "SOLVR" in message
    assert "command line" in message
    assert "SOLVER" in message


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("SOLVER: {BASE_LR: 1e-3}", "SOLVER.BASE_LR", 1e-3),
        ("SOLVER: {BASE_LR: 1}", "SOLVER.BASE_LR", 1.0),
        ("SOLVER: {STEPS: [1, 2]}", "SOLVER.STEPS", (1, 2)),
        ('SOLVER: {STEPS: "(1, 2)"}', "SOLVER.STEPS", (1, 2)),
        ("SOLVER: {STEPS: !!python/tuple [1, 2]}", "SOLVER.STEPS", (1, 2)),
        ("MODEL: {PIXEL_MEAN: [1.0, 2.0, 3.0]}", "MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0]),
        ('MODEL: {WEIGHTS: "123"}', "MODEL.WEIGHTS", "123"),
    ],
)
def test_values_take_the_type_of_the_default(tmp_path, text, key, value):
    node = load_config(write(tmp_path, text))
    for part in key.split("."):
        node = node[part]
    assert node == value
    assert type(node) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SOLVER: {MAX_ITER: many}", "SOLVER.MAX_ITER takes an int like 40000"),
        ("SOLVER: {MAX_ITER: 1.5}", "float"),
        ("MODEL: {MASK_ON: 1}", "MODEL.MASK_ON takes a bool"),
        ("SOLVER: {MAX_ITER: true}", "bool"),
        ("DATASETS: {TRAIN: trees}", "Write ('trees',)"),
        ("SOLVER: 5", "group of keys"),
        ("SOLVER:", "group of keys"),
    ],
)
def test_wrong_types(tmp_path, text, words):
    assert words in complaint(write(tmp_path, text))


def test_overrides(tmp_path):
    path = write(tmp_path, "SOLVER: {MAX_ITER: 5}")
    words = ["SOLVER.MAX_ITER", "7", "DATASETS.TRAIN", "('a',)", "OUTPUT_DIR", "2024"]
    entry = "[{'NAME': 'a', 'JSON': 'a.json', 'IMAGES': '.'}]"
    cfg = load_config(path, [*words, "SERIATIM.DATASETS", entry, "MODEL.WEIGHTS", "'x y'"])
    assert (cfg.SOLVER.MAX_ITER, cfg.DATASETS.TRAIN, cfg.OUTPUT_DIR) == (7, ("a",), "2024")
    assert cfg.SERIATIM.DATASETS == [{"NAME": "a", "JSON": "a.json", "IMAGES": "."}]
    assert cfg.MODEL.WEIGHTS == "x y"
    assert "pairs" in complaint(path, "SOLVER.MAX_ITER")


def test_what_is_dumped_loads_again(tmp_path):
    cfg = load_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    cfg.SERIATIM.DATASETS = [{"NAME": "a", "JSON": "a.json", "IMAGES": "."}]
    assert load_config(write(tmp_path, cfg.dump())) == cfg


def test_bases(tmp_path):
    write(tmp_path, "SOLVER: {MAX_ITER: 1, BASE_LR: 0.5}\nMODEL: {MASK_ON: true}", "a.yaml")
    write(tmp_path, "SOLVER: {MAX_ITER: 2}", "b.yaml")
    cfg = load_config(write(tmp_path, "_BASE_: [a.yaml, b.yaml]\nMODEL: {KEYPOINT_ON: true}"))
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (2, 0.5)
    assert cfg.MODEL.MASK_ON
    assert cfg.MODEL.KEYPOINT_ON
    zoo = load_config(write(tmp_path, "_BASE_: COCO-Detection/retinanet_R_50_FPN_1x.yaml"))
    assert zoo.MODEL.META_ARCHITECTURE == "RetinaNet"


def test_bases_that_are_wrong(tmp_path):
    write(tmp_path, "_BASE_: b.yaml", "a.yaml")
    assert "circle" in complaint(write(tmp_path, "_BASE_: a.yaml", "b.yaml"))
    assert "does not exist" in complaint(write(tmp_path, "_BASE_: nowhere.yaml", "c.yaml"))
    assert "_BASE_" in complaint(write(tmp_path, "_BASE_: 5", "d.yaml"))


def test_missing_config_names_what_is_there(tmp_path):
    write(tmp_path, "", "trees.yaml")
    assert "trees.yaml" in complaint(tmp_path / "tree.yaml")


def test_numbers_are_finite_and_not_true():
    assert math.isfinite(evaluate_arithmetic("2 ** 0.5"))
    with pytest.raises(ValueError, match="literal"):
        evaluate_arithmetic("'a' * 3")


def keys(cfg, prefix=""):
    for key, value in cfg.items():
        if isinstance(value, type(cfg)):
            yield from keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_the_page_of_keys_is_current_and_complete():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tools.config_docs"
    theirs = dict(keys(get_detectron2_cfg()))
    group = None
    listed = {}
    for line in page().splitlines():
        if line.startswith("## "):
            group = line[3:]
        elif line.startswith("| `"):
            key, default = line.split("`")[1], line.split("`")[3]
            listed[f"{group}.{key}"] = eval(default)
    cfg = get_detectron2_cfg()
    add_seriatim_config(cfg)  # without the keys of projects that other tests have imported
    ours = {k: v for k, v in keys(cfg) if k not in theirs or theirs[k] != v}
    assert {k: v for k, v in listed.items() if k not in ours or ours[k] != v} == {}
    assert set(ours) == set(listed)
