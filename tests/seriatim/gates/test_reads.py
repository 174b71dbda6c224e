import copy
import pickle

import pytest
from detectron2.config import CfgNode, configurable

from seriatim.config import get_cfg
from seriatim.gates.reads import NotingConfig, Reads, shared


@pytest.fixture
def noting():
    reads = Reads()
    cfg = get_cfg()
    cfg.freeze()
    return NotingConfig.of(cfg, reads), reads


def test_what_is_read_is_noted_by_its_full_name(noting):
    cfg, reads = noting
    with reads.collecting() as outer:
        assert cfg.MODEL.FPN.OUT_CHANNELS == 256
        with reads.collecting() as inner:
            assert cfg["SEED"] == -1 and cfg.SOLVER.get("BASE_LR") == 0.001
    assert inner == {"SEED", "SOLVER.BASE_LR"}
    assert outer == {*inner, "MODEL.FPN.OUT_CHANNELS"}


def test_whoever_goes_through_a_part_has_read_all_of_it(noting):
    cfg, reads = noting
    keys = {f"MODEL.FPN.{key}" for key in get_cfg().MODEL.FPN}
    ways = (
        lambda n: n.items(),
        lambda n: n.values(),
        dict,
        lambda n: dict(**n),
        lambda n: n.dump(),
    )
    for way in ways:
        with reads.collecting() as names:
            way(cfg.MODEL.FPN)
        assert names == keys


def test_copying_freezing_and_asking_for_a_part_read_nothing(noting):
    cfg, reads = noting
    with reads.collecting() as names:
        new = cfg.clone()
        new.defrost()
        new.freeze()
        assert new.MODEL.is_frozen() and "SEED" in new and new == cfg
        pickle.dumps(new)
    assert not names


def test_what_is_written_first_is_not_noted_and_other_copies_are_not_concerned(noting):
    cfg, reads = noting
    new = cfg.clone()
    new.defrost()
    new.SOLVER.BASE_LR = 1.0
    with reads.collecting() as names:
        assert new.SOLVER.BASE_LR == 1.0 and copy.deepcopy(new).SOLVER.BASE_LR == 1.0
        assert new.SOLVER.MAX_ITER
    assert names == {"SOLVER.MAX_ITER"}
    with reads.collecting() as names:
        assert cfg.SOLVER.BASE_LR == 0.001
    assert names == {"SOLVER.BASE_LR"}


def test_a_pickled_copy_is_a_plain_config(noting):
    cfg, _ = noting
    assert type(pickle.loads(pickle.dumps(cfg))) is CfgNode
    assert pickle.loads(pickle.dumps(cfg)) == get_cfg()


class Layer:
    @configurable
    def __init__(self, width):
        self.width = width

    @classmethod
    def from_config(cls, cfg):
        return {"width": cfg.MODEL.FPN.OUT_CHANNELS}


def test_detectron2_takes_it_for_a_config(noting):
    cfg, reads = noting
    with reads.collecting() as names:
        assert Layer(cfg).width == 256
    assert names == {"MODEL.FPN.OUT_CHANNELS"}


def test_what_is_shared_counts_for_everybody_who_asks(noting):
    class Owner:
        cfg, reads = noting
        made = 0

        @shared
        def part(self):
            self.made += 1
            return self.cfg.SEED

    owner = Owner()
    for _ in range(2):
        with owner.reads.collecting() as names:
            assert owner.part == -1
        assert names == {"SEED"}
    assert owner.made == 1
