"""Held out, new: bugs that show only when several processes train together."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data.distributed import DistributedSampler

from seriatim.data.loader import Loader, MappedDataset, build_train_loader
from seriatim.data.mapper import SeriatimMapper
from seriatim.engine.trainer import Trainer
from seriatim.evaluation.coco import CocoEvaluator
from seriatim.evaluation.coco_scores import ground_truth
from seriatim.testing.shapes import make_shapes
from tests.bug_zoo.bugs_inputs import AUGMENTED, trainer_with
from tests.bug_zoo.planting import trainer_bug
from tests.bug_zoo.registry import Bug

BUGS: list[Bug] = []

# Data


@trainer_bug(
    BUGS,
    "all processes see the same images",
    area="distributed",
    what="The sampler does not know the rank: every process draws the same batches.",
    gates=("repeat",),
    causes=("rank", "same images"),
    kind="retinanet",
    processes=2,
    seen=("pixeli99/SVD_Xtend#75", "SalesforceAIResearch/DiffusionDPO#15"),
)
class SameImages(Trainer):
    @classmethod
    def build_train_loader(cls, cfg, start_iteration=0):
        loader = super().build_train_loader(cfg, start_iteration)
        share = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
        loader.batch_sampler._mine = slice(0, share)
        return loader


@trainer_bug(
    BUGS,
    "processes shuffle with seeds of their own",
    area="distributed",
    what="Each process takes its part of another order: images are seen twice, others never.",
    gates=("repeat",),
    causes=("seed",),
    kind="task_aligned",
    processes=2,
    seen=("NVlabs/LongLive#71", "TensorAuto/OpenTau#501"),
)
class OwnOrder(Trainer):
    @classmethod
    def build_train_loader(cls, cfg, start_iteration=0):
        mapper = cls.build_mapper(cfg, is_train=True)
        return build_train_loader(cfg, mapper, start_iteration, seed=cfg.SEED + comm.get_rank())


class CountsItsCalls(SeriatimMapper):
    calls = 0

    def __call__(self, record):
        state = np.random.get_state()
        np.random.seed(self.calls)
        self.calls += 1
        item = super().__call__(record)
        np.random.set_state(state)
        return item


BUGS.append(
    Bug(
        "processes augment alike",
        area="distributed",
        what="Augmentations are seeded without the rank: all processes draw the same flips.",
        gates=("repeat",),
        causes=("seed", "augment"),
        kind="retinanet",
        base=AUGMENTED,
        trainer=trainer_with(CountsItsCalls),
        processes=2,
        seen=("huggingface/transformers#37932", "huggingface/accelerate#236"),
    )
)


@trainer_bug(
    BUGS,
    "the whole batch in every process",
    area="distributed",
    what="IMS_PER_BATCH is taken for the batch of a process: the rate is meant for half of it.",
    gates=("repeat",),
    causes=("IMS_PER_BATCH", "batch size"),
    kind="faster_rcnn",
    processes=2,
    seen=("pytorch/vision#1230",),
)
class WholeBatch(Trainer):
    @classmethod
    def build_train_loader(cls, cfg, start_iteration=0):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.IMS_PER_BATCH *= comm.get_world_size()
        return super().build_train_loader(cfg, start_iteration)


@trainer_bug(
    BUGS,
    "the same order in every epoch",
    area="distributed",
    what="The epoch is never told to the sampler, whose shuffle depends on it.",
    gates=("repeat", "inputs"),
    causes=("epoch", "shuffle"),
    kind="retinanet",
    processes=2,
    seen=(
        "cszn/KAIR#106",
        "NVIDIA/tacotron2#241",
        "Lightning-AI/pytorch-lightning#4509",
    ),
)
class NoSetEpoch(Trainer):
    @classmethod
    def build_train_loader(cls, cfg, start_iteration=0):
        loader = super().build_train_loader(cfg, start_iteration)

        class Same(type(loader.batch_sampler._stream)):
            def epoch(self, number):
                return super().epoch(0)

        loader.batch_sampler._stream = Same(
            **{k: getattr(loader.batch_sampler._stream, k) for k in ("repeat", "seed", "shuffle")}
        )
        return loader


# Gradients


def _losses(trainer: Trainer, change) -> None:
    compute = trainer._trainer.compute_losses
    trainer._trainer.compute_losses = lambda model, batch: change(compute, model, batch)


@trainer_bug(
    BUGS,
    "gradients summed over processes",
    area="distributed",
    what="The loss is multiplied by the number of processes, as if gradients were not averaged"
    " but divided.",
    gates=("repeat",),
    causes=("summed", "sum of"),
    kind="task_aligned",
    processes=2,
    seen=("neuralmagic/sparseml#135",),
)
class SumsGradients(Trainer):
    def __init__(self, cfg):
        super().__init__(cfg)
        _losses(
            self,
            lambda compute, model, batch: {
                k: v * comm.get_world_size() for k, v in compute(model, batch).items()
            },
        )


@trainer_bug(
    BUGS,
    "loss divided by the processes too",
    area="distributed",
    what="The loss is divided by the number of processes, and the gradients are averaged as well.",
    gates=("repeat",),
    causes=("divided",),
    kind="retinanet",
    processes=2,
    seen=("sanderwood/bgpt#5",),
)
class DividesTwice(Trainer):
    def __init__(self, cfg):
        super().__init__(cfg)
        _losses(
            self,
            lambda compute, model, batch: {
                k: v / comm.get_world_size() for k, v in compute(model, batch).items()
            },
        )


@trainer_bug(
    BUGS,
    "the wrapper is bypassed",
    area="distributed",
    what="Losses are computed by model.module: gradients are never exchanged.",
    gates=("repeat",),
    causes=("not exchanged", "not averaged", "each process"),
    kind="faster_rcnn",
    processes=2,
    seen=("kohya-ss/sd-scripts#924", "moojink/openvla-oft#160", "pairlab/SlotFormer#9"),
)
class Bypasses(Trainer):
    def __init__(self, cfg):
        super().__init__(cfg)
        _losses(
            self,
            lambda compute, model, batch: compute(
                model.module if isinstance(model, DistributedDataParallel) else model, batch
            ),
        )


@trainer_bug(
    BUGS,
    "no exchange with accumulation",
    area="distributed",
    what="The exchange is put off for every micro-batch, the last one too.",
    gates=("repeat",),
    causes=("not exchanged", "not averaged", "each process"),
    kind="retinanet",
    base={"SERIATIM__SOLVER__ACCUMULATE": 2},
    processes=2,
)
class NeverSynchronises(Trainer):
    def __init__(self, cfg):
        super().__init__(cfg)
        wrapped = isinstance(self.model, DistributedDataParallel)
        self._trainer._reduce_gradients = lambda last: (
            self.model.no_sync() if wrapped else nullcontext()
        )


@trainer_bug(
    BUGS,
    "a part of the model outside of the wrapper",
    area="distributed",
    what="The box head is called outside of the wrapper: its gradients stay with each process.",
    gates=("repeat",),
    causes=("not exchanged", "not averaged", "each process"),
    kind="faster_rcnn",
    processes=2,
    seen=("moojink/openvla-oft#160", "intel/e2eAIOK#198"),
)
class HeadOutside(Trainer):
    def __init__(self, cfg):
        super().__init__(cfg)
        if isinstance(self.model, DistributedDataParallel):
            names = [n for n, _ in self.bare_model.named_parameters() if "box_predictor" in n]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
                self.bare_model, names
            )
            self._trainer.model = DistributedDataParallel(self.bare_model, broadcast_buffers=False)


@trainer_bug(
    BUGS,
    "processes start from other weights",
    area="distributed",
    what="A head is initialised after the wrapper has made all processes equal.",
    gates=("repeat",),
    causes=("weights", "initial"),
    kind="task_aligned",
    processes=2,
)
class OtherWeights(Trainer):
    def __init__(self, cfg):
        super().__init__(cfg)
        generator = torch.Generator().manual_seed(comm.get_rank())
        with torch.no_grad():
            for parameter in self.bare_model.head.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.01, generator=generator)


# Evaluation


@trainer_bug(
    BUGS,
    "detections of the first process alone",
    area="distributed",
    what="Detections are not gathered: the score is of the first process's share.",
    gates=("repeat",),
    causes=("gather", "share"),
    kind="retinanet",
    processes=2,
    seen=("facebookresearch/dino#289",),
)
class NotGathered(Trainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return CocoEvaluator(dataset_name, cfg.OUTPUT_DIR, distributed=False)


def _test_loader(trainer, cfg, name: str, sampler_of) -> Loader:
    loader = Trainer.build_test_loader.__func__(trainer, cfg, name)
    dataset: MappedDataset = loader.dataset
    return Loader(dataset, 0, sampler=sampler_of(dataset), batch_size=1)


@trainer_bug(
    BUGS,
    "every process evaluates all images",
    area="distributed",
    what="The test loader is not shared out, and the detections of all processes are gathered.",
    gates=("repeat",),
    causes=("twice", "more than once", "all images"),
    kind="task_aligned",
    processes=2,
    seen=("huggingface/sentence-transformers#3556",),
)
class EvaluatesAll(Trainer):
    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return _test_loader(cls, cfg, dataset_name, lambda d: range(len(d)))


def seven_test_images(folder: Path) -> None:
    make_shapes(folder / "train", 32, 1, size=(64, 64))
    make_shapes(folder / "val", 7, 2, size=(64, 64))


@trainer_bug(
    BUGS,
    "test images repeated to fill up",
    area="distributed",
    what="DistributedSampler repeats images until all processes have as many.",
    gates=("repeat",),
    causes=("twice", "more than once", "repeat"),
    kind="retinanet",
    draw=seven_test_images,
    processes=2,
    seen=("roboflow/rf-detr#1507", "pytorch/pytorch#25162", "RUCAIBox/RecBole#1872"),
)
class FillsUp(Trainer):
    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        count, rank = comm.get_world_size(), comm.get_rank()
        return _test_loader(
            cls, cfg, dataset_name, lambda d: DistributedSampler(d, count, rank, shuffle=False)
        )


class MeanOfShares(CocoEvaluator):
    """Every process scores its own images; the scores are averaged."""

    def reset(self):
        super().reset()
        self._mine = set()

    def process(self, inputs, outputs):
        super().process(inputs, outputs)
        self._mine |= {given["image_id"] for given in inputs}

    def evaluate(self):
        whole = self._truth
        self._truth = _restricted(whole, self._mine)
        try:
            own = super().evaluate()
        finally:
            self._truth = whole
        shares = comm.all_gather(own)
        return {
            task: {
                name: float(np.nanmean([share[task][name] for share in shares if task in share]))
                for name in values
            }
            for task, values in own.items()
        }


def _restricted(truth, images):
    whole = truth.dataset
    return ground_truth(
        {
            **whole,
            "images": [image for image in whole["images"] if image["id"] in images],
            "annotations": [a for a in whole["annotations"] if a["image_id"] in images],
        }
    )


@trainer_bug(
    BUGS,
    "mean of the processes' scores",
    area="distributed",
    what="Each process computes AP on its own share, and the APs are averaged.",
    gates=("repeat",),
    causes=("gather", "share", "averaged"),
    kind="faster_rcnn",
    processes=2,
    seen=("modelscope/ms-swift#10091",),
)
class AveragesScores(Trainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return MeanOfShares(dataset_name, cfg.OUTPUT_DIR, distributed=False)
