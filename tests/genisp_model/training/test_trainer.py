from __future__ import annotations

import csv
import math
import shutil
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from genisp_model.checkpoint import load_checkpoint, load_isp
from genisp_model.data.dataset import StoreDataset
from genisp_model.data.loader import StreamLoader
from genisp_model.detector.engine import FrozenEngine
from genisp_model.detector.frozen import FrozenDetector, load_frozen_detector
from genisp_model.isp import GenISP
from genisp_model.training import trainer as trainer_module
from genisp_model.training.records.run_folder import RunFolder
from genisp_model.training.run import train_config
from genisp_model.training.steps.precision import Precision
from genisp_model.training.steps.step import read_together
from genisp_model.training.trainer import Trainer
from pipeline.errors import DamagedStoreError, TrainingError, UsageError
from pipeline.store.keys import sidecar_key
from pipeline.store.reader import open_store
from schemas.training import Speedup, TrainConfig


@pytest.fixture
def detector() -> FrozenDetector:
    torch.manual_seed(7)
    return load_frozen_detector("sample_retinanet", weights="none")


def trainer(
    store: Path, folder: Path, detector: FrozenDetector, stop_at: int = 0, **options: Any
) -> Trainer:
    fields: dict[str, Any] = {
        "store": str(store),
        "recipe": "default",
        "epochs": 3,
        "batch_size": 2,
        "val_split": "",
        "detector": "sample_retinanet",
        "detector_weights": "none",
        "flip": 0.5,
    }
    made = Trainer(
        train_config(fields | options),
        detector,
        RunFolder(folder),
        torch.device("cpu"),
        lambda text: None,
    )
    made.stop = lambda: 0 < stop_at <= made.step
    return made


def genisp(run: Trainer) -> GenISP:
    assert isinstance(run.isp, GenISP)
    return run.isp


def test_the_detector_does_not_move_and_the_network_does(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector
) -> None:
    before = detector.state_hash()
    run = trainer(tiny_store, tmp_path, detector, epochs=1)
    start = {name: value.clone() for name, value in run.isp.state_dict().items()}
    assert run.fit()
    assert detector.state_hash() == before
    moved = [name for name, value in run.isp.state_dict().items() if (value != start[name]).any()]
    assert len(moved) == len(start)


@pytest.mark.parametrize(
    ("stopped_at", "plain"), [(1, False), (2, False), (3, False), (5, False), (3, True)]
)
def test_a_resumed_run_gives_the_losses_of_an_uninterrupted_one(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector, stopped_at: int, plain: bool
) -> None:
    made = partial(trainer, tiny_store, detector=detector, plain_detector=plain)
    whole = made(tmp_path / "whole")
    assert isinstance(whole.guide, FrozenDetector if plain else FrozenEngine)
    whole.fit()
    first = made(tmp_path / "parts", stop_at=stopped_at)
    assert not first.fit()
    second = made(tmp_path / "parts")
    second.resume(second.folder.last)
    assert second.fit()
    assert first.losses + second.losses == whole.losses
    for name, value in whole.isp.state_dict().items():
        assert torch.equal(value, second.isp.state_dict()[name])


def test_a_killed_run_redoes_the_steps_after_its_last_checkpoint(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "CHECKPOINT_EVERY", 2)
    whole = trainer(tiny_store, tmp_path / "whole", detector)
    whole.fit()
    killed = trainer(tiny_store, tmp_path / "killed", detector)

    def die() -> bool:
        if killed.step == 3:
            raise KeyboardInterrupt
        return False

    killed.stop = die
    with pytest.raises(KeyboardInterrupt):
        killed.fit()
    again = trainer(tiny_store, tmp_path / "killed", detector)
    again.resume(again.folder.last)
    assert again.step == 2
    again.fit()
    assert killed.losses[:2] + again.losses == whole.losses
    with (tmp_path / "killed" / "steps.csv").open() as file:
        logged = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    assert logged == list(enumerate(whole.losses, start=1))


def test_another_setting_is_refused_by_name(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector
) -> None:
    trainer(tiny_store, tmp_path, detector, epochs=1).fit()
    other = trainer(tiny_store, tmp_path, detector, lr=0.5, flip=0.0)
    with pytest.raises(TrainingError, match=r"flip: 0\.5 against 0\.0") as raised:
        other.resume(other.folder.last)
    assert "lr: 0.001 against 0.5" in str(raised.value)


