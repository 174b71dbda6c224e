"""Silent bugs of optimizers, schedules, checkpoints and of the loop itself."""

from __future__ import annotations

import copy

import torch
from detectron2.engine.hooks import LRScheduler
from torch import nn

from seriatim.engine.ema import EMAHook
from seriatim.engine.trainer import Trainer
from tests.bug_zoo.planting import model_bug, trainer_bug
from tests.bug_zoo.registry import Bug

BUGS: list[Bug] = []

# What the optimizer holds


@trainer_bug(
    BUGS,
    "head missing from the optimizer",
    area="optimizer",
    what="Only the backbone's parameters are given to the optimizer.",
    gates=("gradients",),
    causes=("optimizer leaves them out",),
    seen=(
        "zjunlp/HVPNeT#5",
        "ohhhyeahhh/SiamCAR#18",
    ),
    kind="retinanet",
)
class BackboneAlone(Trainer):
    @classmethod
    def build_optimizer(cls, cfg, model):
        return super().build_optimizer(cfg, model.backbone)


@trainer_bug(
    BUGS,
    "parameters twice",
    area="optimizer",
    what="A list of parameters is extended by those of a part that is in it already.",
    gates=("gradients",),
    causes=("two parameter groups overlap",),
    seen=("facebookresearch/mmf#965",),
    kind="faster_rcnn",
)
class HeadTwice(Trainer):
    @classmethod
    def build_optimizer(cls, cfg, model):
        parameters = [*model.parameters(), *model.roi_heads.parameters()]
        return torch.optim.SGD(parameters, lr=cfg.SOLVER.BASE_LR)


@trainer_bug(
    BUGS,
    "optimizer of another copy",
    area="optimizer",
    what="The optimizer is built for the model before it is copied (to a device, into a wrapper).",
    gates=("gradients",),
    causes=("another copy of the model",),
    kind="task_aligned",
)
class OptimizesACopy(Trainer):
    @classmethod
    def build_optimizer(cls, cfg, model):
        return super().build_optimizer(cfg, copy.deepcopy(model))


class FreezesByZeros(Trainer):
    """Sets the gradients of the frozen part to 0 instead of leaving it out of the optimizer."""

    @classmethod
    def build_optimizer(cls, cfg, model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=0.1)
        for parameter in model.backbone.bottom_up.parameters():
            parameter.requires_grad = False
        return optimizer

    def run_step(self):
        for parameter in self.bare_model.backbone.bottom_up.parameters():
            parameter.grad = torch.zeros_like(parameter)
        step = self.optimizer.zero_grad
        self.optimizer.zero_grad = lambda set_to_none=True: step(set_to_none=False)
        super().run_step()
        self.optimizer.zero_grad = step


trainer_bug(
    BUGS,
    "weight decay on frozen layers",
    area="optimizer",
    what="Frozen layers have gradients of 0, and shrink by weight decay.",
    gates=("gradients",),
    causes=("weight decay",),
    kind="faster_rcnn",
)(FreezesByZeros)


