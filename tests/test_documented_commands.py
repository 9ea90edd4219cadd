"""The commands of the documents are run, in order, as a reader would type them.

Sizes and the detector are made small by environment variables, which go before what a page's files
say and below what its commands say. A command that is not run stands here with the reason.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections import Counter
from pathlib import Path
from zipfile import ZipFile

import pytest
from click.testing import CliRunner

import cli
from pipeline.ingest import IngestOptions, run_ingest
from pipeline.sample_set import write_sample_set
from schemas.recipe import Recipe
from tests.kit.documents import ROOT, commands_of, named_files
from tests.kit.recorder import Recorder

#: As it is written.
RUN = ""
GPU = "needs a GPU"
DEVELOPER = "for developers, from a checkout: CI runs make test and make wheel"

#: Each on the layout of its set.
DATA_SETS = "run by tests/pipeline/ingest/test_data_sets.py"

#: Page -> command -> why it is not run. A command that is not here fails the test.
COMMANDS: dict[str, dict[str, str]] = {
    "docs/how-to/train.md": {
        "train --store data.zarr --output-dir runs/night": RUN,
        "train --resume --output-dir runs/night": RUN,
        "genisp evaluate --store data.zarr --checkpoint runs/night/checkpoints/best.pt": RUN,
        "genisp enhance night/DSC01088.ARW --checkpoint runs/night/checkpoints/best.pt": RUN,
        "genisp export --checkpoint runs/night/checkpoints/best.pt --output isp.onnx": RUN,
        "train --config night.toml": RUN,
        "train --config night.toml --lr 0.0005 --output-dir runs/slower": RUN,
        "train --config runs/long/config.toml --output-dir runs/again": RUN,
        "prep ingest --category pedestrian=person": "names an option; an ingest has sources too",
        "train --store data.zarr --output-dir runs/gentle --warmup-steps 100 "
        "--lr-schedule cosine --clip-grad 10": RUN,
        "train --store data.zarr --output-dir runs/varied --exposure-stops 2 --noise 0.001 "
        "--matrix-jitter 0.3": RUN,
        "train --store data.zarr --output-dir runs/kept --ema 0.999 --best-by ap --patience 5": RUN,
        "train --resume --output-dir runs/kept --patience 10": RUN,
        "train --store data.zarr --output-dir runs/tuned "
        "--init-from runs/night/checkpoints/best.pt --lr 1e-4 --freeze ConvWB": RUN,
        "train --resume --output-dir runs/night --checkpoint-activations": RUN,
        "make gpu-check": GPU,
        "make gpu-wheels": "downloads wheels",
    },
    "docs/reference/training.md": {
        "python -m benchmarks.guidance": "takes minutes; the sizes it prints are the page's",
        "make bench-augmentation": "takes minutes",
        "python -m scripts.augmentation_sheet": "draws the page's picture; only from a checkout",
        "make gpu-check": GPU,
    },
    "README.md": {
        "prep sample nod": "run by tests/test_docs.py, with what it prints",
        "prep ingest nod": "run by tests/test_docs.py, with what it prints",
        "prep verify": "run by tests/test_docs.py, with what it prints",
        "make demo": "takes minutes",
        "make test": DEVELOPER,
        "prep ingest /raw_nod": RUN,
        "prep ingest Nikon.zip Sony.zip": RUN,
        "prep ingest /raws --annotations train.json": RUN,
        "prep ingest /raws --split val=boxes.json": RUN,
        "prep ingest /raws --category pedestrian=person": RUN,
        "prep ingest /raw_nod --dry-run": RUN,
        "prep verify --sources /raw_nod": RUN,
        "prep verify --workers 0": RUN,
        "make check": DEVELOPER,
        "make format": DEVELOPER,
        "make bench": "takes minutes",
    },
    "docs/how-to/ingest-and-repair.md": {
        "prep ingest /raw_nod": RUN,
        "prep ingest Nikon.zip Sony.zip": RUN,
        "prep ingest /raws --annotations train.json": RUN,
        "prep ingest /raws --split val=boxes.json": RUN,
        "prep ingest /raw_nod --dry-run": RUN,
        "prep verify --sources": "names an option; it takes a folder",
        "prep verify": RUN,
        "prep verify --quick": RUN,
        "prep verify --sources /raw_nod": RUN,
        "prep verify --strict": RUN,
    },
    "docs/how-to/data-sets.md": {
        "prep ingest NOD": DATA_SETS,
        "prep ingest PASCALRAW": DATA_SETS,
        "prep ingest LOD": DATA_SETS,
        "prep ingest AODRaw/images --annotations AODRaw/annotations/train_annotations.json "
        "--annotations AODRaw/annotations/test_annotations.json": DATA_SETS,
        "prep ingest SID": DATA_SETS,
    },
    "docs/how-to/read-a-store.md": {},  # Python only: run by tests/test_docs.py
}

#: What a page names and where it lies here.
PLACES = {"/raw_nod": "nod", "/raws": "raws"}

STAND_IN = {"DETECTOR": "sample_retinanet", "DETECTOR_WEIGHTS": "sample"}
SMALL = {
    **{f"GENISP_TRAIN_{name}": value for name, value in STAND_IN.items()},
    **{f"GENISP_EVALUATE_{name}": value for name, value in STAND_IN.items()},
    "GENISP_TRAIN_BATCH_SIZE": "2",
    "GENISP_TRAIN_EPOCHS": "100",  # a warm-up must fit into the run
    "PREP_INGEST_FIT": "96x64",
    "PREP_INGEST_WORKERS": "0",
    "PREP_VERIFY_WORKERS": "0",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader of these pages has: raws, archives, annotation files, a store."""
    folder = tmp_path_factory.mktemp("reader")
    write_sample_set(folder / "nod", images=8, seed=11)
    recipe = Recipe(fit=(96, 64))
    run_ingest(
        [str(folder / "nod")], str(folder / "data.zarr"), recipe, IngestOptions(), Recorder()
    )
    for name in ("raws", "night"):
        (folder / name).mkdir()
    for camera in ("Nikon", "Sony"):
        files = sorted(path for path in (folder / "nod" / camera).rglob("*") if path.is_file())
        with ZipFile(folder / f"{camera}.zip", "w") as archive:
            for path in files:
                archive.write(path, path.relative_to(folder / "nod"))
        for path in files:
            if path.suffix != ".json":
                shutil.copy(path, folder / "raws")
    shutil.copy(folder / "raws" / "DSC01088.ARW", folder / "night")
    boxes = next((folder / "nod" / "Sony").rglob("*train*.json"))
    shutil.copy(boxes, folder / "train.json")
    shutil.copy(boxes, folder / "boxes.json")
    return folder


