import pytest
import torch
from torch import nn

from seriatim.config import get_cfg
from seriatim.engine.ema import EMAHook
from seriatim.engine.trainer import Trainer
from seriatim.gates.gradients import GradientsGate
from seriatim.gates.loaded import SURE_FIT, convention_of, distance
from seriatim.gates.verdict import Status
from seriatim.modeling.meta_arch.task_aligned import TaskAlignedDetector

from .pipelines import KINDS, ask, assert_caught, assert_healthy, pipeline, trainer_that


@pytest.mark.parametrize("kind", list(KINDS))
def test_healthy(kind, tmp_path):
    assert_healthy(ask(GradientsGate(), pipeline(tmp_path, kind), tmp_path))
    assert (tmp_path / "gate" / "gradients.png").exists()


def test_healthy_with_average_accumulation_and_frozen_stem(tmp_path):
    context = pipeline(
        tmp_path,
        "task_aligned",
        SERIATIM__SOLVER__EMA_DECAY=0.9,
        SERIATIM__SOLVER__ACCUMULATE=2,
        MODEL__TIMM={"NAME": "tf_efficientnet_lite0", "WEIGHTS": "package", "FREEZE_AT": 2},
        INPUT__FORMAT="RGB",
        SOLVER__WARMUP_FACTOR=0.0,
    )
    verdict = ask(GradientsGate(), context, tmp_path)
    assert_healthy(verdict)
    assert 0 < verdict.numbers["way of the average"] <= 1


def caught(folder, kind, trainer_class, *words, **changes):
    context = pipeline(folder, kind, trainer_class, **changes)
    assert_caught(ask(GradientsGate(), context, folder), *words)


class Detached(TaskAlignedDetector):
    def forward_training(self, images, features, predictions, gt_instances):
        logits, distances = predictions
        return super().forward_training(
            images, features, (logits, [d.detach() for d in distances]), gt_instances
        )


def test_detached_output(tmp_path):
    def plant(model):
        model.__class__ = Detached

    caught(tmp_path, "task_aligned", trainer_that(plant), "detached")


def test_module_that_is_never_called(tmp_path):
    def plant(model):
        model.head.extra = nn.Conv2d(4, 4, 1)

    caught(tmp_path, "task_aligned", trainer_that(plant), "not used in forward")


def test_dead_relu(tmp_path):
    def plant(model):
        model.head.box_tower.register_forward_hook(lambda m, i, o: (o - 1e6).relu())

    caught(tmp_path, "task_aligned", trainer_that(plant), "dead ReLU")


class ForgetsBiases(Trainer):
    @classmethod
    def build_optimizer(cls, cfg, model):
        weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
        return torch.optim.SGD(weights, lr=0.01)


def test_parameters_missing_from_the_optimizer(tmp_path):
    caught(tmp_path, "retinanet", ForgetsBiases, "optimizer leaves them out")


def test_frozen_batchnorm_that_follows_the_data(tmp_path):
    def plant(model):
        for parameter in model.backbone.bottom_up.parameters():
            parameter.requires_grad = False

    caught(tmp_path, "retinanet", trainer_that(plant), "BatchNorm is still in training mode")


class NoZeroGrad(Trainer):
    def run_step(self):
        self.optimizer.zero_grad = lambda set_to_none=True: None
        super().run_step()


def test_missing_zero_grad(tmp_path):
    caught(tmp_path, "task_aligned", NoZeroGrad, "not set to zero")


class SumsMicroBatches(Trainer):
    def __init__(self, cfg):
        super().__init__(cfg)
        compute, times = self._trainer.compute_losses, self._trainer.accumulate

        def compute_losses(model, batch):
            return {name: times * loss for name, loss in compute(model, batch).items()}

        self._trainer.compute_losses = compute_losses
        self.compute_losses = compute


def test_accumulation_that_is_not_averaged(tmp_path):
    changes = {"SERIATIM__SOLVER__ACCUMULATE": 2}
    caught(tmp_path, "task_aligned", SumsMicroBatches, "summed, not averaged", **changes)


class AverageStands(Trainer):
    def build_hooks(self):
        return [hook for hook in super().build_hooks() if not isinstance(hook, EMAHook)]


def test_average_that_does_not_follow(tmp_path):
    changes = {"SERIATIM__SOLVER__EMA_DECAY": 0.9}
    caught(tmp_path, "task_aligned", AverageStands, "never updated", **changes)


def test_learning_rate_a_thousand_times_too_high(tmp_path):
    caught(
        tmp_path, "task_aligned", None, "too high", SOLVER__BASE_LR=1.0, SOLVER__WARMUP_ITERS=1000
    )


def test_infinite_gradient_of_a_square_root(tmp_path):
    class Rooted(TaskAlignedDetector):
        def losses(self, logits, boxes, targets):
            found = super().losses(logits, boxes, targets)
            return {**found, "loss_root": (logits - logits.detach()).square().sum().sqrt() + 1}

    def plant(model):
        model.__class__ = Rooted

    caught(tmp_path, "task_aligned", trainer_that(plant), "square root")


def test_rate_of_zero_for_the_backbone(tmp_path):
    changes = {"SERIATIM__SOLVER__BACKBONE_MULTIPLIER": 0.0}
    caught(tmp_path, "task_aligned", None, "multiplier of the learning rate is 0", **changes)


