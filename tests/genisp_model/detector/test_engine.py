"""The frozen engine against torchvision's own path: same numbers, less kept, no waiting."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from genisp_model.data.dataset import StoreDataset
from genisp_model.data.loader import StreamLoader
from genisp_model.detector.convolution import FrozenConv2d, _transposed
from genisp_model.detector.engine import FrozenEngine, fits, guide_by
from genisp_model.detector.frozen import FrozenDetector, load_frozen_detector
from genisp_model.detector.frozen_network import frozen_network
from genisp_model.detector.losses import Objects, match
from genisp_model.evaluation.scores import evaluate
from genisp_model.training.records.run_folder import RunFolder
from genisp_model.training.run import train_config
from genisp_model.training.trainer import Trainer
from pipeline.errors import TrainingError, UsageError
from schemas.training import BoxLoss
from tests.kit.fresh_process import run_python

SAMPLE, V1, V2 = "sample_retinanet", "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"
HEIGHT, WIDTH = 96, 130

Targets = list[dict[str, Tensor]]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _detector(name: str, box_loss: BoxLoss | None = None) -> FrozenDetector:
    """One whose BatchNorms have statistics of what they see, and weights other than 1 and 0."""
    sizes: dict[str, Any] = {} if name == SAMPLE else {"min_size": HEIGHT, "max_size": 2 * WIDTH}
    detector = load_frozen_detector(name, "none", box_loss=box_loss, **sizes)
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
        norm.momentum, norm.training = None, True
    model: Any = detector.model
    with torch.no_grad():
        model.backbone(torch.randn(2, 3, 64, 96))
    for norm in norms:
        norm.training = False
    return detector


def _boxes(count: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT]) * 0.7
    side = torch.rand(count, 2, generator=generator) * 40 + 3
    labels = torch.randint(1, 4, (count,), generator=generator)
    return {"boxes": torch.cat([corner, corner + side], dim=1).to(dtype), "labels": labels}


def _one_of_each(dtype: torch.dtype = torch.float32) -> Targets:
    return [_boxes(2, dtype), _boxes(0, dtype), _boxes(60, dtype)]


def _found(
    guide: FrozenDetector | FrozenEngine, images: Tensor, targets: Targets
) -> tuple[dict[str, Tensor], Tensor]:
    images = images.detach().requires_grad_()
    losses = guide.losses(images, targets)
    (gradient,) = torch.autograd.grad(torch.stack(list(losses.values())).sum(), images)
    return {name: value.detach() for name, value in losses.items()}, gradient


def _away(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("name", [SAMPLE, V1, V2])
def test_losses_are_torchvisions_in_float32(name: str) -> None:
    detector = _detector(name)
    images = torch.rand(3, 3, HEIGHT, WIDTH)
    theirs, _ = _found(detector, images, _one_of_each())
    ours, _ = _found(FrozenEngine(detector), images, _one_of_each())
    exact, _ = _found(detector.double(), images.double(), _one_of_each(torch.float64))
    assert list(ours) == list(theirs)
    for part, value in theirs.items():
        # Random weights amplify rounding: torchvision's own is then beyond the tolerance, too.
        own = _away(value.double(), exact[part])
        assert _away(ours[part], value) < max(1e-6, 3 * own), (part, own)


@pytest.mark.parametrize(
    ("name", "box_loss"),
    [(SAMPLE, "smooth_l1"), (SAMPLE, "giou"), (SAMPLE, "l1"), (V1, "giou"), (V2, "smooth_l1")],
)
def test_losses_and_gradient_are_torchvisions_in_float64(name: str, box_loss: BoxLoss) -> None:
    detector = _detector(name, box_loss).double()
    engine = FrozenEngine(detector)
    images = torch.rand(3, 3, HEIGHT, WIDTH, dtype=torch.float64)
    targets = _one_of_each(torch.float64)
    theirs, their_gradient = _found(detector, images, targets)
    ours, gradient = _found(engine, images, targets)
    for part, value in theirs.items():
        assert _away(ours[part], value) < 1e-12, part
    assert _away(gradient, their_gradient) < 1e-10


@pytest.mark.parametrize("size", [(64, 64), (33, 97), (128, 96), (100, 250)])
def test_sizes_take_turns(size: tuple[int, int]) -> None:
    detector = _detector(SAMPLE)
    engine = FrozenEngine(detector)
    targets = [_boxes(3)]
    for shape in ((HEIGHT, WIDTH), size, (HEIGHT, WIDTH)):
        images = torch.rand(1, 3, *shape)
        (theirs, their_gradient), (ours, gradient) = (
            _found(guide, images, targets) for guide in (detector, engine)
        )
        assert all(_away(ours[part], value) < 1e-6 for part, value in theirs.items())
        assert _away(gradient, their_gradient) < 1e-4


def test_no_image_has_a_box() -> None:
    detector = _detector(SAMPLE)
    images, targets = torch.rand(2, 3, HEIGHT, WIDTH), [_boxes(0), _boxes(0)]
    theirs, _ = _found(detector, images, targets)
    ours, _ = _found(FrozenEngine(detector), images, targets)
    assert ours["bbox_regression"] == 0
    assert _away(ours["classification"], theirs["classification"]) < 1e-6


def test_images_are_resized_as_torchvision_does() -> None:
    detector = load_frozen_detector(SAMPLE, "none", min_size=128, max_size=150)
    engine = FrozenEngine(detector)
    targets = [_boxes(2), _boxes(1)]
    for images in (
        torch.rand(2, 3, HEIGHT, WIDTH),
        [torch.rand(3, HEIGHT, WIDTH), torch.rand(3, WIDTH, HEIGHT)],
    ):
        theirs, ours = detector.losses(images, targets), engine.losses(images, targets)
        assert all(_away(ours[part], value) < 1e-6 for part, value in theirs.items())
        for one, other in zip(detector.predict(images), engine.predict(images), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", [SAMPLE, V2])
def test_detections_are_torchvisions(name: str) -> None:
    detector = _detector(name)
    model: Any = detector.model
    model.score_thresh = 0.0
    engine = FrozenEngine(detector)
    images, targets = torch.rand(2, 3, HEIGHT, WIDTH), [_boxes(3), _boxes(1)]
    theirs = detector.predict(images)
    for one, other in zip(theirs, engine.predict(images), strict=True):
        assert set(other) == {"boxes", "labels", "scores"}
        torch.testing.assert_close(one["scores"], other["scores"], rtol=1e-4, atol=1e-6)
    losses, detections = engine.losses_and_detections(images, targets)
    for one, other in zip(engine.predict(images), detections, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    for row in range(2):  # each image's own
        alone = detector.losses(images[row : row + 1], targets[row : row + 1])
        assert all(_away(losses[part][row], value) < 1e-5 for part, value in alone.items())
    assert not any(value.requires_grad for value in losses.values())


def test_under_autocast_the_numbers_are_close() -> None:
    detector = _detector(SAMPLE)
    engine = FrozenEngine(detector)
    images = torch.rand(3, 3, HEIGHT, WIDTH)
    exact, exact_gradient = _found(detector, images, _one_of_each())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, their_gradient = _found(detector, images, _one_of_each())
        ours, gradient = _found(engine, images, _one_of_each())
    for part, value in exact.items():
        assert ours[part].dtype == torch.float32
        assert _away(ours[part], value) < 0.02, part
    # No farther from float32 than torchvision's own bf16.
    assert _away(gradient, exact_gradient) < 1.5 * _away(their_gradient, exact_gradient) + 0.02


def test_channels_last_changes_no_number() -> None:
    detector = _detector(SAMPLE)
    images = torch.rand(3, 3, HEIGHT, WIDTH)
    theirs, their_gradient = _found(FrozenEngine(detector), images, _one_of_each())
    last: Any = {"memory_format": torch.channels_last}
    detector.to(**last)
    ours, gradient = _found(FrozenEngine(detector), images.to(**last), _one_of_each())
    assert all(_away(ours[part], value) < 1e-6 for part, value in theirs.items())
    assert _away(gradient, their_gradient) < 1e-5


def _mebibytes_kept(
    guide: FrozenDetector | FrozenEngine, images: Tensor, targets: Targets
) -> float:
    kept: dict[int, int] = {}
    own = {value.untyped_storage().data_ptr() for value in guide_tensors(guide)}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = guide.losses(images.detach().requires_grad_(), targets)
        assert losses["classification"].requires_grad
    return sum(kept.values()) / 2**20


def guide_tensors(guide: FrozenDetector | FrozenEngine) -> list[Tensor]:
    """Weights: they are there anyway."""
    if isinstance(guide, FrozenDetector):
        return list(guide.state_dict().values())
    parts = (guide.backbone, guide.classify, guide.regress)
    return [value for part in parts for value in part.buffers()]


@pytest.mark.parametrize(("name", "most"), [(V1, 0.42), (V2, 0.42), (SAMPLE, 0.75)])
def test_less_is_kept_for_the_backward_pass(name: str, most: float) -> None:
    detector = _detector(name)
    images, targets = torch.rand(1, 3, HEIGHT, WIDTH), [_boxes(3)]
    theirs = _mebibytes_kept(detector, images, targets)
    ours = _mebibytes_kept(FrozenEngine(detector), images, targets)
    assert ours < most * theirs


#: What waits for the device, or copies from the host to it without being asked.
WAITING = (
    *("_local_scalar_dense", "nonzero", "masked_select", "item", "is_nonzero", "unique"),
    *("lift_fresh", "lift"),  # torch.tensor and torch.as_tensor of Python's numbers
)


class _Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation that would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name.startswith(("index", "_index_put_impl")) else ()
        by_mask = isinstance(indices, list | tuple) and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in indices
        )
        if name in WAITING or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def _waits(guide: FrozenDetector | FrozenEngine, *, autocast: bool = False) -> list[str]:
    images = torch.rand(3, 3, HEIGHT, WIDTH, requires_grad=True)
    targets = _one_of_each()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        guide.losses(images, targets)  # makes what is cached
        with _Waits() as waits:
            losses = guide.losses(images, targets)
    with waits:
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
    found: list[str] = waits.found
    return found


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", [SAMPLE, V2])
def test_nothing_waits_for_the_device(name: str, autocast: bool) -> None:
    assert not _waits(FrozenEngine(_detector(name)), autocast=autocast)


def test_the_count_of_waits_sees_torchvisions() -> None:
    assert len(_waits(_detector(SAMPLE))) > 20


def test_padded_boxes_are_no_objects() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 0, 0]])
    objects = Objects.of(
        [torch.tensor([[0.0, 0, 10, 9]]), torch.zeros(0, 4), torch.tensor([[1.0, 1, 2, 2]] * 2)],
        [torch.tensor([3]), torch.zeros(0, dtype=torch.int64), torch.tensor([1, 2])],
    )
    assert objects.boxes.shape == (3, 2, 4)
    found = match(anchors, objects, 0.4, 0.5)
    # The third image's boxes overlap little: their best anchor is given out nevertheless.
    assert found.foreground.tolist() == [[True, False, False], [False] * 3, [True, False, False]]
    assert found.target.tolist() == [[3, -1, -1], [-1] * 3, [1, -1, -1]]
    assert torch.equal(found.boxes[0, 1], anchors[1])


def test_a_box_without_width_makes_the_loss_no_number() -> None:
    engine = FrozenEngine(_detector(SAMPLE))
    flat = {"boxes": torch.tensor([[5.0, 5, 5, 9]]), "labels": torch.tensor([1])}
    losses = engine.losses(torch.rand(1, 3, HEIGHT, WIDTH), [flat])
    assert losses["bbox_regression"].isnan()
    with pytest.raises(AssertionError, match="shape"):
        engine.losses(torch.rand(1, 3, HEIGHT, WIDTH), [flat | {"boxes": torch.zeros(4)}])


def test_a_difference_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = _detector(V2)
    fold: Callable[..., None] = FrozenConv2d._fold

    def wrongly(layer: FrozenConv2d, norm: Any) -> None:
        fold(layer, norm)
        layer.weight = layer.weight * (1 + 1e-4)

    monkeypatch.setattr(FrozenConv2d, "_fold", wrongly)
    with pytest.raises(TrainingError, match="differ: image gradient by") as caught:
        FrozenEngine(detector)
    assert "--plain-detector" in caught.value.mend


def test_the_source_is_left_alone() -> None:
    detector = _detector(V2)
    before, state = detector.state_hash(), torch.get_rng_state()
    engine = FrozenEngine(detector)
    assert torch.equal(torch.get_rng_state(), state)
    engine.losses(torch.rand(1, 3, HEIGHT, WIDTH), [_boxes(1)])
    assert engine.state_hash() == detector.state_hash() == before
    assert sum(isinstance(module, nn.BatchNorm2d) for module in detector.modules()) == 53
    assert not any(isinstance(module, nn.BatchNorm2d) for module in engine.backbone.modules())
    head: Any = detector.model
    shared = head.head.classification_head.cls_logits.weight
    assert any(value.data_ptr() == shared.data_ptr() for value in engine.classify.buffers())


def test_others_are_not_for_the_engine() -> None:
    detector = load_frozen_detector(
        "fasterrcnn_mobilenet_v3_large_320_fpn", "none", min_size=90, max_size=128
    )
    assert not fits(detector)
    with pytest.raises(UsageError, match="does not know the parts"):
        FrozenEngine(detector)
    assert guide_by(detector) is detector
    with pytest.raises(UsageError, match="fused-detector is for"):
        guide_by(_detector(SAMPLE), fused=True)


def test_triton_kernels_compute_the_same() -> None:
    """By Triton's interpreter, which it must be asked for before it is imported."""
    pytest.importorskip("triton", reason="Triton comes with torch's wheels for CUDA")
    code = "from tests.genisp_model.detector.interpreted_kernels import main; main()"
    assert run_python(code, environment={"TRITON_INTERPRET": "1"}) == ""


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (1, {"stride": 2}),
        (3, {"padding": 1}),
        (7, {"stride": 2, "padding": 3}),
        (3, {"stride": 2, "padding": 2, "dilation": 2, "groups": 2}),
    ],
)
@pytest.mark.parametrize("size", [(16, 16), (17, 14)])
def test_a_transposed_convolution_is_the_input_gradient(
    kernel: int, options: dict[str, Any], size: tuple[int, int]
) -> None:
    """What is used instead of ``convolution_backward``."""
    layer = nn.Conv2d(4, 6, kernel, bias=False, **options).double()
    image = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    output = layer(image)
    slope = torch.randn_like(output)
    (theirs,) = torch.autograd.grad(output, image, slope)
    weight = layer.weight.detach()
    ours = _transposed(slope, weight, image.shape, FrozenConv2d(layer).geometry)
    torch.testing.assert_close(ours, theirs)


