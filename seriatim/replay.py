"""`python -m seriatim.replay DUMP`: run a step that was not finite again, and say where it began.

Training writes the dump to OUTPUT_DIR/watch when a loss or a gradient becomes NaN or infinite.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools import errors
from dataset_tools.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from seriatim.engine.dump import Dump
    from seriatim.engine.trainer import Trainer

EXAMPLES = """\
examples:
  python -m seriatim.replay output/bccd/watch/step_0000123.pth
  python -m seriatim.replay DUMP --trainer my_project.train:Trainer

The exit code is 0 if the step failed again as it did then, and 1 if it did not.
"""


@dataclass
class Replay:
    """What came of a step that was run again.

    Attributes:
        lines: what was found, from the weights and inputs to the gradients.
        failed: whether a loss or a gradient was not finite, or the model stopped, as it did then.
        losses: total of each batch that was run.
    """

    lines: list[str] = field(default_factory=list)
    failed: bool = False
    losses: list[float] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m seriatim.replay",
        description="Run a training step that was not finite again, and say where it began.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dump", type=Path, help="OUTPUT_DIR/watch/step_NNNNNNN.pth")
    parser.add_argument(
        "--trainer",
        metavar="MODULE:CLASS",
        default="seriatim.engine.trainer:Trainer",
        help="the trainer of your project; its module is imported, and so registers what is yours",
    )
    args = parser.parse_args()
    from seriatim.engine.dump import Dump

    dump = Dump.load(args.dump)
    print(f"step {dump.iteration} ended with: {dump.error}\n")
    found = replay(dump, _trainer_class(args.trainer))
    print("\n".join(found.lines))
    return 0 if found.failed else 1


def replay(dump: Dump, trainer_class: type[Trainer] | None = None) -> Replay:
    """Run the step of `dump` again, forwards and backwards, and look where NaN or infinity began.

    Raises:
        InputError: the model cannot be built or does not fit the weights of the dump.
    """
    import torch
    from detectron2.utils.events import EventStorage

    threads = torch.get_num_threads()
    torch.set_num_threads(dump.threads)
    try:
        trainer = restore(dump, trainer_class)
        with EventStorage(dump.iteration) as storage:
            storage.iter = dump.iteration
            return _run(dump, trainer)
    finally:
        torch.set_num_threads(threads)


def restore(dump: Dump, trainer_class: type[Trainer] | None = None) -> Trainer:
    """A trainer just before the step of `dump`: weights, optimizer, plain numbers, generators.

    Raises:
        InputError: the model cannot be built or does not fit the weights of the dump.
    """
    from seriatim.engine.state import set_plain_numbers, set_rng_state
    from seriatim.engine.trainer import Trainer

    trainer = (trainer_class or Trainer)(config_of(dump))
    try:
        trainer.bare_model.load_state_dict(dump.model)
    except RuntimeError as error:
        raise InputError(
            "The model that this code builds is not the one of the dump. A project's own model"
            f" needs --trainer MODULE:CLASS. {error}"
        ) from None
    trainer.train_step.load_state_dict(dump.train_step)
    set_plain_numbers(trainer.bare_model, dump.plain)
    trainer.iter = trainer.train_step.iter = dump.iteration
    trainer.model.train()
    set_rng_state(dump.rng)
    return trainer


def config_of(dump: Dump) -> Any:
    """The frozen config of a dump, on the processor where its device is not here."""
    import torch
    import yaml
    from detectron2.config import CfgNode

    from seriatim.config import get_cfg

    cfg = get_cfg()
    cfg.set_new_allowed(True)  # keys of a project's own
    cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(dump.config)))
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    return cfg


def _run(dump: Dump, trainer: Trainer) -> Replay:
    found = Replay()
    found.lines += _unsound_weights(trainer.bare_model) + _unsound_inputs(dump)
    step = trainer.train_step
    step.optimizer.zero_grad(set_to_none=True)
    with _trail(trainer.bare_model) as trail:
        for batch in dump.batches:
            try:
                losses = trainer.compute_losses(trainer.model, batch)
            except FloatingPointError as error:
                found.failed = True
                found.lines += [*trail.forward, f"the model stopped: {error}"]
                break
            total = sum(losses.values())
            found.losses.append(float(total.detach()))
            bad = [f"{k} {float(v.detach())}" for k, v in losses.items() if not _finite(v)]
            if bad or not _finite(total):
                found.failed = True
                found.lines += _explain_losses(trail, bad, losses)
                break
            step.grad_scaler.scale(total / step.accumulate).backward()
        else:
            _explain_gradients(trainer, trail, found)
    found.lines.append(_compared(dump, found))
    return found


@dataclass
class _Trail:
    """The first output of a module that is not finite, and the first gradient, in words."""

    forward: list[str] = field(default_factory=list)
    backward: list[str] = field(default_factory=list)


@contextmanager
def _trail(model: nn.Module):
    """Follow the outputs of all modules forwards and their gradients backwards."""
    from seriatim.gates.observe import tensors_in

    trail = _Trail()

    def look_back(name: str) -> Callable[[torch.Tensor], None]:
        def look(gradient: torch.Tensor) -> None:
            if not trail.backward and not _finite(gradient):
                trail.backward.append(
                    f"going backwards, the gradient of {name} is the first that is not finite"
                    f" ({_describe(gradient)})"
                )

        return look

    def look_forward(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            for tensor in tensors_in(output):
                if not trail.forward and not _finite(tensor):
                    given = [_describe(t) for t in tensors_in(list(inputs))]
                    trail.forward.append(
                        f"the first module whose output is not finite is {name}"
                        f" ({type(module).__name__}): {_describe(tensor)}; its input:"
                        f" {', '.join(given) or 'no tensor'}"
                    )
                if tensor.requires_grad:
                    tensor.register_hook(look_back(f"the output of {name}"))

        return look

    handles = [
        module.register_forward_hook(look_forward(name or "the model"))
        for name, module in model.named_modules()
    ]
    handles += [
        parameter.register_hook(look_back(f"the weight {name}"))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    try:
        yield trail
    finally:
        for handle in handles:
            handle.remove()


def _unsound_weights(model: nn.Module) -> list[str]:
    bad = [name for name, tensor in model.state_dict().items() if not _finite(tensor)]
    if not bad:
        return []
    return [
        f"before the step {len(bad)} weights or buffers were not finite already, {bad[0]} first:"
        " the fault lies in an earlier step (a rate that is too high) or in the weights loaded"
    ]


def _unsound_inputs(dump: Dump) -> list[str]:
    from detectron2.structures import Boxes

    lines = []
    for batch in dump.batches:
        for item in batch:
            name = f"{item.get('file_name', 'an input')}"
            if not _finite(item["image"]):
                lines.append(f"the image of {name} is not finite: {_describe(item['image'])}")
            boxes = item["instances"].get("gt_boxes") if _has_boxes(item) else None
            if boxes is None:
                continue
            if not _finite(boxes.tensor):
                lines.append(f"a box of {name} is not finite")
            elif isinstance(boxes, Boxes) and not bool(boxes.nonempty().all()):
                lines.append(f"a box of {name} has no area")
    return lines


def _has_boxes(item: dict[str, Any]) -> bool:
    return "instances" in item and item["instances"].has("gt_boxes")


def _explain_losses(trail: _Trail, bad: list[str], losses: dict[str, Any]) -> list[str]:
    sound = [f"{k} {float(v.detach()):.4g}" for k, v in losses.items() if _finite(v)]
    lines = list(trail.forward)
    if not lines:
        lines.append("the outputs of all modules are finite: the fault is in what makes the loss")
    lines.append(f"not finite: {', '.join(bad) or 'the sum of the losses'}")
    if sound:
        lines.append(f"finite: {', '.join(sound)}")
    return lines


def _explain_gradients(trainer: Trainer, trail: _Trail, found: Replay) -> None:
    from torch.nn.utils import get_total_norm

    trainer.train_step.grad_scaler.unscale_(trainer.optimizer)
    gradients = {n: p.grad for n, p in trainer.bare_model.named_parameters() if p.grad is not None}
    bad = [name for name, gradient in gradients.items() if not _finite(gradient)]
    if bad:
        found.failed = True
        found.lines += ["the losses are finite", *trail.backward]
        found.lines.append(f"{len(bad)} of {len(gradients)} weights have no finite gradient")
    elif not _finite(get_total_norm(list(gradients.values()))):
        found.failed = True
        largest = max(gradients, key=lambda name: float(gradients[name].abs().max()))
        found.lines.append(
            f"every gradient is finite, but their norm overflows; the largest is of {largest}"
        )


def _compared(dump: Dump, found: Replay) -> str:
    import math

    then = [None if loss is None else float(loss) for loss in dump.losses]
    now = found.losses + [None] * (len(then) - len(found.losses))
    same = all(
        a == b or (a is not None and b is not None and math.isnan(a) and math.isnan(b))
        for a, b in zip(then, now, strict=True)
    )
    if not found.failed:
        return f"the step was finite this time: losses {now}, then {then}"
    return (
        "the losses are those of the training, bit for bit"
        if same
        else (f"it failed again, but the losses differ: {now}, then {then}")
    )


def _finite(tensor: torch.Tensor) -> bool:
    import torch

    return bool(torch.isfinite(tensor.detach()).all())


def _describe(tensor: torch.Tensor) -> str:
    """Shape, how many values are not finite, and the largest magnitude of the others."""
    import torch

    values = tensor.detach().float()
    finite = torch.isfinite(values)
    largest = float(values[finite].abs().max()) if bool(finite.any()) else float("nan")
    nan, infinite = int(values.isnan().sum()), int(values.isinf().sum())
    parts = [f"{nan} NaN" if nan else "", f"{infinite} infinite" if infinite else ""]
    parts.append(f"largest magnitude {largest:.3g}")
    return f"{tuple(tensor.shape)}, {', '.join(filter(None, parts))}"


def _trainer_class(path: str) -> type[Trainer]:
    module, _, name = path.partition(":")
    sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"--trainer {path}: {error}. Give the module and the class with a colon between, and"
            " start from the folder that the module is imported from."
        ) from None


if __name__ == "__main__":
    sys.exit(errors.run(main))
