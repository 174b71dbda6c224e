"""Held out, new: bugs of optimizers, schedules and checkpoints that no gate had seen before."""

from __future__ import annotations

import torch
from torch import nn

from seriatim.data.loader import build_train_loader
from seriatim.engine.trainer import Trainer
from tests.bug_zoo.planting import model_bug, trainer_bug
from tests.bug_zoo.registry import Bug

BUGS: list[Bug] = []
LITE0 = {
    "INPUT__FORMAT": "RGB",
    "MODEL__TIMM__NAME": "tf_efficientnet_lite0",
    "MODEL__TIMM__WEIGHTS": "package",
}

# Optimizers


@trainer_bug(
    BUGS,
    "betas exchanged",
    area="optimizer",
    what="AdamW gets betas of (0.999, 0.9): it averages a thousand steps, and divides by ten.",
    gates=("gradients",),
    causes=("beta",),
    kind="retinanet",
)
class BetasExchanged(Trainer):
    @classmethod
    def build_optimizer(cls, cfg, model):
        return torch.optim.AdamW(model.parameters(), lr=cfg.SOLVER.BASE_LR, betas=(0.999, 0.9))


BUGS.append(
    Bug(
        "momentum of 0.9999",
        area="optimizer",
        what="One 9 too many: SGD's rate is in effect ten thousand times BASE_LR.",
        gates=("gradients",),
        causes=("MOMENTUM",),
        kind="faster_rcnn",
        base={"SERIATIM__SOLVER__OPTIMIZER": "SGD"},
        changes={"SOLVER__MOMENTUM": 0.9999},
    )
)


@trainer_bug(
    BUGS,
    "nine of ten steps are skipped",
    area="optimizer",
    what="The step is taken every tenth time, as for accumulation, but gradients are not kept.",
    gates=("gradients",),
    causes=("skip", "before the step", "does not step", "not in every"),
    kind="task_aligned",
)
class SkipsSteps(Trainer):
    def __init__(self, cfg):
        super().__init__(cfg)
        step, self.calls = self.optimizer.step, 0

        def every_tenth(*arguments):
            self.calls += 1
            return step(*arguments) if self.calls % 10 == 0 else None

        self.optimizer.step = every_tenth


@trainer_bug(
    BUGS,
    "class layer replaced after the optimizer",
    area="optimizer",
    what="A new class layer takes the old one's place when the optimizer has been built.",
    gates=("gradients",),
    causes=("optimizer leaves them out", "another copy"),
    kind="retinanet",
    seen=("ifzhang/FairMOT#125", "huggingface/setfit#271"),
)
class ReplacedTooLate(Trainer):
    def __init__(self, cfg):
        super().__init__(cfg)
        old = self.bare_model.head.cls_score
        new = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1)
        nn.init.normal_(new.weight, std=0.01)
        nn.init.constant_(new.bias, -4.6)
        self.bare_model.head.cls_score = new


@trainer_bug(
    BUGS,
    "box loss left out of the sum",
    area="optimizer",
    what="A trainer of one's own adds up the losses by name, and one name is wrong.",
    gates=("gradients",),
    causes=("no gradient", "left out", "not used", "leaves out", "detached"),
    kind="retinanet",
)
class OneLossAlone(Trainer):
    def __init__(self, cfg):
        super().__init__(cfg)
        compute = self._trainer.compute_losses
        self._trainer.compute_losses = lambda model, batch: {
            name: loss if "cls" in name else loss.detach()
            for name, loss in compute(model, batch).items()
        }


@trainer_bug(
    BUGS,
    "rates of the groups exchanged",
    area="optimizer",
    what="The pretrained backbone gets the head's rate, the head the backbone's hundredth of it.",
    gates=("gradients",),
    causes=("too low", "rate", "MULTIPLIER"),
    kind="task_aligned",
)
class HeadIsSlow(Trainer):
    @classmethod
    def build_optimizer(cls, cfg, model):
        rate = cfg.SOLVER.BASE_LR
        return torch.optim.AdamW(
            [
                {"params": model.backbone.parameters(), "lr": rate},
                {"params": model.head.parameters(), "lr": rate * 1e-5},
            ],
            lr=rate,
        )


BUGS.append(
    Bug(
        "average that never forgets",
        area="optimizer",
        what="A decay made for a million steps: after 200 the average is still the start.",
        gates=("gradients",),
        causes=("EMA_DECAY",),
        kind="task_aligned",
        base={"SOLVER__MAX_ITER": 200},
        changes={"SERIATIM__SOLVER": {"EMA_DECAY": 0.99999, "EMA_WARMUP": 1, "OPTIMIZER": "AdamW"}},
        seen=("happyharrycn/actionformer_release#103",),
    )
)


@trainer_bug(
    BUGS,
    "gradients of the backbone halved each step",
    area="optimizer",
    what="A hook that scales gradients is registered once a step, and its effects multiply.",
    gates=("gradients",),
    causes=("hook", "falls", "vanish", "from step to step"),
    kind="faster_rcnn",
)
class HooksPileUp(Trainer):
    def run_step(self):
        for parameter in self.bare_model.backbone.parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient: gradient * 0.1)
        super().run_step()


# Schedules