def test_accumulated_batches_step_like_one_batch(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector
) -> None:
    once = trainer(tiny_store, tmp_path / "a", detector, limit_steps=1, flip=0.0)
    twice = trainer(
        tiny_store, tmp_path / "b", detector, limit_steps=1, batch_size=1, accumulate=2, flip=0.0
    )
    batch = next(iter(once.loader))
    window = [single for single in twice.loader if single.ids[0] in batch.ids]
    assert len(window) == 2
    a, b = once._train_step([batch]), twice._train_step(window)
    assert a.loss == pytest.approx(b.loss, rel=1e-5)
    grads = zip(once.isp.parameters(), twice.isp.parameters(), strict=True)
    for ours, theirs in grads:
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_activations_computed_twice_give_the_same_losses(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector
) -> None:
    kept = trainer(tiny_store, tmp_path / "a", detector, epochs=1)
    twice = trainer(tiny_store, tmp_path / "b", detector, epochs=1, checkpoint_activations=True)
    kept.fit()
    twice.fit()
    assert kept.losses == twice.losses


# These need a GPU: `make gpu-check` compares their numbers.
@pytest.mark.parametrize(
    "speedup", sorted(set(get_args(Speedup)) - {"fused-detector", "cuda-graph"})
)
def test_a_speedup_gives_the_same_losses_up_to_rounding(
    tiny_store: Path,
    tmp_path: Path,
    detector: FrozenDetector,
    speedup: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    # Without its code generation, which takes a minute: the rest of the compiler's path.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    before = detector.state_hash()
    plain = trainer(tiny_store, tmp_path / "a", detector, epochs=1)
    plain.fit()
    parts = tmp_path / "b"
    first = trainer(tiny_store, parts, detector, epochs=1, speedups=(speedup,), stop_at=1)
    first.fit()
    second = trainer(tiny_store, parts, detector, epochs=1, speedups=(speedup,))
    second.resume(second.folder.last)
    second.fit()
    assert first.losses + second.losses == pytest.approx(plain.losses, rel=1e-4)
    assert torch.backends.cudnn.benchmark == (speedup == "cudnn-benchmark")
    assert bool(second.optimiser.param_groups[0]["fused"]) == (speedup == "fused-adam")
    channels_last: Any = {"memory_format": torch.channels_last}
    for name, convolution in (
        ("channels-last-isp", genisp(second).shallow.conv2.weight),
        ("channels-last-detector", next(detector.parameters())),
    ):
        assert convolution.is_contiguous(**channels_last) == (speedup == name)
    assert detector.state_hash() == before
    plain.resume(second.folder.last)
    assert not plain.optimiser.param_groups[0]["fused"]


def test_what_is_fastest_this_time_is_not_deterministic(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda wanted: None)
    speedups = ("cudnn-benchmark",)
    with pytest.raises(UsageError, match="fastest this time"):
        trainer(tiny_store, tmp_path, detector, deterministic=True, speedups=speedups)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_fewer_bits_give_nearly_the_same_losses(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector, amp: str
) -> None:
    plain = trainer(tiny_store, tmp_path / "a", detector, epochs=1, limit_steps=1)
    low = trainer(tiny_store, tmp_path / "b", detector, epochs=1, limit_steps=1, amp=amp)
    plain.fit()
    low.fit()
    assert low.losses == pytest.approx(plain.losses, rel=0.01)


def test_too_little_memory_names_the_options_that_help(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tiny_store, tmp_path, detector)

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(run.guide, "losses", full)
    with pytest.raises(TrainingError, match="not enough memory") as raised:
        run.fit()
    assert "--accumulate" in raised.value.mend


def test_a_loss_that_is_no_number_stops_with_step_and_samples(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector
) -> None:
    run = trainer(tiny_store, tmp_path, detector)
    with torch.no_grad():
        genisp(run).shallow.conv3.weight.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"nan at step 1, samples DSC"):
        run.fit()


