"""``config.toml`` of a run folder: every option of a run, as ``train --config`` reads it.

TOML is written here without a library: what a run is told is a flat list of text, numbers, truth
values, lists of these, and one table.
"""

from __future__ import annotations

import json
from pathlib import Path

from schemas.training import TrainConfig, option_of

#: The first line, by which a file is known as one of these.
HEADER = "# Every option of this run, as it is in force. Written by train; changes here get lost."

_USE = """\
# The same run again:  train --config THIS_FILE --output-dir OTHER_FOLDER
# Paths are relative to the folder in which train is called.
"""

#: Not options: what the store says of itself, and a constant.
_NO_OPTIONS = ("store_fingerprint", "lr_gamma")

#: How TOML, which has no None, says that there is none.
_NONE = {"amp": False}

#: A path that is not named: an empty one would be refused.
_NOT_NAMED = ("init_from",)

#: Heading -> fields. A field that stands nowhere comes last.
_GROUPS = {
    "Data": ("store", "split", "val_split", "level", "skip_damaged"),
    "Network": ("recipe", "init_from", "freeze", "ema"),
    "Length and batches": ("epochs", "limit_steps", "batch_size", "accumulate"),
    "Learning rate and gradient": (
        "lr",
        "lr_steps",
        "lr_schedule",
        "lr_final",
        "warmup_steps",
        "clip_grad",
    ),
    "Loss": ("box_loss", "gray_world"),
    "Frozen detector": ("detector", "detector_weights", "detector_classes", "plain_detector"),
    "Augmentation": ("flip", "exposure_stops", "noise", "matrix_jitter", "scale_jitter"),
    "Randomness": ("seed", "deterministic"),
    "Validation": ("val_every", "val_limit", "best_by", "patience", "overfit_one_batch"),
}


def config_toml(config: TrainConfig, *, device: str, output_dir: Path) -> str:
    """The text of the file.

    Parameters
    ----------
    config, device, output_dir
        What the run is told, the device it runs on, and its folder.
    """
    left = [name for name in type(config).model_fields if name not in _NO_OPTIONS]
    parts = [f"{HEADER}\n{_USE}"]
    grouped = {name for names in _GROUPS.values() for name in names}
    rest = tuple(name for name in left if name not in grouped)
    place = [_line("device", device), _line("output-dir", str(output_dir))]
    parts.append("\n".join(["# Where it runs", *place, ""]))
    for heading, names in {**_GROUPS, "Memory and speed": rest}.items():
        values = {name: getattr(config, name) for name in names}
        values |= {name: _NONE[name] for name in _NONE if name in values and values[name] is None}
        values |= {name: values[name] or None for name in _NOT_NAMED if name in values}
        lines = [_line(option_of(name)[2:], value) for name, value in values.items()]
        parts.append("\n".join([f"# {heading}", *lines, ""]))
    return "\n".join(parts)


def _line(key: str, value: object) -> str:
    """``key = value``; a comment where TOML has no word for it: None, and text that is no UTF-8."""
    if value is None:
        return f"# {key} is not set"
    if isinstance(value, dict) and value:
        return "\n".join(f"{key}.{name} = {_written(one)}" for name, one in value.items())
    text = _written(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"# {key} is no UTF-8 text: {value!a}"
    return f"{key} = {text}"


def _written(value: object) -> str:
    """A value in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's escapes are TOML's; TOML wants one more character escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, (int, float)):
        return repr(value)  # also inf and nan
    if value == {}:
        return "{}"
    raise AssertionError(f"an option with a value of {type(value).__name__}")