@model_bug(
    BUGS,
    "frozen batchnorm follows the data",
    area="optimizer",
    what="requires_grad is False for the backbone, whose BatchNorms still follow every batch.",
    gates=("gradients",),
    causes=("BatchNorm is still in training mode",),
    seen=(
        "lightly-ai/lightly#1438",
        "pytorch/pytorch#86590",
    ),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    for parameter in model.backbone.bottom_up.parameters():
        parameter.requires_grad = False


BUGS.append(
    Bug(
        "rate of biases zero",
        area="optimizer",
        what="The factor for biases is 0: they stay as they were initialised.",
        gates=("gradients",),
        causes=("multiplier of the learning rate is 0",),
        kind="retinanet",
        changes={"SOLVER__BIAS_LR_FACTOR": 0.0},
    )
)


BUGS.append(
    Bug(
        "weight decay too strong",
        area="optimizer",
        what="AdamW's decoupled decay is set as if it were divided by the learning rate.",
        gates=("gradients",),
        causes=("weight decay",),
        kind="task_aligned",
        changes={"SOLVER__WEIGHT_DECAY": 50.0},
    )
)


@trainer_bug(
    BUGS,
    "maximises the loss",
    area="optimizer",
    what="The optimizer is told to maximise, as for a reward.",
    gates=("gradients",),
    causes=("climbs",),
    kind="retinanet",
)
class Climbs(Trainer):
    @classmethod
    def build_optimizer(cls, cfg, model):
        return torch.optim.AdamW(model.parameters(), lr=cfg.SOLVER.BASE_LR, maximize=True)


# The step


@trainer_bug(
    BUGS,
    "zero grad missing",
    area="optimizer",
    what="zero_grad is not called: each step uses the sum of all gradients so far.",
    gates=("gradients",),
    causes=("not set to zero",),
    seen=(
        "facebookresearch/nwm#16",
        "tatsu-lab/alpaca_farm#58",
    ),
    kind="retinanet",
)
class NoZeroGrad(Trainer):
    def run_step(self):
        self.optimizer.zero_grad = lambda set_to_none=True: None
        super().run_step()


@trainer_bug(
    BUGS,
    "zero grad after backward",
    area="optimizer",
    what="zero_grad is called between backward and step, which finds nothing to do.",
    gates=("gradients",),
    causes=("before the step",),
    kind="task_aligned",
)
class ZeroGradTooLate(Trainer):
    def __init__(self, cfg):
        super().__init__(cfg)
        finish = self._trainer._finish_gradients

        def forget():
            norm = finish()
            self.optimizer.zero_grad()
            return norm

        self._trainer._finish_gradients = forget


class SumsMicroBatches(Trainer):
    def __init__(self, cfg):
        super().__init__(cfg)
        compute, times = self._trainer.compute_losses, self._trainer.accumulate
        self.compute_losses = compute
        self._trainer.compute_losses = lambda model, batch: {
            name: times * loss for name, loss in compute(model, batch).items()
        }


trainer_bug(
    BUGS,
    "accumulation not averaged",
    area="optimizer",
    what="The losses of micro-batches are added up, not averaged.",
    gates=("gradients",),
    causes=("summed, not averaged",),
    seen=(
        "hirofumi0810/neural_sp#168",
        "karpathy/nanoGPT#206",
    ),
    kind="faster_rcnn",
    base={"SERIATIM__SOLVER__ACCUMULATE": 4},
)(SumsMicroBatches)


@trainer_bug(
    BUGS,
    "zero grad for every micro batch",
    area="optimizer",
    what="Gradients are cleared before each micro-batch: only the last one counts.",
    gates=("gradients",),
    causes=("micro-batch",),
    seen=("bytetriper/RAE#67",),
    kind="task_aligned",
    base={"SERIATIM__SOLVER__ACCUMULATE": 4},
)
class OnlyTheLastMicroBatch(Trainer):
    def __init__(self, cfg):
        super().__init__(cfg)
        compute = self._trainer.compute_losses
        self.compute_losses = compute

        def forget(model, batch):
            self.optimizer.zero_grad()
            return compute(model, batch)

        self._trainer.compute_losses = forget


class Scaled(Trainer):
    """Loss scaling by hand, as in mixed precision, without dividing before the step."""

    SCALE = 1024.0

    def __init__(self, cfg):
        super().__init__(cfg)
        compute = self._trainer.compute_losses
        self.compute_losses = compute
        self._trainer.compute_losses = lambda model, batch: {
            name: self.SCALE * loss for name, loss in compute(model, batch).items()
        }


trainer_bug(
    BUGS,
    "scaled loss never unscaled",
    area="optimizer",
    what="The loss is scaled for half precision, and the step uses the scaled gradients.",
    gates=("gradients",),
    causes=("scales the losses",),
    kind="task_aligned",
)(Scaled)


@trainer_bug(
    BUGS,
    "clipped before unscaling",
    area="optimizer",
    what="Gradients are clipped while they are scaled, and unscaled then: little is left.",
    gates=("gradients",),
    causes=("clipped",),
    seen=(
        "milesial/Pytorch-UNet#468",
        "pytorch/examples#1196",
        "harubaru/waifu-diffusion#64",
    ),
    kind="retinanet",
    base={"SERIATIM__SOLVER__OPTIMIZER": "SGD"},
    changes={
        "SOLVER__CLIP_GRADIENTS": {"ENABLED": True, "CLIP_TYPE": "full_model", "CLIP_VALUE": 1.0}
    },
)
class ClipsScaledGradients(Trainer):
    SCALE = 65536.0

    def __init__(self, cfg):
        super().__init__(cfg)
        clip = self._trainer._clip

        def too_early(parameters):
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad *= self.SCALE
            clip(parameters)
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad /= self.SCALE

        self._trainer._clip = too_early


BUGS.append(
    Bug(
        "clipped to a millionth",
        area="optimizer",
        what="The largest norm of the gradient is 1e-6.",
        gates=("gradients",),
        causes=("clipped",),
        kind="faster_rcnn",
        base={"SERIATIM__SOLVER__OPTIMIZER": "SGD"},
        changes={
            "SOLVER__CLIP_GRADIENTS": {
                "ENABLED": True,
                "CLIP_TYPE": "full_model",
                "CLIP_VALUE": 1e-6,
            }
        },
    )
)


# Rates and schedules


BUGS.append(
    Bug(
        "rate times a thousand",
        area="schedule",
        what="The learning rate of SGD is given to AdamW, a thousand times too high.",
        gates=("gradients",),
        causes=("too high",),
        kind="task_aligned",
        changes={"SOLVER__BASE_LR": 1.0, "SOLVER__WARMUP_ITERS": 3},
    )
)


BUGS.append(
    Bug(
        "rate by a thousand",
        area="schedule",
        what="A learning rate that was scaled twice by the batch size.",
        gates=("gradients",),
        causes=("too low",),
        kind="retinanet",
        changes={"SOLVER__BASE_LR": 1e-7},
    )
)


@trainer_bug(
    BUGS,
    "warm up never ends",
    area="schedule",
    what="Warm-up takes more steps than the whole training has.",
    gates=("gradients",),
    causes=("warm-up takes longer",),
    seen=("facebookresearch/d2go#19", "ultralytics/ultralytics#25321"),
    kind="retinanet",
    base={"SOLVER__MAX_ITER": 200},
)
class WarmsUpForEver(Trainer):
    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.WARMUP_ITERS = 100 * cfg.SOLVER.MAX_ITER
        return super().build_lr_scheduler(cfg, optimizer)


BUGS.append(
    Bug(
        "steps of the schedule in epochs",
        area="schedule",
        what="The rate falls at steps 8 and 11, which were meant as epochs.",
        gates=("gradients",),
        causes=("epochs",),
        seen=("ScrollPrize/villa#1495",),
        kind="faster_rcnn",
        changes={"SOLVER__MAX_ITER": 5000, "SOLVER__STEPS": [8, 11, 14]},
    )
)


class SteppedPerEpoch(Trainer):
    class EveryEpoch(LRScheduler):
        def after_step(self):
            if (self.trainer.iter + 1) % 100 == 0:
                super().after_step()

    def build_hooks(self):
        return [
            self.EveryEpoch() if type(hook) is LRScheduler else hook
            for hook in super().build_hooks()
        ]


trainer_bug(
    BUGS,
    "schedule stepped per epoch",
    area="schedule",
    what="The schedule counts iterations, and is stepped once an epoch: warm-up lasts for ever.",
    gates=("repeat",),
    causes=("schedule",),
    kind="task_aligned",
)(SteppedPerEpoch)


@trainer_bug(
    BUGS,
    "schedule stepped twice",
    area="schedule",
    what="A hook of one's own steps the schedule, and the trainer's does too.",
    gates=("repeat",),
    causes=("schedule",),
    kind="retinanet",
    base={"SOLVER__MAX_ITER": 100},
)
class SteppedTwice(Trainer):
    def build_hooks(self):
        return [*super().build_hooks(), LRScheduler()]


# The moving average


@trainer_bug(
    BUGS,
    "average never updated",
    area="optimizer",
    what="The hook of the moving average is lost when build_hooks is overridden.",
    gates=("gradients",),
    causes=("never updated",),
    kind="task_aligned",
    base={"SERIATIM__SOLVER__EMA_DECAY": 0.9},
)
class AverageStands(Trainer):
    def build_hooks(self):
        return [hook for hook in super().build_hooks() if not isinstance(hook, EMAHook)]


@trainer_bug(
    BUGS,
    "average of another copy",
    area="optimizer",
    what="The average follows a copy of the model which does not train.",
    gates=("gradients",),
    causes=("another copy",),
    kind="retinanet",
    base={"SERIATIM__SOLVER__EMA_DECAY": 0.9},
)
class AveragesACopy(Trainer):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.average._live = copy.deepcopy(self.average._live)


@trainer_bug(
    BUGS,
    "average not restored",
    area="optimizer",
    what="The checkpoint holds no moving average: it starts anew from the weights.",
    gates=("repeat",),
    causes=("moving average",),
    seen=(
        "ai2cm/ace#349",
        "m2lines/Samudra#282",
    ),
    kind="retinanet",
    base={"SERIATIM__SOLVER__EMA_DECAY": 0.9},
)
class AverageIsLost(Trainer):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.checkpointer.checkpointables.pop("ema")


class ResumesFromTheAverage(Trainer):
    def resume_or_load(self, resume=True):
        super().resume_or_load(resume)
        if resume:
            self.bare_model.load_state_dict(self.average.model.state_dict())


trainer_bug(
    BUGS,
    "resumed from the average",
    area="optimizer",
    what="The averaged weights are taken for the model's own when a run is resumed.",
    gates=("repeat",),
    causes=("model is not saved or loaded",),
    seen=(
        "Megvii-BaseDetection/YOLOX#1318",
        "atomistic-machine-learning/schnetpack#785",
    ),
    kind="task_aligned",
    base={"SERIATIM__SOLVER__EMA_DECAY": 0.9},
)(ResumesFromTheAverage)


@trainer_bug(
    BUGS,
    "average swapped in and not back",
    area="optimizer",
    what="Evaluation copies the average into the model, and training goes on from there.",
    gates=("repeat",),
    causes=("not swapped back",),
    seen=(
        "PKU-YuanGroup/Open-Sora-Plan#186",
        "harubaru/waifu-diffusion#31",
    ),
    kind="task_aligned",
    base={"SERIATIM__SOLVER__EMA_DECAY": 0.9},
)
class NotSwappedBack(Trainer):
    @classmethod
    def test(cls, cfg, model, evaluators=None):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.99)  # what another set of weights amounts to
        return super().test(cfg, model, evaluators)