@pytest.mark.parametrize("page", COMMANDS)
def test_every_command_of_a_page_is_run_or_has_a_reason_not_to_be(page: str) -> None:
    assert {*commands_of(ROOT / page)} == COMMANDS[page].keys()


@pytest.mark.parametrize("page", [page for page in COMMANDS if RUN in COMMANDS[page].values()])
def test_the_commands_of_a_page_do_what_they_say(page: str, place: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    shutil.copytree(place, here)
    for name, text in named_files(ROOT / page).items():
        (here / name).write_text(text)
    ran: Counter[str] = Counter()
    with contextlib.chdir(here):
        for command in commands_of(ROOT / page):
            if COMMANDS[page][command] == RUN:
                _run(command, place)
                ran[command.split()[0]] += 1
    assert ran.total() >= 6


def _run(command: str, place: Path) -> None:
    program, *words = [PLACES.get(word, word) for word in shlex.split(command)]
    environment = SMALL | {"GENISP_TRAIN_LIMIT_STEPS": "2" if "--resume" in words else "1"}
    if program == "prep":  # ways to begin: each as if it were the first
        shutil.rmtree("data.zarr", ignore_errors=True)
        if words[0] != "ingest":
            shutil.copytree(place / "data.zarr", "data.zarr")
    group, words = (cli.prep, words) if program == "prep" else (cli.genisp, words)
    if program == "train":
        words = ["train", *words]
    result = CliRunner().invoke(group, words, env=environment)
    assert result.exit_code == 0, f"{command}: {result.output}{result.exception!r}"
