import time

import pytest
import torch

from seriatim.engine.state import PlainState
from seriatim.engine.trainer import Trainer
from seriatim.gates.repeat import RepeatGate

from .pipelines import ask, assert_caught, assert_healthy, pipeline, trainer_that


@pytest.mark.parametrize("kind", ["retinanet", "task_aligned", "faster_rcnn"])
def test_healthy(kind, tmp_path):
    context = pipeline(
        tmp_path,
        kind,
        SERIATIM__SOLVER__EMA_DECAY=0.9,
        MODEL__TIMM__DROP_PATH=0.2,
        SERIATIM__SOLVER__ACCUMULATE=2 if kind == "task_aligned" else 1,
    )
    assert_healthy(ask(RepeatGate(), context, tmp_path))


def caught(folder, trainer_class, *words, kind="task_aligned", **changes):
    context = pipeline(folder, kind, trainer_class, **changes)
    assert_caught(ask(RepeatGate(), context, folder), *words)


def test_noise_from_the_clock(tmp_path):
    def noise(module, inputs, output):
        return output * (1 + (time.perf_counter_ns() % 1000) / 1e4)

    def plant(model):
        model.head.cls_tower.register_forward_hook(noise)

    caught(tmp_path, trainer_that(plant), "generator that is not seeded")


class UnseededAugmentation(Trainer):
    @classmethod
    def build_mapper(cls, cfg, is_train, **overrides):
        mapper = super().build_mapper(cfg, is_train, **overrides)

        def jitter(record):
            mapped = mapper(record)
            if is_train:
                shade = time.perf_counter_ns() % 20
                mapped["image"] = (mapped["image"].int() + shade).clamp(0, 255).to(torch.uint8)
            return mapped

        return jitter

    @classmethod
    def build_train_loader(cls, cfg, start_iteration=0):
        from seriatim.data.loader import build_train_loader

        return build_train_loader(cfg, cls.build_mapper(cfg, True), start_iteration)


def test_augmentation_that_is_not_seeded(tmp_path):
    caught(tmp_path, UnseededAugmentation, "augmentations draw from a generator")


class StartsTheDataAnew(Trainer):
    def resume_or_load(self, resume=True):
        super().resume_or_load(resume)
        self._trainer.data_loader.start = 0


def test_sampler_position_is_lost(tmp_path):
    caught(tmp_path, StartsTheDataAnew, "sampler takes other images")


class ForgetsMomentum(Trainer):
    def load_state_dict(self, state):
        state["_trainer"] = {**state["_trainer"]}
        state["_trainer"]["optimizer"] = {
            **self._trainer.state_dict()["optimizer"],
        }
        super().load_state_dict(state)


def test_optimizer_state_is_lost(tmp_path):
    caught(tmp_path, ForgetsMomentum, "optimizer state is not")


class ForgetsNormalizer(Trainer):
    def load_state_dict(self, state):
        self._plain_state = PlainState(torch.nn.Identity())
        for process in state["processes"]:
            process["plain"] = {}
        super().load_state_dict(state)


def test_loss_normalizer_is_lost(tmp_path):
    caught(tmp_path, ForgetsNormalizer, "plain number of a module", kind="retinanet")


class ForgetsGenerators(Trainer):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        self._rng_to_restore = None


def test_generators_are_not_restored(tmp_path):
    changes = {"MODEL__TIMM__DROP_PATH": 0.5}
    caught(tmp_path, ForgetsGenerators, "generators are not saved", **changes)


class StaysInEvaluation(Trainer):
    @classmethod
    def test(cls, cfg, model, evaluators=None):
        results = super().test(cfg, model, evaluators)
        model.eval()
        return results


def test_evaluation_mode_stays(tmp_path):
    caught(tmp_path, StaysInEvaluation, "model.eval() without going back")