# Checkpoints and resuming


@trainer_bug(
    BUGS,
    "sampler position lost",
    area="checkpoint",
    what="A resumed run starts the data anew: the last images of an epoch are never seen.",
    gates=("repeat",),
    causes=("sampler takes other images",),
    seen=(
        "modelscope/ms-swift#10050",
        "mozilla/DeepSpeech#611",
    ),
    kind="retinanet",
)
class StartsTheDataAnew(Trainer):
    def resume_or_load(self, resume=True):
        super().resume_or_load(resume)
        self._trainer.data_loader.start = 0


@trainer_bug(
    BUGS,
    "optimizer state lost",
    area="checkpoint",
    what="The optimizer's moments are not restored.",
    gates=("repeat",),
    causes=("optimizer state",),
    seen=(
        "facebookresearch/detectron2#4110",
        "zylo117/Yet-Another-EfficientDet-Pytorch#269",
    ),
    kind="faster_rcnn",
)
class ForgetsMoments(Trainer):
    def load_state_dict(self, state):
        fresh = self._trainer.state_dict()["optimizer"]
        super().load_state_dict({**state, "_trainer": {**state["_trainer"], "optimizer": fresh}})


@trainer_bug(
    BUGS,
    "schedule lost",
    area="checkpoint",
    what="The schedule starts anew in a resumed run, with its warm-up.",
    gates=("repeat",),
    causes=("scheduler state",),
    seen=(
        "lightly-ai/lightly-train#301",
        "YehLi/xmodaler#15",
    ),
    kind="task_aligned",
)
class ForgetsTheSchedule(Trainer):
    def load_state_dict(self, state):
        hooks = {k: v for k, v in state.get("hooks", {}).items() if k != "LRScheduler"}
        super().load_state_dict({**state, "hooks": hooks})


