"""What the command ``export`` does: a trained network as ONNX, compared before it is believed."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from genisp_model.checkpoint import load_isp
from genisp_model.device import Say
from genisp_model.files import whole_file
from genisp_model.isp import ISP, GenISP
from pipeline.errors import TrainingError, UsageError
from schemas.exit_code import ExitCode
from schemas.training import TrainConfig

DEFAULT_OPSET = 18  # the exporter's own: no conversion of the graph afterwards

#: Largest believed difference of a picture in 0..1; 8 bits have steps of 4e-3.
TOLERANCE = 1e-4

Shape = tuple[int, int, int]

#: (B, H, W) compared: an odd small one, and one as large as training's, for runtimes' sums over
#: all pixels lose digits with size.
COMPARED: tuple[Shape, ...] = ((2, 97, 160), (1, 800, 1200))

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Difference:
    """Largest absolute differences of the output, over all compared inputs.

    Attributes
    ----------
    exact
        The file in onnxruntime against the network in double precision: what decides.
    torch
        The file in onnxruntime against the network in single precision in torch.
    """

    exact: float
    torch: float


class _Centred(nn.Module):
    """An InstanceNorm in operators that every runtime computes precisely.

    ONNX has InstanceNormalization, but onnxruntime's kernel on the CPU sums a whole plane in single
    precision and subtracts the mean after scaling: at 800x1200 and night's small variances its
    picture was measured 1.3 off. Means of row means, subtracted first, stay within 2e-5.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        centred = image - _mean(image)
        return centred / (_mean(centred * centred) + self.eps).sqrt()


def run_export(checkpoint: Path, output: Path, opset: int, say: Say) -> ExitCode:
    """Write the network of a checkpoint as ONNX: `ExitCode.DONE`, or an error and no file.

    Raises
    ------
    UsageError
        If the packages for it are missing, or the operator set is not supported.
    TrainingError
        If the checkpoint is not one of ours, or the file gives other pictures than the network.
    """
    require_packages()
    isp, config = load_isp(checkpoint)
    mend = "free space or fix permissions, then run the same command"
    with whole_file(output, mend=mend) as temporary:
        export_isp(isp, temporary, opset, _described(config))
        found = compare_exported(isp, temporary)
        if not found.exact <= TOLERANCE:  # not "greater": nan must not pass
            message = f"the exported network differs by {found.exact:.1e}, more than {TOLERANCE:g}"
            mend = "try another --opset or version of onnxruntime; no file was written"
            raise TrainingError(message, path=str(output), mend=mend)
    say(f"{output}: opset {opset}, {output.stat().st_size / 1e6:.1f} MB")
    say(
        f"largest difference in onnxruntime: {found.exact:.1e} to the network in double precision, "
        f"{found.torch:.1e} to torch in single"
    )
    return ExitCode.DONE


def require_packages() -> None:
    """Refuse to begin without the packages that export and compare.

    Raises
    ------
    UsageError
        Naming those that are missing.
    """
    missing = [name for name in _PACKAGES if not _importable(name)]
    if missing:
        message = f"export needs {', '.join(missing)}"
        raise UsageError(message, mend="pip install 'genisp[export]'")


