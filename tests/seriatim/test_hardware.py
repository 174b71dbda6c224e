"""What "auto" becomes, and what is refused."""

import pytest
import torch

from dataset_tools.errors import InputError
from seriatim import hardware
from seriatim.hardware import choose_device, choose_memory_format, choose_precision, native_bf16


@pytest.mark.parametrize(
    ("flags", "native"),
    [({"avx2", "avx512f"}, False), ({"avx512_bf16"}, True), ({"amx_bf16"}, True), (set(), False)],
)
def test_bfloat16_is_native_where_the_processor_says_so(flags, native, monkeypatch):
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset(flags))
    assert native_bf16("cpu") is native
    expected = torch.bfloat16 if native else torch.float32
    assert choose_precision("auto", "cpu") == expected


def test_named_precisions_are_taken_as_named():
    assert choose_precision("float32", "cpu") == torch.float32
    assert choose_precision("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert choose_precision("float16", "cuda") == torch.float16


def test_float16_without_cuda_and_unknown_names_are_refused():
    with pytest.raises(InputError, match="needs a CUDA device"):
        choose_precision("float16", "cpu")
    with pytest.raises(InputError, match="'half'; it can be auto, float32"):
        choose_precision("half", "cpu")


def test_the_device_is_one_that_works():
    torch.zeros(1, device=choose_device("auto"))
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu"])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(name):
    with pytest.raises(InputError, match=r"cannot be used here: .*This machine has: .*cpu"):
        choose_device(name)


def test_memory_format():
    assert choose_memory_format("auto", "cpu") == torch.channels_last
    assert choose_memory_format("off", "cpu") == torch.contiguous_format
    assert choose_memory_format("on", "mps") == torch.channels_last
    with pytest.raises(InputError, match="auto, on or off"):
        choose_memory_format("maybe", "cpu")