def test_only_the_batch_whose_loss_is_no_number_is_named_and_no_step_is_made(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector
) -> None:
    run = trainer(tiny_store, tmp_path, detector, batch_size=1, accumulate=2)
    sound, other = islice(run.loader, 2)
    broken = replace(other, images=torch.full_like(other.images, math.nan))
    before = [parameter.clone() for parameter in run.isp.parameters()]
    with pytest.raises(TrainingError, match=f"nan at step 1, samples {other.ids[0]}$"):
        run._train_step([sound, broken])
    for parameter, value in zip(run.isp.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what makes the host wait for numbers of a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "is_nonzero"):
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("clip_grad", [0.0, 1e-3])
@pytest.mark.parametrize("amp", [None, "fp16"])
def test_a_step_reads_from_the_device_once_and_before_the_optimiser(
    tiny_store: Path,
    tmp_path: Path,
    detector: FrozenDetector,
    monkeypatch: pytest.MonkeyPatch,
    clip_grad: float,
    amp: str | None,
) -> None:
    # The scale is what counts here: a processor takes some 30 times as long in float16.
    monkeypatch.setattr(Precision, "autocast", lambda _: nullcontext())
    options: dict[str, Any] = {"batch_size": 1, "accumulate": 2, "gray_world": 0.1}
    run = trainer(tiny_store, tmp_path, detector, amp=amp, clip_grad=clip_grad, **options)
    window = list(islice(run.loader, 2))
    run._train_step(window)  # makes what is cached
    lists: list[Tensor] = []
    lists_by_then: list[int] = []
    to_list = Tensor.tolist

    def counted(values: Tensor) -> Any:  # of a tensor on the CPU, a list takes no operation
        lists.append(values)
        return to_list(values)

    monkeypatch.setattr(Tensor, "tolist", counted)
    # torch's Adam reads its step counters, which are on the CPU whatever the device.
    monkeypatch.setattr(run.optimiser, "step", lambda: lists_by_then.append(len(lists)))
    with Reads() as reads:
        run._train_step(window)
    assert reads.count == 0
    assert len(lists) == 1
    assert lists_by_then == [1]


def test_numbers_read_together_are_those_read_one_by_one() -> None:
    kinds = (torch.float32, torch.bfloat16, torch.float64)
    scalars = [torch.rand((), dtype=kind) for kind in kinds for _ in range(5)]
    scalars.append(torch.tensor(math.nan))
    *numbers, last = read_together(scalars)
    assert numbers == [float(one) for one in scalars[:-1]]
    assert math.isnan(last)


def test_a_damaged_sample_stops_by_name_or_is_left_out_on_request(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector
) -> None:
    store = tmp_path / "damaged.zarr"
    shutil.copytree(tiny_store, store)
    victims = [path for path in store.glob("sony*/resized/c.*") if path.stat().st_size > 99]
    for path in victims:
        data = bytearray(path.read_bytes())
        data[50] ^= 2
        path.write_bytes(data)
    with pytest.raises(DamagedStoreError, match="checksum"):
        trainer(store, tmp_path / "a", detector, epochs=1).fit()
    run = trainer(store, tmp_path / "b", detector, epochs=1, skip_damaged=True)
    assert run.fit()
    assert run.loader.skipped
    assert all("DSC0" in name for name in run.loader.skipped)


def test_a_damaged_sidecar_is_left_out_on_request_as_damaged_pixels_are(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector
) -> None:
    store = tmp_path / "damaged.zarr"
    shutil.copytree(tiny_store, store)
    opened = open_store(store)
    lost = opened.ids("train")[0]
    entry = opened.entry(lost)
    (store / sidecar_key(*entry.key)).write_text("{}")
    with pytest.raises(DamagedStoreError, match=f"{lost}: the sidecar is damaged"):
        trainer(store, tmp_path / "a", detector, epochs=1).fit()
    run = trainer(store, tmp_path / "b", detector, epochs=1, skip_damaged=True)
    assert run.fit()
    assert set(run.loader.skipped) == {lost}


def test_a_split_without_boxes_or_samples_is_refused(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector
) -> None:
    with pytest.raises(UsageError, match="splits here"):
        trainer(tiny_store, tmp_path, detector, split="holdout")


def test_checkpoints_load_without_code_and_others_are_refused(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector
) -> None:
    run = trainer(tiny_store, tmp_path, detector, epochs=1)
    run.fit()
    isp, config = load_isp(run.folder.last)
    assert config == run.config
    assert not isp.training
    (tmp_path / "foreign.pt").write_bytes(b"not a checkpoint")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save(print, tmp_path / "code.pt")
    for name in ("foreign.pt", "other.pt", "code.pt", "missing.pt"):
        with pytest.raises(TrainingError, match=name):
            load_checkpoint(tmp_path / name)


