"""Start the processes of a distributed run: CUDA with NCCL, CPU with gloo, or under torchrun."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import wait
from typing import Any

from dataset_tools.errors import (
    EXIT_BAD_INPUT,
    EXIT_GATE_FAILED,
    EXIT_INTERRUPTED,
    GateFailed,
    InputError,
    run,
)

TIMEOUT = timedelta(minutes=30)
# When one process has failed, the others get so many seconds to fail with their own message.
GRACE_SECONDS = 5.0


def launch(
    main: Callable[..., int | None],
    num_processes: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: Sequence[Any] = (),
) -> int:
    """Call `main(*args)` in `num_processes` processes on each of `num_machines` machines.

    Detectron2's own `launch` asserts CUDA and NCCL in v0.6. Here processes talk through NCCL where
    CUDA is available, one GPU each, and through gloo elsewhere. Under `torchrun` nothing is
    started: this process joins the group that its environment describes. SIGINT and SIGTERM are
    passed on to the processes, which stop at the end of a step.

    Returns:
        the exit code of process 0 of this machine.

    Raises:
        InputError, GateFailed: what a process raised, once.
    """
    if under_torchrun():
        return _join(
            int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]), "env://", main, args
        )
    if num_processes * num_machines == 1:
        return main(*args) or 0
    if dist_url == "auto":
        if num_machines > 1:
            raise InputError(
                "Several machines need --dist-url tcp://HOST:PORT, the address of machine 0."
            )
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    return _spawn(main, num_processes, num_machines, machine_rank, dist_url, args)


def under_torchrun() -> bool:
    """Whether torchrun has started this process, as one of several perhaps."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def alone() -> Iterator[None]:
    """Under torchrun: what the body does is no part of the group that the environment describes."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
    hidden = (
        {k: v for k, v in os.environ.items() if k.startswith(names)} if under_torchrun() else {}
    )
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ |= hidden


def _spawn(
    main: Callable[..., int | None],
    num_processes: int,
    num_machines: int,
    machine_rank: int,
    dist_url: str,
    args: Sequence[Any],
) -> int:
    import torch.multiprocessing as mp

    context = mp.get_context("spawn")
    complaints = context.SimpleQueue()
    layout = (num_processes, num_machines, machine_rank, dist_url)
    processes = [
        context.Process(target=_process, args=(rank, layout, complaints, main, args))
        for rank in range(num_processes)
    ]
    for process in processes:
        process.start()
    _wait(processes)
    failures = [p.exitcode for p in processes if p.exitcode]
    if not complaints.empty():
        kind, message = complaints.get()
        raise (GateFailed if kind == EXIT_GATE_FAILED else InputError)(message)
    # A process that was ended because another failed has a negative code: the other's says more.
    return next((code for code in failures if code > 0), 1 if failures else 0)


def _wait(processes: list[Any]) -> None:
    """Until all have ended. Signals are passed on; when one process fails the others are ended."""

    def pass_on(signum: int, frame: Any) -> None:
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    previous = {s: signal.signal(s, pass_on) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        deadline = None
        while alive := [p for p in processes if p.is_alive()]:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            wait([p.sentinel for p in alive], remaining)
            if deadline is None and any(p.exitcode for p in processes):
                deadline = time.monotonic() + GRACE_SECONDS
            elif deadline is not None and time.monotonic() >= deadline:
                for process in alive:
                    process.kill()
        for process in processes:
            process.join()
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _process(
    local_rank: int,
    layout: tuple[int, int, int, str],
    complaints: Any,
    main: Callable[..., int | None],
    args: Sequence[Any],
) -> None:
    """What a started process does. A user's mistake goes to the parent, which tells it once."""
    _end_with_parent()
    num_processes, num_machines, machine_rank, dist_url = layout
    rank = machine_rank * num_processes + local_rank
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(num_processes * num_machines)}

    def body() -> int:
        try:
            return _join(local_rank, num_processes, dist_url, main, args)
        except InputError as error:
            complaints.put((EXIT_BAD_INPUT, str(error)))
            return EXIT_BAD_INPUT
        except GateFailed as error:
            complaints.put((EXIT_GATE_FAILED, str(error)))
            return EXIT_GATE_FAILED
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED

    sys.exit(run(body))


def _end_with_parent() -> None:
    """On Linux: get SIGTERM when the parent dies, however it dies, rather than train on unseen."""
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)


def _join(
    local_rank: int,
    local_size: int,
    dist_url: str,
    main: Callable[..., int | None],
    args: Sequence[Any],
) -> int:
    """Join the process group, call `main`, leave the group."""
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        if local_size > torch.cuda.device_count():
            raise InputError(
                f"{local_size} processes need as many GPUs, but this machine has"
                f" {torch.cuda.device_count()}."
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group(
        backend="nccl" if torch.cuda.is_available() else "gloo",
        init_method=dist_url,
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=TIMEOUT,
    )
    try:
        create_local_group(local_size)
        dist.barrier()
        return main(*args) or 0
    finally:
        dist.destroy_process_group()


def create_local_group(local_size: int) -> None:
    """Tell Detectron2's comm which processes share this machine.

    Upstream has `create_local_process_group` for it. In v0.6 the variable has no setter:
    Detectron2's own `launch`, whose place this module takes, assigns it just so.
    """
    import torch.distributed as dist
    from detectron2.utils import comm

    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
        return
    for first in range(0, dist.get_world_size(), local_size):
        ranks = list(range(first, first + local_size))
        group = dist.new_group(ranks)  # every process must call it for every group
        if dist.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