@trainer_bug(
    BUGS,
    "loss normaliser lost",
    area="checkpoint",
    what="RetinaNet's running normaliser is no part of its state_dict.",
    gates=("repeat",),
    causes=("plain number of a module",),
    kind="retinanet",
)
class ForgetsTheNormaliser(Trainer):
    def load_state_dict(self, state):
        processes = [{**process, "plain": {}} for process in state["processes"]]
        super().load_state_dict({**state, "processes": processes})


@trainer_bug(
    BUGS,
    "generators not restored",
    area="checkpoint",
    what="Random generators start from the seed again, so that drop path repeats itself.",
    gates=("repeat",),
    causes=("generators are not saved",),
    kind="task_aligned",
    base={"MODEL__TIMM__DROP_PATH": 0.5},
)
class ForgetsTheGenerators(Trainer):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        self._rng_to_restore = None


@trainer_bug(
    BUGS,
    "step repeated on resume",
    area="checkpoint",
    what="A resumed run does the last step of the checkpoint again.",
    gates=("repeat",),
    causes=("iteration is",),
    kind="faster_rcnn",
)
class RepeatsAStep(Trainer):
    def resume_or_load(self, resume=True):
        super().resume_or_load(resume)
        if resume:
            self.start_iter -= 1
            self._trainer.data_loader.start = self.start_iter


