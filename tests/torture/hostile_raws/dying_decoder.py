"""Copied to ``sitecustomize.py`` on a worker's path: decoders that die on marked files.

A file that ends in ``dies:KIND:PHASE`` kills whoever opens it (``probe``) or decodes its pixels
(``decode``), in the ways native code does.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any


def _die(data: bytes, phase: str) -> None:
    word, _, rest = data[-24:].rpartition(b"dies:")
    kind, _, marked = rest.decode("latin-1").partition(":")
    if not (word or rest) or marked.strip() != phase:
        return
    if kind == "segfault":
        ctypes.string_at(0)
    elif kind == "abort":
        os.abort()
    elif kind == "exit":
        os._exit(1)
    elif kind == "hang":
        ctypes.PyDLL(None).sleep(3600)  # holds the interpreter: no Python thread runs meanwhile


def _patch_rawpy(module: Any) -> None:
    imread = module.imread

    def dying_imread(file: Any, *rest: Any) -> Any:
        _die(file.getvalue(), "probe")
        return imread(file, *rest)

    module.imread = dying_imread


def _patch_our_seam(module: Any) -> None:
    decode = module.decode

    def dying_decode(data: bytes, *rest: Any, **more: Any) -> Any:
        _die(data, "decode")
        return decode(data, *rest, **more)

    module.decode = dying_decode


_PATCHES = {"rawpy": _patch_rawpy, "pipeline.raw.reader": _patch_our_seam}


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        patch = _PATCHES.pop(fullname, None)
        if patch is None:
            return None
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            patch(module)

        loader.exec_module = exec_module
        return spec


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, _Finder())
