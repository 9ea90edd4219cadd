"""What is read is never run: no pickle, no eval, no array of objects.

Ruff's S rules say half of it: they do not know ``torch.load`` and ``numpy.load``, and a comment
silences them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    [ROOT / "cli.py"]
    + [
        path
        for name in ("schemas", "pipeline", "genisp_model", "commands")
        for path in (ROOT / name).rglob("*.py")
    ]
)

#: Modules that can run what they read. checkpoint.py needs the name of pickle's exception,
#: class_names.py what of yaml makes plain values only.
_RUNNING = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}
_HARMLESS = {
    "pickle.UnpicklingError",
    "yaml.AliasEvent",
    "yaml.CollectionEndEvent",
    "yaml.CollectionStartEvent",
    "yaml.SafeLoader",
    "yaml.YAMLError",
    "yaml.parse",
    "yaml.safe_load",
}

_BUILT_IN = {"eval", "exec", "compile", "__import__"}


def running(source: str) -> Iterator[str]:
    """What in a module might run what it reads."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in _RUNNING:
                yield f"{node.lineno}: from {module} import"
            case ast.Attribute(value=ast.Name(id=name)) if name in _RUNNING:
                if ast.unparse(node) not in _HARMLESS:
                    yield f"{node.lineno}: {ast.unparse(node)}"
            case ast.Import(names=names) if any(
                one.name.split(".")[0] in _RUNNING and one.asname for one in names
            ):
                yield f"{node.lineno}: {ast.unparse(node)}"
            case ast.Call():
                yield from _called(node)


def _called(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if (
        name in _BUILT_IN
        or (name in {"torch.load", "torch.hub.load"} and given.get("weights_only") != "True")
        or name in {"np.load", "numpy.load", "load_state_dict_from_url"}
        or given.get("allow_pickle", "False") != "False"
    ):
        yield f"{call.lineno}: {name}(...)"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_runs_what_it_reads(path: Path) -> None:
    assert list(running(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(data)",
        "import pickle as p\np.loads(data)",
        "from pickle import loads",
        "import yaml\nyaml.load(data)",
        "eval(data)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "read(path, allow_pickle=True)",
    ],
)
def test_what_would_run_it_is_found(source: str) -> None:
    assert len(list(running(source))) == 1


def test_what_runs_nothing_is_let_be() -> None:
    harmless = "import pickle\ntorch.load(path, weights_only=True)\nmodel.eval()\n"
    caught = "try:\n    f()\nexcept pickle.UnpicklingError:\n    g()\n"
    assert list(running(harmless + caught)) == []