BUGS.append(
    Bug(
        "rate grows at the steps",
        area="schedule",
        what="GAMMA is 10 where it was meant as a divisor: the rate grows tenfold at each step.",
        gates=("gradients",),
        causes=("GAMMA",),
        kind="retinanet",
        base={"SOLVER__MAX_ITER": 200, "SOLVER__STEPS": [120, 160]},
        changes={"SOLVER__GAMMA": 10.0},
    )
)


@trainer_bug(
    BUGS,
    "rate is zero after a tenth",
    area="schedule",
    what="The schedule ends at a tenth of the training: T_max was given the steps of warm-up.",
    gates=("gradients",),
    causes=("zero too early",),
    kind="task_aligned",
    base={"SOLVER__MAX_ITER": 200},
    seen=("lucidrains/imagen-pytorch#71",),
)
class EndsEarly(Trainer):
    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        end = cfg.SOLVER.MAX_ITER / 10
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / end))


BUGS.append(
    Bug(
        "warm-up begins at a thousand times the rate",
        area="schedule",
        what="WARMUP_FACTOR is given as a divisor: the first step is a thousand times too large.",
        gates=("gradients",),
        causes=("WARMUP_FACTOR", "warm-up"),
        kind="faster_rcnn",
        changes={"SOLVER__WARMUP_FACTOR": 1000.0},
        seen=("TakuyaShintate/tsts#76",),
    )
)


@trainer_bug(
    BUGS,
    "rate set back by the optimizer",
    area="schedule",
    what="The schedule was built for another optimizer: the one that steps keeps its first rate.",
    gates=("gradients", "repeat"),
    causes=("schedule", "another optimizer"),
    kind="retinanet",
    base={"SOLVER__MAX_ITER": 200},
)
class SchedulesACopy(Trainer):
    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        copy = torch.optim.SGD([p for g in optimizer.param_groups for p in g["params"]], lr=0.001)
        return super().build_lr_scheduler(cfg, copy)


# Checkpoints


@model_bug(
    BUGS,
    "every second tensor of the weights is skipped",
    area="checkpoint",
    what="Tensors whose names changed are left random, and nothing is said.",
    gates=("gradients",),
    causes=("does not load", "overwrites", "not loaded"),
    kind="task_aligned",
    base=LITE0,
    seen=("Blaizzy/mlx-audio#902", "ScrollPrize/villa#1475"),
)
def _(model: nn.Module) -> None:
    convolutions = [m for m in model.backbone.bottom_up.modules() if isinstance(m, nn.Conv2d)]
    for module in convolutions[::2]:
        module.reset_parameters()


BUGS.append(
    Bug(
        "best is the lowest AP",
        area="checkpoint",
        what="The best checkpoint is that of the smallest value, as it is right for losses.",
        gates=("oracle",),
        causes=("BEST_MODE",),
        kind="retinanet",
        changes={"SERIATIM__HOOKS__BEST_MODE": "min"},
        seen=("torchgeo/torchgeo#1226",),
    )
)


@trainer_bug(
    BUGS,
    "schedule counted twice after resuming",
    area="checkpoint",
    what="A resumed run adds the steps so far to a schedule that knows them already.",
    gates=("repeat",),
    causes=("scheduler state", "schedule"),
    kind="retinanet",
    seen=("THUDM/slime#1546",),
)
class CountsTwice(Trainer):
    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.MAX_ITER *= 4  # Detectron2's schedules end with an error
        return super().build_lr_scheduler(cfg, optimizer)

    def resume_or_load(self, resume=True):
        super().resume_or_load(resume)
        if resume:
            self.scheduler.last_epoch += self.start_iter


@trainer_bug(
    BUGS,
    "moments of other parameters",
    area="checkpoint",
    what="Parameters are listed in another order when the optimizer's state is loaded.",
    gates=("repeat",),
    causes=("optimizer state",),
    kind="faster_rcnn",
    seen=("pytorch/pytorch#1489", "pytorch/pytorch#6031"),
)
class MomentsExchanged(Trainer):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        found: dict[torch.Size, list] = {}
        for parameter, moments in self.optimizer.state.items():
            found.setdefault(parameter.shape, []).append(moments)
        for same in found.values():
            if len(same) > 1:
                first, second = same[0]["exp_avg"], same[1]["exp_avg"]
                kept = first.clone()
                first.copy_(second)
                second.copy_(kept)


@trainer_bug(
    BUGS,
    "another order of images after resuming",
    area="checkpoint",
    what="The seed of the order is drawn anew when a run is resumed.",
    gates=("repeat",),
    causes=("sampler takes other images",),
    kind="task_aligned",
)
class OtherOrder(Trainer):
    @classmethod
    def build_train_loader(cls, cfg, start_iteration=0):
        mapper = cls.build_mapper(cfg, is_train=True)
        seed = cfg.SEED + start_iteration
        return build_train_loader(cfg, mapper, start_iteration, seed=seed)


@trainer_bug(
    BUGS,
    "weights saved in half precision",
    area="checkpoint",
    what="A checkpoint holds float16, and a resumed run goes on from rounded weights.",
    gates=("repeat",),
    causes=("model is not saved or loaded as a whole", "precision"),
    kind="retinanet",
)
class HalfOfTheBits(Trainer):
    def resume_or_load(self, resume=True):
        super().resume_or_load(resume)
        if resume:
            with torch.no_grad():
                for parameter in self.bare_model.parameters():
                    parameter.copy_(parameter.half().float())
