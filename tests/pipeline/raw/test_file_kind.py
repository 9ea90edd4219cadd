from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from pipeline.raw.file_kind import not_a_raw
from tests.kit.raw_files import FORMATS, file_of


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, kind)
    return file.getvalue()


def archive(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as made:
            made.writestr("DSC1.ARW", b"x" * 100)
    else:
        with tarfile.open(fileobj=file, mode="w") as made_tar:
            made_tar.addfile(tarfile.TarInfo("DSC1.ARW"))
    return file.getvalue()


def media(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + bytes(200)


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(4))
    return file.getvalue()


KINDS = {
    "jpeg": (picture("JPEG"), "a JPEG picture"),
    "png": (picture("PNG"), "a PNG picture"),
    "gif": (picture("GIF"), "a GIF picture"),
    "webp": (picture("WEBP"), "a WebP picture"),
    "ppm": (picture("PPM"), "a PPM picture"),
    "heic": (media(b"heic"), "a HEIF picture"),
    "avif": (media(b"avif"), "an AVIF picture"),
    "mp4": (media(b"isom"), "a video"),
    "pdf": (b"%PDF-1.7\n" + bytes(50), "a PDF document"),
    "zip": (archive("zip"), "a zip archive"),
    "tar": (archive("tar"), "a tar archive"),
    "gzip": (gzip.compress(b"x" * 100), "a gzip archive"),
    "bzip2": (bz2.compress(b"x" * 100), "a bzip2 archive"),
    "xz": (lzma.compress(b"x" * 100), "an xz archive"),
    "numpy": (array(), "a numpy array"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "a pointer of Git LFS",
    ),
    "annex": (b"/annex/objects/SHA256E-s1--00.ARW\n", "a pointer of git-annex"),
    "html": (b"\n <!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
    "xml": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "an XML text"),
    "json": (b'{"images": [], "annotations": []}', "a JSON text"),
    "text": ("Größe 20 MP, 日本語\n".encode() * 300, "a text"),
    "latin-1": ("Größe der Bilder: 20 MP\n".encode("latin-1") * 3, "a text"),
    "utf-16": ("no raw, but a text\n".encode("utf-16"), "a text"),
    "utf-8 with a mark": (b"\xef\xbb\xbfno raw, but a text\n", "a text"),
}


@pytest.mark.parametrize(("data", "name"), KINDS.values(), ids=KINDS)
def test_what_is_no_raw_is_named_as_what_it_is(data: bytes, name: str) -> None:
    kind = not_a_raw(data)
    assert kind is not None
    assert kind.name == name
    assert kind.mend


@pytest.mark.parametrize("name", FORMATS)
def test_no_raw_is_taken_for_something_else(name: str) -> None:
    assert not_a_raw(file_of(name)) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"I",
        bytes(5000),
        media(b"crx "),
        b"FUJIFILMCCD-RAW 0201" + bytes(9),
        b"FOVb" + bytes(9),
    ],
)
def test_other_raws_and_unknown_bytes_are_left_to_libraw(data: bytes) -> None:
    assert not_a_raw(data) is None


def test_random_bytes_are_no_text() -> None:
    for seed in range(200):
        assert not_a_raw(b"\x01" + np.random.default_rng(seed).bytes(300)) is None