def test_the_rate_falls_at_the_named_epochs(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector
) -> None:
    run = trainer(tiny_store, tmp_path, detector, epochs=3, lr=0.01, lr_steps="1,2")
    run.fit()
    with (tmp_path / "steps.csv").open() as file:
        rates = {row["epoch"]: float(row["lr"]) for row in csv.DictReader(file)}
    assert rates == pytest.approx({"1": 0.01, "2": 0.001, "3": 0.0001})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_run_that_reaches_its_limit_is_scored_and_goes_on_as_if_it_had_not(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector, limit: int
) -> None:
    """An epoch has two steps: the limits are inside, at the end, and inside of the next one."""
    options: dict[str, Any] = {"val_split": "val", "epochs": 2}
    whole = trainer(tiny_store, tmp_path / "whole", detector, **options)
    whole.fit()
    first = trainer(tiny_store, tmp_path / "parts", detector, limit_steps=limit, **options)
    assert first.fit()
    scored = rows(tmp_path / "parts" / "results.csv")
    assert int(scored[-1]["step"]) == limit
    assert load_checkpoint(first.folder.best).best == first.best < math.inf
    second = trainer(tiny_store, tmp_path / "parts", detector, **options)
    second.resume(second.folder.last)
    assert second.fit()
    assert first.losses + second.losses == whole.losses
    assert second.best == min(whole.best, first.best)
    scored = rows(tmp_path / "parts" / "results.csv")
    assert [int(row["step"]) for row in scored] == sorted({2, 4, limit})
    assert {row["epoch"] for row in scored} == {"1", "2"}


def test_overfitting_shows_one_batch_unmirrored_also_after_a_break(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    step = Trainer._train_step

    def watched(run: Trainer, window: list[Any]) -> Any:
        seen.extend(batch.images for batch in window)
        return step(run, window)

    monkeypatch.setattr(Trainer, "_train_step", watched)
    options: dict[str, Any] = {"overfit_one_batch": True, "val_split": "val", "flip": None}
    whole = trainer(tiny_store, tmp_path / "whole", detector, **options)
    whole.fit()
    assert len(whole.losses) == 6  # three epochs of two steps
    first = trainer(tiny_store, tmp_path / "parts", detector, stop_at=3, **options)
    first.fit()
    second = trainer(tiny_store, tmp_path / "parts", detector, **options)
    second.resume(second.folder.last)
    second.fit()
    assert first.losses + second.losses == whole.losses
    assert all(torch.equal(images, seen[0]) for images in seen)
    plain = StreamLoader(StoreDataset(tiny_store, split="train"), batch_size=2, seed=0)
    assert torch.equal(seen[0], next(iter(plain)).images)
    assert isinstance(whole.validation, list)
    assert len(rows(tmp_path / "whole" / "results.csv")) == 3


def test_one_batch_and_mirroring_contradict_each_other(tiny_store: Path, tmp_path: Path) -> None:
    fields = {"store": str(tiny_store), "recipe": "default", "overfit_one_batch": True}
    assert train_config(fields).flip == 0
    with pytest.raises(UsageError, match="mirrors"):
        train_config(fields | {"flip": 0.5})


def test_a_run_that_died_before_its_first_checkpoint_is_not_mixed_with_the_next(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector
) -> None:
    died = trainer(tiny_store, tmp_path, detector)

    def die() -> bool:
        raise KeyboardInterrupt

    died.stop = die
    with pytest.raises(KeyboardInterrupt):
        died.fit()
    died.folder.close()
    again = trainer(tiny_store, tmp_path, detector)
    said: list[str] = []
    again.say = said.append
    again.fit()
    assert "run.old-1" in said[0]
    assert [row["step"] for row in rows(tmp_path / "steps.csv")] == list("123456")
    assert [row["step"] for row in rows(tmp_path / "run.old-1" / "steps.csv")] == ["1"]
    events = list(tmp_path.glob("events.*"))
    assert len(events) == 1


def test_a_log_that_was_damaged_does_not_stop_a_resumed_run(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector, caplog: pytest.LogCaptureFixture
) -> None:
    first = trainer(tiny_store, tmp_path, detector, stop_at=3)
    first.fit()
    log = tmp_path / "steps.csv"
    log.write_bytes(log.read_bytes()[:-5])
    second = trainer(tiny_store, tmp_path, detector)
    second.resume(second.folder.last)
    assert "steps.csv: left out 1 lines" in caplog.text
    second.fit()
    assert [row["step"] for row in rows(log)] == list("12456")


def test_a_run_does_not_go_on_under_another_detector(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector
) -> None:
    trainer(tiny_store, tmp_path, detector, stop_at=1).fit()
    torch.manual_seed(8)
    other = load_frozen_detector("sample_retinanet", weights="none")
    second = trainer(tiny_store, tmp_path, other)
    with pytest.raises(TrainingError, match="the detector's weights"):
        second.resume(second.folder.last)


def test_a_recipe_decides_flip_seed_and_box_loss_unless_told(tiny_store: Path) -> None:
    def decided(recipe: str, **options: Any) -> tuple[float, int, str]:
        config = train_config({"store": str(tiny_store), "recipe": recipe} | options)
        return config.flip, config.seed, config.box_loss

    assert decided("default") == (0.5, 0, "smooth_l1")
    assert decided("paper") == (0.0, 0, "smooth_l1")
    assert decided("report") == (0.0, 42, "giou")
    assert decided("report", flip=0.25, seed=7, box_loss="l1") == (0.25, 7, "l1")
    assert decided("default", detector="fcos_resnet50_fpn") == (0.5, 0, "giou")
    assert decided("report", detector="ssd300_vgg16") == (0.0, 42, "smooth_l1")


def test_a_run_folder_holds_what_people_expect(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector
) -> None:
    run = trainer(tiny_store, tmp_path, detector, epochs=1, val_split="val")
    run.fit()
    run.folder.describe(run.config, {"device": "cpu"})
    run.folder.close()
    expected = {"config.json", "config.toml", "environment.json", "curves.png"}
    expected |= {"steps.csv", "results.csv"}
    assert expected <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "checkpoints" / "best.pt").exists()
    assert list((tmp_path / "pictures").glob("*.png"))
    assert list(tmp_path.glob("events.out.tfevents.*"))


