from __future__ import annotations

import pytest
import torch

from genisp_model.device import choose_device, memory_errors
from pipeline.errors import TrainingError

CUDA = torch.device("cuda:1")


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "cuda:1"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might"), "cuda:1"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "cuda:1"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "cuda:1"),
        (MemoryError(), "the host"),
    ],
)
def test_too_little_memory_names_whose_and_what_for(
    error: RuntimeError | MemoryError, place: str
) -> None:
    with (
        pytest.raises(TrainingError) as raised,
        memory_errors(CUDA, "at step 3", mend="less", path="run"),
    ):
        raise error
    told = raised.value
    assert (told.message, told.mend, told.path) == (
        f"not enough memory on {place} at step 3",
        "less",
        "run",
    )
    assert told.__cause__ is error


def test_torchs_own_refusal_on_a_processor_is_known() -> None:
    with (
        pytest.raises(TrainingError, match="not enough memory on the host for a test"),
        memory_errors(torch.device("cpu"), "for a test", mend=""),
    ):
        torch.empty(1 << 50)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(CUDA, "at step 3", mend=""):
        raise RuntimeError("shapes do not fit")


def test_a_device_that_is_full_from_the_start_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "ones", full)
    with pytest.raises(TrainingError, match="not enough memory on cpu") as raised:
        choose_device("cpu", lambda _: None)
    assert "another --device" in raised.value.mend