def test_layers_it_does_not_know_stay() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 2, 1)
    ).eval()
    frozen = frozen_network(copy.deepcopy(network))
    kinds = [type(module).__name__ for module in frozen.children()]
    assert kinds == ["Conv2d", "BatchNorm2d", "SiLU", "FrozenConv2d"]
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(frozen(images), network(images))


def test_a_run_is_guided_by_the_engine_unless_told(tiny_store: Path, tmp_path: Path) -> None:
    runs = {}
    for plain in (False, True):
        detector = load_frozen_detector(SAMPLE, "sample")
        folder = RunFolder(tmp_path / str(plain))
        fields = {"store": str(tiny_store), "recipe": "default", "epochs": 2, "batch_size": 2}
        fields |= {"detector": SAMPLE, "detector_weights": "sample", "plain_detector": plain}
        config = train_config(fields)
        run = Trainer(config, detector, folder, torch.device("cpu"), lambda text: None)
        assert isinstance(run.guide, FrozenDetector if plain else FrozenEngine)
        assert run.fit()
        folder.close()
        runs[plain] = run
    torch.testing.assert_close(runs[False].losses, runs[True].losses, rtol=1e-4, atol=0)
    assert runs[False].best == pytest.approx(runs[True].best, rel=1e-4)


def test_validation_scores_a_batch_at_once_as_one_by_one(tiny_store: Path) -> None:
    detector = load_frozen_detector(SAMPLE, "sample")
    scores = [
        evaluate(
            lambda batch: (batch.images / batch.exposure[:, None, None, None]).clamp(0, 1),
            guide,
            StreamLoader(StoreDataset(tiny_store, level="resized"), batch_size=3, shuffle=False),
        )
        for guide in (detector, guide_by(detector))
    ]
    one_by_one, at_once = scores
    assert at_once.losses == pytest.approx(one_by_one.losses, rel=1e-5)
    assert at_once.ap == pytest.approx(one_by_one.ap, abs=1e-3)
    for name, found in one_by_one.predictions.items():
        torch.testing.assert_close(at_once.predictions[name], found, rtol=1e-3, atol=1e-2)