SCHEDULED: dict[str, Any] = {
    "lr_schedule": "cosine",
    "warmup_steps": 3,
    "clip_grad": 0.5,
    "val_split": "val",
    "val_every": 2,
}


@pytest.mark.parametrize("stopped_at", [1, 3, 4])
def test_a_resumed_run_has_the_rates_norms_and_scores_of_an_uninterrupted_one(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector, stopped_at: int
) -> None:
    whole = trainer(tiny_store, tmp_path / "whole", detector, **SCHEDULED)
    whole.fit()
    assert not trainer(
        tiny_store, tmp_path / "parts", detector, stop_at=stopped_at, **SCHEDULED
    ).fit()
    second = trainer(tiny_store, tmp_path / "parts", detector, **SCHEDULED)
    second.resume(second.folder.last)
    assert second.fit()
    timing = ("seconds", "data_seconds")
    for table in ("steps.csv", "results.csv"):
        found, expected = (
            [
                {k: v for k, v in row.items() if k not in timing}
                for row in rows(tmp_path / run / table)
            ]
            for run in ("parts", "whole")
        )
        assert found == expected
    steps = rows(tmp_path / "whole" / "steps.csv")
    rates = [float(row["lr"]) for row in steps]
    assert rates[:3] == pytest.approx([0.001 / 3, 0.002 / 3, 0.001])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert len(set(rates[3:])) == 3


def test_a_clipped_gradient_has_the_norm_asked_for_and_the_log_the_one_before(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector
) -> None:
    norms: dict[str, Any] = {}
    for name, limit in {"free": 0.0, "loose": 1e9, "tight": 1e-3}.items():
        run = trainer(
            tiny_store, tmp_path / name, detector, clip_grad=limit, accumulate=2, limit_steps=1
        )
        result = run._train_step(list(islice(run.loader, 2)))
        gradients = [
            one.grad.double().flatten() for one in run.isp.parameters() if one.grad is not None
        ]
        norms[name] = (float(torch.cat(gradients).norm()), result.gradient_norm)
    free = norms["free"][0]
    assert norms["free"] == (free, None)
    assert norms["loose"] == (free, pytest.approx(free, rel=1e-5))
    assert norms["tight"] == (
        pytest.approx(1e-3, rel=1e-3),
        pytest.approx(free, rel=1e-5),
    )