def test_pretrained_weights_lost(tmp_path):
    def plant(model):
        for module in model.backbone.bottom_up.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()

    changes = {"MODEL__TIMM__NAME": "tf_efficientnet_lite0", "MODEL__TIMM__WEIGHTS": "package"}
    caught(tmp_path, "task_aligned", trainer_that(plant), "overwrites", **changes)


def test_what_the_model_excuses_is_no_finding(tmp_path):
    def plant(model):
        model.head.extra = nn.Conv2d(4, 4, 1)
        model.parameters_without_gradient = lambda: ["head.extra.*"]

    context = pipeline(tmp_path, "task_aligned", trainer_that(plant))
    assert_healthy(ask(GradientsGate(), context, tmp_path))


def test_gradients_that_vanish(tmp_path):
    def plant(model):
        def fade(module, inputs, output):
            for feature in (f for f in output.values() if f.requires_grad):
                feature.register_hook(lambda gradient: gradient * 1e-7)

        model.backbone.bottom_up.register_forward_hook(fade)

    caught(tmp_path, "retinanet", trainer_that(plant), "tiny")


def test_an_unusual_update_is_a_warning(tmp_path):
    context = pipeline(tmp_path, "retinanet", SOLVER__BASE_LR=1e-6)
    verdict = ask(GradientsGate(), context, tmp_path)
    assert verdict.status is Status.WARN
    assert 1e-6 < verdict.numbers["update at the peak rate"] < 1e-5
    assert "BASE_LR" in str(verdict.findings[0].causes[0])


def test_batchnorm_on_one_image_is_a_warning(tmp_path):
    context = pipeline(tmp_path, "retinanet", SOLVER__IMS_PER_BATCH=1)
    verdict = ask(GradientsGate(), context, tmp_path)
    assert verdict.status is Status.WARN and "statistics of 1 image" in verdict.summary


LITE0 = {"MODEL__TIMM__NAME": "tf_efficientnet_lite0", "MODEL__TIMM__WEIGHTS": "package"}


def test_pretrained_weights_of_rgb_for_bgr_images(tmp_path):
    caught(tmp_path, "task_aligned", None, "INPUT.FORMAT", INPUT__FORMAT="BGR", **LITE0)


def test_pretrained_weights_in_their_own_order(tmp_path):
    verdict = ask(
        GradientsGate(), pipeline(tmp_path, "task_aligned", INPUT__FORMAT="RGB", **LITE0), tmp_path
    )
    assert_healthy(verdict)
    assert any("channels reversed" in name for name in verdict.numbers)


@pytest.mark.parametrize(
    ("weights", "order"),
    [
        ("detectron2://ImageNetPretrained/MSRA/R-50.pkl", "BGR"),
        ("detectron2://ImageNetPretrained/torchvision/R-50.pkl", "RGB"),
        ("https://dl.fbaipublicfiles.com/detectron2/COCO-Detection/x/137260431/model.pkl", "BGR"),
        ("output/model_final.pth", None),
    ],
)
def test_the_order_of_channels_of_known_weights(weights, order):
    cfg = get_cfg()
    cfg.MODEL.WEIGHTS = weights
    assert convention_of(cfg) == order


def test_the_order_of_channels_by_statistics():
    norm = nn.BatchNorm2d(3)
    norm.running_mean = torch.tensor([2.0, 0.0, -2.0])  # the first channel is the brightest
    right = torch.randn(4, 3, 32, 32) + norm.running_mean.view(1, 3, 1, 1)
    assert distance(norm, [norm], right) < SURE_FIT
    assert distance(norm, [norm], right.flip(1)) > 1


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"MODEL__TIMM__FREEZE_AT": 2}, "pretrained weights, which are not loaded"),
        ({"SERIATIM__SOLVER__OPTIMIZER": "SGD", "SOLVER__MOMENTUM": 0.9999}, "MOMENTUM"),
        ({"SOLVER__WARMUP_FACTOR": 1000.0}, "WARMUP_FACTOR"),
        (
            {"SOLVER__MAX_ITER": 200, "SOLVER__STEPS": [120, 160], "SOLVER__GAMMA": 10.0},
            "GAMMA",
        ),
        (
            {
                "SOLVER__MAX_ITER": 200,
                "SERIATIM__SOLVER": {"OPTIMIZER": "AdamW", "EMA_DECAY": 0.99999, "EMA_WARMUP": 1},
            },
            "EMA_DECAY",
        ),
    ],
)
def test_settings_that_no_run_can_be_meant_to_have(tmp_path, changes, word):
    caught(tmp_path, "retinanet", None, word, **changes)


def test_one_tower_under_two_names(tmp_path):
    def plant(model):
        model.head.box_tower = model.head.cls_tower

    caught(tmp_path, "task_aligned", trainer_that(plant), "shared by mistake")


def test_one_module_of_two_names_that_is_used_once(tmp_path):
    def plant(model):
        model.head.towers = nn.ModuleList([model.head.cls_tower, model.head.box_tower])

    context = pipeline(tmp_path, "task_aligned", trainer_that(plant))
    assert_healthy(ask(GradientsGate(), context, tmp_path))