@trainer_bug(
    BUGS,
    "buffers not saved",
    area="checkpoint",
    what="Parameters alone are saved: BatchNorm's statistics are lost.",
    gates=("repeat",),
    causes=("model is not saved or loaded as a whole",),
    kind="task_aligned",
)
class LosesBuffers(Trainer):
    def resume_or_load(self, resume=True):
        super().resume_or_load(resume)
        if resume:
            for module in self.bare_model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.reset_running_stats()


@model_bug(
    BUGS,
    "pretrained weights overwritten",
    area="checkpoint",
    what="The backbone is initialised once more after its weights were loaded.",
    gates=("gradients",),
    causes=("overwrites",),
    kind="task_aligned",
    base={
        "INPUT__FORMAT": "RGB",
        "MODEL__TIMM__NAME": "tf_efficientnet_lite0",
        "MODEL__TIMM__WEIGHTS": "package",
    },
)
def _(model: nn.Module) -> None:
    for module in model.backbone.bottom_up.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()


@trainer_bug(
    BUGS,
    "pretrained weights under another prefix",
    area="checkpoint",
    what="Names in the file have a prefix, and strict=False loads nothing, without a word.",
    gates=("gradients",),
    causes=("does not load them",),
    seen=("torchgeo/torchgeo#4036", "facebookresearch/moco-v3#30"),
    kind="retinanet",
    base={
        "INPUT__FORMAT": "RGB",
        "MODEL__TIMM__NAME": "tf_efficientnet_lite0",
        "MODEL__TIMM__WEIGHTS": "package",
    },
)
class WrongPrefix(Trainer):
    @classmethod
    def build_model(cls, cfg):
        state = super().build_model(cfg).backbone.bottom_up.state_dict()
        bare = cfg.clone()
        bare.defrost()
        bare.MODEL.TIMM.WEIGHTS = ""
        model = super().build_model(bare)
        model.backbone.bottom_up.load_state_dict(
            {f"module.{name}": value for name, value in state.items()}, strict=False
        )
        return model


# Evaluation in the middle of training


class StaysInEvaluationMode(Trainer):
    @classmethod
    def test(cls, cfg, model, evaluators=None):
        results = super().test(cfg, model, evaluators)
        model.eval()
        return results


trainer_bug(
    BUGS,
    "evaluation mode stays",
    area="evaluation",
    what="After the first evaluation the model trains in evaluation mode.",
    gates=("repeat",),
    causes=("model.eval() without going back",),
    seen=(
        "wkentaro/pytorch-fcn#57",
        "ermongroup/ncsn#2",
        "webis-de/small-text#40",
    ),
    kind="faster_rcnn",
)(StaysInEvaluationMode)


class EvaluatesInTrainingMode(Trainer):
    @classmethod
    def test(cls, cfg, model, evaluators=None):
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        handles = [m.register_forward_pre_hook(lambda m, inputs: m.train() and None) for m in norms]
        try:
            return super().test(cfg, model, evaluators)
        finally:
            for handle in handles:
                handle.remove()


trainer_bug(
    BUGS,
    "statistics move in evaluation",
    area="evaluation",
    what="BatchNorm is in training mode while the model is evaluated: test images leak into it.",
    gates=("repeat",),
    causes=("statistics move",),
    kind="retinanet",
)(EvaluatesInTrainingMode)
