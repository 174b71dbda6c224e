"""One step of training: micro-batches, mixed precision, clipping, and a stop on NaN."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dataset_tools.errors import InputError
from seriatim.engine.state import preserve_rng

Clipper = Callable[[list[nn.Parameter]], None]


class NonFiniteError(InputError, FloatingPointError):
    """A loss or a gradient became NaN or infinite; the message names the images of the batch."""


class TrainLoader:
    """The training batches from `start` on; the loader is built when the first is asked for.

    Args:
        build: takes the index of the first batch and gives an iterable of batches.
    """

    def __init__(self, build: Callable[[int], Iterable[list[dict[str, Any]]]]) -> None:
        self.start = 0
        self._build = build

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        # A DataLoader draws its workers' seed from torch's generator when its iterator is made. A
        # resumed run makes one iterator more than an unbroken run, and must not draw more for it.
        with preserve_rng():
            batches = iter(self._build(self.start))
            first = next(batches)
        yield first
        yield from batches


class TrainStep(SimpleTrainer):
    """A SimpleTrainer that averages over micro-batches, in mixed precision on any device.

    One iteration is one step of the optimizer: `accumulate` batches are drawn from the loader, each
    of IMS_PER_BATCH images over all processes, and their losses are averaged.

    Args:
        precision: torch.float32, bfloat16, or float16 with loss scaling. The weights are float32.
        accumulate: batches per step of the optimizer.
        clip: changes the gradients in place, after they are unscaled and averaged over processes.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
        *,
        precision: torch.dtype = torch.float32,
        accumulate: int = 1,
        clip: Clipper | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.precision = precision
        self.accumulate = accumulate
        self.grad_scaler = torch.amp.GradScaler("cuda", enabled=precision == torch.float16)
        self.images_last_step = 0  # over all processes
        # What the last step saw in this process: its batches, each with its total loss.
        self.seen: list[tuple[list[dict[str, Any]], torch.Tensor | None]] = []
        self._clip = clip
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._device_type = self._parameters[0].device.type

    def run_step(self) -> None:
        """Draw the batches, run the model forwards and backwards, clip, step, record."""
        if not self.model.training:
            raise RuntimeError("the model was left in evaluation mode: some hook must put it back")
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, torch.Tensor] = {}
        self.seen = []
        data_time, images = 0.0, 0
        for index in range(self.accumulate):
            start = time.perf_counter()
            batch = next(self._data_loader_iter)
            data_time += time.perf_counter() - start
            images += len(batch)
            self.seen.append((batch, None))
            with self._reduce_gradients(last=index == self.accumulate - 1):
                losses = self._finite_or_told(batch)
                total = sum(losses.values())
                self.seen[-1] = (batch, total.detach())
                if not torch.isfinite(total.detach()):
                    raise NonFiniteError(self._explain(losses, batch))
                self.grad_scaler.scale(total / self.accumulate).backward()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach().float() / self.accumulate
        norm = self._finish_gradients()
        self.images_last_step = images * comm.get_world_size()
        self._record(sums, data_time, norm)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def compute_losses(
        self, model: nn.Module, batch: list[dict[str, Any]]
    ) -> dict[str, torch.Tensor]:
        """The loss dict that `model` gives for `batch`, in this step's precision."""
        # torch.jit's executor runs a scripted function (fvcore's focal loss, which RetinaNet and
        # FCOS use) a few times before it optimises it, and then rounds differently: a resumed run
        # would differ from an unbroken one in the last bit.
        autocast = torch.autocast(
            self._device_type, self.precision, enabled=self.precision != torch.float32
        )
        with autocast, torch.jit.optimized_execution(False):
            losses = model(batch)
        return losses if isinstance(losses, dict) else {"total_loss": losses}

    def _finite_or_told(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """As `compute_losses`; where the model itself stops at NaN, the images are named too."""
        try:
            return self.compute_losses(self.model, batch)
        except FloatingPointError as error:
            raise NonFiniteError(
                f"The model stopped at iteration {self.iter}: {error} {self._advice(batch)}"
            ) from error

    def _reduce_gradients(self, last: bool):
        """Processes exchange gradients once per step, with the last of its micro-batches."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _finish_gradients(self) -> float:
        """Unscale, measure and clip the gradients; the norm over all of them before clipping."""
        self.grad_scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0
        finite = norm < float("inf")  # False for NaN too
        if (
            not finite and not self.grad_scaler.is_enabled()
        ):  # the scaler skips such a step, and halves the scale
            raise NonFiniteError(
                f"The gradient became {norm} at iteration {self.iter} although the loss is finite."
                f" {self._advice([image for batch, _ in self.seen for image in batch])}"
            )
        if self._clip is not None:
            self._clip(self._parameters)
        return norm

    def _record(self, losses: dict[str, torch.Tensor], data_time: float, norm: float) -> None:
        """Put the means over processes into the event storage."""
        values = dict(losses)
        device = next(iter(losses.values())).device
        values["data_time"] = torch.tensor(data_time, device=device)
        values = {k: v.item() for k, v in comm.reduce_dict(values).items()}
        if not comm.is_main_process():
            return
        storage = get_event_storage()
        storage.put_scalar("data_time", values.pop("data_time"))
        storage.put_scalar("total_loss", sum(values.values()))
        storage.put_scalar("gradient_norm", norm)
        if len(values) > 1:
            storage.put_scalars(**values)

    def _explain(self, losses: dict[str, torch.Tensor], batch: list[dict[str, Any]]) -> str:
        parts = ", ".join(f"{name} {loss.item():.4g}" for name, loss in losses.items())
        return f"The loss is not finite at iteration {self.iter}: {parts}. {self._advice(batch)}"

    def _advice(self, images: list[dict[str, Any]]) -> str:
        names = ", ".join(
            f"{x.get('image_id', '?')} ({x.get('file_name', 'no file')})" for x in images
        )
        return (
            f"Images of the batch: {names}. The likeliest causes: a learning rate that is too high"
            " or a warm-up that is too short (SOLVER.BASE_LR, SOLVER.WARMUP_ITERS), no clipping"
            " (SOLVER.CLIP_GRADIENTS.ENABLED True), or a degenerate box in one of these images"
            " (`python -m dataset_tools check`)."
        )

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if state.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state["grad_scaler"])
        self._match_memory_format()

    def _match_memory_format(self) -> None:
        """Lay the optimizer's state out like its parameters, as fused kernels take for granted."""
        for parameter, state in self.optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