def export_isp(isp: ISP, path: Path, opset: int, facts: dict[str, str]) -> None:
    """Write the network; batch, height and width stay free.

    Parameters
    ----------
    isp
        In evaluation mode, on the CPU.
    path
        One file, weights included. Inputs ``xyz`` (B, 3, H, W) and ``scale`` (B,), the 99th
        percentile of Y of each whole frame; output ``image`` (B, 3, H, W), not clamped.
    opset
        ONNX operator set.
    facts
        Written into the file's metadata.

    Raises
    ------
    UsageError
        If the operator set is not supported.
    """
    onnx = importlib.import_module("onnx")
    example = torch.rand(2, 3, 96, 160), torch.rand(2)
    free = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings():
        # torch 2.11's exporter uses what torch itself calls deprecated; later ones do not.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        program = torch.onnx.export(
            exportable(isp),
            example,
            dynamo=True,
            opset_version=opset,
            input_names=["xyz", "scale"],
            output_names=["image"],
            dynamic_shapes=({0: free, 2: free, 3: free}, {0: free}),
            verbose=False,
        )
    if program is None:
        raise TrainingError("torch's exporter made nothing", path=str(path))
    model = program.model_proto
    written = next(entry.version for entry in model.opset_import if not entry.domain)
    if written != opset:
        # The exporter falls back to its own set when it cannot convert.
        message = f"--opset {opset} is not supported (torch wrote {written})"
        raise UsageError(message, mend=f"leave it out: {DEFAULT_OPSET}")
    _name_axes(model.graph)
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))


def _name_axes(graph: Any) -> None:
    """Say ``batch`` instead of ``s59``; the exporter warns when two inputs share a named axis."""
    xyz, scale = graph.input
    batch, _, height, width = (axis.dim_param for axis in xyz.type.tensor_type.shape.dim)
    unused = scale.type.tensor_type.shape.dim[0].dim_param  # its own symbol without input scaling
    names = {unused: "batch", batch: "batch", height: "height", width: "width"}
    for value in (*graph.input, *graph.value_info, *graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in names:
                axis.dim_param = names[axis.dim_param]


def exportable(isp: ISP) -> ISP:
    """A copy, GenISP's such that it computes the same with less rounding, see `_Centred`.

    The biases in front of the norms are subtracted again by them; as zeros they cost no digits.
    """
    made = copy.deepcopy(isp)
    if isinstance(made, GenISP):
        net: Any = made.shallow  # a norm is replaced by a module of another class
        net.norm1, net.norm2 = _Centred(net.norm1.eps), _Centred(net.norm2.eps)
        for layer in (net.conv1, net.conv2):
            nn.init.zeros_(layer.bias)
    return made.eval()


def compare_exported(isp: ISP, path: Path, shapes: Sequence[Shape] = COMPARED) -> Difference:
    """Run a file in onnxruntime on bright and night-like inputs, beside the network.

    Parameters
    ----------
    isp
        The network it was made from, on the CPU.
    shapes
        (B, H, W) of each input.
    """
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    double = copy.deepcopy(isp).double()
    exact, single = [], []
    for xyz, scale in _inputs(shapes):
        feed = {"xyz": xyz.numpy(), "scale": scale.numpy()}
        made: npt.NDArray[np.float32] = session.run(["image"], feed)[0]
        with torch.inference_mode():
            exact.append(_largest(double(xyz.double(), scale.double()), made))
            single.append(_largest(isp(xyz, scale), made))
    # Not Python's max, which loses nan.
    return Difference(float(np.max(exact)), float(np.max(single)))


def _inputs(shapes: Sequence[Shape]) -> Iterator[tuple[Tensor, Tensor]]:
    """(B, 3, H, W) and (B,): noise over the whole range, and night: dark, noisy, with lamps."""
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in shapes:
        noise = torch.rand(batch, 3, height, width, generator=generator)
        yield noise, torch.full((batch,), 0.99)
        night = 0.05 * noise**8 - 0.001  # median 0, 99th percentile 0.045
        night[:, :, :2, :2] = 1.0
        yield night, torch.full((batch,), 0.045)


def _largest(expected: Tensor, made: npt.NDArray[np.float32]) -> float:
    """nan if either holds one."""
    return float(np.abs(expected.numpy() - made).max())


def _mean(image: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 1, 1), by rows first: short sums round less."""
    return image.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)


def _described(config: TrainConfig) -> dict[str, str]:
    return {
        "recipe": config.recipe,
        "store_fingerprint": config.store_fingerprint,
        "level": config.level,
        "scale": "99th percentile of Y of the whole frame",
    }


def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