def test_a_gradient_that_is_no_number_is_refused_before_the_step(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector
) -> None:
    """A finite loss may have an infinite gradient: clipped, it is infinity times zero."""
    run = trainer(tiny_store, tmp_path, detector, clip_grad=1.0)
    before = [one.clone() for one in run.isp.parameters()]
    last = list(run.isp.parameters())[-1]
    last.register_hook(lambda gradient: gradient * math.inf)  # type: ignore[no-untyped-call]
    with pytest.raises(TrainingError, match=r"the gradient is .* at step 1, samples "):
        run.fit()
    assert all(torch.equal(a, b) for a, b in zip(before, run.isp.parameters(), strict=True))


@pytest.mark.parametrize(
    ("every", "limit", "validated"),
    [(1, 0, [1, 2, 3]), (2, 0, [2, 3]), (3, 0, [3]), (9, 0, [3]), (9, 3, [2])],
)
def test_validation_every_few_epochs_and_always_at_the_end(
    tiny_store: Path,
    tmp_path: Path,
    detector: FrozenDetector,
    every: int,
    limit: int,
    validated: list[int],
) -> None:
    run = trainer(
        tiny_store, tmp_path, detector, val_split="val", val_every=every, limit_steps=limit
    )
    said: list[str] = []
    run.say = said.append
    assert run.fit()
    scored = rows(tmp_path / "results.csv")
    assert [int(row["epoch"]) for row in scored] == validated
    pictures = [f"epoch_{epoch:03}.png" for epoch in validated]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == pictures
    assert run.best == min(float(row["loss"]) for row in scored)
    assert sum("standard deviation" in line for line in said) == validated[-1]
    steps = rows(tmp_path / "steps.csv")
    for row in scored:
        losses = torch.tensor(
            [float(one["loss"]) for one in steps if one["epoch"] == row["epoch"]],
            dtype=torch.float64,
        )
        assert float(row["train_loss"]) == pytest.approx(float(losses.mean()))
        assert float(row["train_loss_std"]) == pytest.approx(
            float(losses.std(correction=0)), abs=1e-12
        )


def test_epochs_to_fall_after_belong_to_the_schedule_by_steps(tiny_store: Path) -> None:
    chosen = {"store": str(tiny_store), "recipe": "default"}
    for schedule in ("cosine", "constant"):
        assert train_config(chosen | {"lr_schedule": schedule}).lr_steps == ()
        with pytest.raises(UsageError, match=schedule):
            train_config(chosen | {"lr_schedule": schedule, "lr_steps": "5,10"})
    assert train_config(chosen | {"lr_schedule": "step"}).lr_steps == (5, 10)


AUGMENTED: dict[str, Any] = {
    "exposure_stops": 2.0,
    "noise": 0.003,
    "matrix_jitter": 0.5,
    "scale_jitter": "0.5,8",  # most parts are without any box
}


@pytest.mark.parametrize("plain", [False, True])
def test_an_augmented_run_resumes_exactly_and_is_scored_on_the_pictures_as_they_are(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector, plain: bool
) -> None:
    def made(folder: Path, **more: Any) -> Trainer:
        options = {"plain_detector": plain} | AUGMENTED | more
        return trainer(tiny_store, folder, detector, **options)

    whole = made(tmp_path / "whole", val_split="val")
    assert isinstance(whole.validation, StreamLoader)
    assert not whole.validation.sensor
    assert not whole.validation.scale_jitter
    whole.fit()
    assert all(map(math.isfinite, whole.losses))
    assert not made(tmp_path / "parts", stop_at=3).fit()
    second = made(tmp_path / "parts")
    second.resume(second.folder.last)
    assert second.fit()
    assert second.losses == whole.losses[3:]
    other = trainer(tiny_store, tmp_path / "parts", detector, plain_detector=plain)
    with pytest.raises(TrainingError, match=r"scale-jitter: 0\.5,8\.0 against none"):
        other.resume(other.folder.last)
    without = trainer(tiny_store, tmp_path / "without", detector, plain_detector=plain, epochs=1)
    without.fit()
    assert without.losses != whole.losses[:2]


def test_a_config_of_an_earlier_version_has_no_augmentation(tiny_store: Path) -> None:
    config = train_config({"store": str(tiny_store), "recipe": "paper"})
    before = {name: value for name, value in config if name not in AUGMENTED}
    assert TrainConfig(**before) == config
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    augmented = train_config({"store": str(tiny_store), "recipe": "paper"} | AUGMENTED)
    assert augmented.scale_jitter == (0.5, 8.0)
    assert TrainConfig.model_validate_json(augmented.model_dump_json()) == augmented
