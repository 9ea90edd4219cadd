"""What a disk may hold after the power failed, given what was written and what was synced.

The model promises no more than POSIX does. Bytes of a file are safe once the file was synced;
names in a folder (made, renamed, deleted) once that folder was synced. Of everything else any part
may have reached the disk, in any order: bytes may be missing, cut off or zeros; of two renames the
later one may be there without the earlier. Only a single rename is taken to be whole, as every
journaling file system has it: after it the name means the old file or the new one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.store.keys import SIDECARS
from tests.kit.file_operations import Operation


@dataclass
class _File:
    written: bytes = b""
    durable: bytes = b""


@dataclass
class _Folder:
    """`durable` and the changes since, each of which may or may not be on the disk."""

    entries: dict[str, _File | _Folder] = field(default_factory=dict)
    durable: dict[str, _File | _Folder] = field(default_factory=dict)
    pending: list[dict[str, _File | _Folder | None]] = field(default_factory=list)

    def change(self, change: dict[str, _File | _Folder | None]) -> None:
        for name, node in change.items():
            if node is None:
                self.entries.pop(name, None)
            else:
                self.entries[name] = node
        self.pending.append(change)

    def sync(self) -> None:
        self.durable = dict(self.entries)
        self.pending.clear()


class Disk:
    """A folder on a disk, and all that was done to it.

    Parameters
    ----------
    folder
        Operations are on paths inside.
    content
        What was in it before the first of them, all of it durable.
    """

    def __init__(self, folder: Path, content: Path) -> None:
        self._folder = folder
        self._root = _durable(content)

    def do(self, operation: Operation) -> None:
        """One operation that succeeded."""
        if operation.kind == "sync folder":
            if self._inside(operation.path):
                synced = self._node(operation.path)
                assert isinstance(synced, _Folder)
                synced.sync()
            return
        folder, name = self._place(operation.path)
        node = folder.entries.get(name)
        if operation.kind == "make folder":
            folder.change({name: _Folder()})
        elif operation.kind == "open":
            if isinstance(node, _File):
                node.written = b""
            else:
                folder.change({name: _File()})
        elif operation.kind in ("delete", "remove folder"):
            folder.change({name: None})
        elif operation.kind == "rename":
            _, target = self._place(operation.target)
            assert node is not None
            folder.change({target: node, name: None})
        else:
            assert isinstance(node, _File)
            if operation.kind == "write":
                node.written += operation.data
            else:
                node.durable = node.written

    def write_what_is_left(self, target: Path, rng: np.random.Generator | None) -> None:
        """Make `target` the folder as it may be found after power loss now.

        Parameters
        ----------
        rng
            Chooses what of the unsynced part has reached the disk; None: nothing of it has.
        """
        _write(self._root, target, rng)

    def _inside(self, path: str) -> bool:
        return Path(path).is_relative_to(self._folder)

    def _node(self, path: str) -> _File | _Folder:
        node: _File | _Folder = self._root
        for part in Path(path).relative_to(self._folder).parts:
            assert isinstance(node, _Folder)
            node = node.entries[part]
        return node

    def _place(self, path: str) -> tuple[_Folder, str]:
        folder = self._node(str(Path(path).parent))
        assert isinstance(folder, _Folder)
        return folder, Path(path).name


def promised(operations: Iterable[Operation], store: Path) -> set[str]:
    """Keys of the sidecars whose puts and deletes were complete: they must survive power loss."""
    renamed: set[str] = set()
    safe: set[str] = set()
    for operation in operations:
        key = Path(operation.target or operation.path)
        if key.parent.name == SIDECARS and operation.kind in ("rename", "delete"):
            relative = key.relative_to(store).as_posix()
            safe.discard(relative)
            if operation.kind == "rename":
                renamed.add(relative)
        elif operation.kind == "sync folder" and key.name == SIDECARS:
            synced = {one for one in renamed if (store / one).parent == key}
            safe |= synced
            renamed -= synced
    return safe


def _durable(path: Path) -> _Folder:
    folder = _Folder()
    for child in path.iterdir():
        if child.is_dir():
            folder.entries[child.name] = _durable(child)
        else:
            data = child.read_bytes()
            folder.entries[child.name] = _File(data, data)
    folder.sync()
    return folder


def _write(folder: _Folder, target: Path, rng: np.random.Generator | None) -> None:
    target.mkdir()
    names = dict(folder.durable)
    share = 0.0 if rng is None else float(rng.choice([0.1, 0.5, 0.9]))
    for change in folder.pending:
        if rng is None or rng.random() > share:
            continue
        both_names = len(change) == 2 and rng.random() < 0.2
        for name, made in change.items():
            if made is not None:
                names[name] = made
            elif not both_names:
                names.pop(name, None)
    for name, node in names.items():
        if isinstance(node, _Folder):
            _write(node, target / name, rng)
        else:
            (target / name).write_bytes(_content(node, rng))


def _content(file: _File, rng: np.random.Generator | None) -> bytes:
    if rng is None or file.durable == file.written:
        return file.durable
    cut = int(rng.integers(0, len(file.written) + 1))
    zeros = bytes(len(file.written) - cut)
    choices = (file.durable, file.written, file.written[:cut], file.written[:cut] + zeros)
    return choices[int(rng.integers(len(choices)))]
