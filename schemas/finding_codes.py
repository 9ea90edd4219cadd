"""Every finding there is: its code, how much it matters, what it means and what mends it.

docs/reference/findings.md is written from here (``python -m scripts.write_tables``). Codes are for
scripts and stand in stores: they are added to, not changed. A model keeps a code as a plain string
(`schemas.finding.Finding`), so a store may hold codes of other versions of this project.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self, TypeVar

from schemas.finding import Finding, Severity

Fixed = TypeVar("Fixed")

_ERROR, _WARNING, _INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

_LEFT_OUT = "It stays in the sidecar and is left out of targets; "
_CONTINUE = "run the same prep ingest command again: it continues"


class FindingCode(StrEnum):
    """One kind of finding.

    Attributes
    ----------
    severity
        None where it depends on what was found.
    meaning
        In one line, for the documents.
    mend
        What to do, "" for nothing; None where it depends on what was found.
    """

    severity: Severity | None
    meaning: str
    mend: str | None

    def __new__(
        cls, code: str, severity: Severity | None, meaning: str, mend: str | None = None
    ) -> Self:
        member = str.__new__(cls, code)
        member._value_ = code
        member.severity, member.meaning, member.mend = severity, meaning, mend
        return member

    # An annotation file and its records
    NO_SPLIT = "no-split", _INFO, "the annotation file's name says no split"
    FOLDER_SPLIT = (
        "folder-split",
        _INFO,
        "folders name the split, because the annotation file does not",
        "",
    )
    DETECTIONS = (
        "detections",
        _INFO,
        "a file of detections (a list of boxes with scores) lies beside the raws: passed over",
        "",
    )
    NOT_PIXELS = (
        "not-pixels",
        _ERROR,
        "the boxes of images are fractions or per cent of the frame, or pixels of another size",
    )
    BOX_FORMAT = (
        "box-format",
        _WARNING,
        "the boxes of a file seem to be something else than [x, y, width, height] in pixels",
    )
    BOX_FROM_SHAPE = (
        "box-from-shape",
        None,
        "an annotation without a box got that of its polygons, mask or keypoints",
        "",
    )
    NO_ANNOTATIONS = (
        "no-annotations",
        _WARNING,
        "the annotation file has no list `annotations`",
        "Fine for images without objects; else export the annotations too.",
    )
    BAD_CATEGORY = (
        "bad-category",
        _ERROR,
        "a category record cannot be used, or gives one id two names",
        "Give each category one id and one name; boxes of this id are not trained on.",
    )
    BAD_IMAGE = (
        "bad-image",
        _ERROR,
        "an image record cannot be used",
        "Give it an id, a file_name and its width and height in pixels; its boxes are left out.",
    )
    DUPLICATE_IMAGE_ID = (
        "duplicate-image-id",
        None,
        "several image records have one id: a warning if they are equal, else an error",
    )
    TOO_MANY_BOXES = (
        "too-many-boxes",
        _ERROR,
        "an image has more boxes than are believed",
        "Export the annotations again; the image is left out until then.",
    )
    BAD_ANNOTATION = (
        "bad-annotation",
        _ERROR,
        "an annotation record cannot be used",
        "Give it an id, an image_id, a category_id and a bbox of four numbers, or a shape; its "
        "image is left out.",
    )
    ORPHAN_ANNOTATION = (
        "orphan-annotation",
        _ERROR,
        "an annotation's image_id names no usable image record",
        "Add or mend that image record (5 and '5' are different ids); the box is left out.",
    )
    DUPLICATE_ANNOTATION_ID = (
        "duplicate-annotation-id",
        _WARNING,
        "several annotation records have one id",
    )
    UNREADABLE_LABELS = (
        "unreadable-labels",
        _ERROR,
        "a file of one image (Pascal VOC, YOLO) cannot be read; its image is refused",
    )
    NO_IMAGE_SIZE = (
        "no-image-size",
        _WARNING,
        "a Pascal VOC file does not say the size of the image",
        "Write <size> into it if the boxes were drawn in another frame than the raw's.",
    )
    OTHER_FILE_NAME = (
        "other-file-name",
        _WARNING,
        "a Pascal VOC file is named after another image than its <filename>",
        "Correct the one that is wrong.",
    )
    NO_CLASS_NAMES = (
        "no-class-names",
        _WARNING,
        "nothing names the classes of YOLO labels: they are called by their numbers",
        "Put a classes.txt (a name a line) or the set's data.yaml beside or above the labels.",
    )
    UNREADABLE_FLAG = (
        "unreadable-flag",
        _INFO,
        "a flag of NOD's or Pascal VOC's is neither true nor false",
        "Write true or false; the flag is left out.",
    )

    # Annotation files beside each other and beside the raws
    CONTRADICTION = (
        "contradiction",
        _ERROR,
        "annotation files contradict each other about an image, or several images may be meant",
    )
    LISTED_TWICE = "listed-twice", _INFO, "a file lists images twice, equally; kept once", ""
    MERGED_TWIN = "merged-twin", _INFO, "two files list the same images; kept once", ""
    CATEGORY_NUMBERS = (
        "category-numbers",
        _INFO,
        "annotation files number their classes differently; names are what counts",
        "",
    )
    UNUSED_CATEGORY = (
        "unused-category",
        _WARNING,
        "--category names a class that no annotation file has",
        "give the name as the annotation files have it",
    )
    SHARED_ANNOTATION = (
        "shared-annotation",
        _WARNING,
        "an annotated image is that of several raws, which all get its boxes",
        "if they are different pictures, ingest them apart, each with its own annotations",
    )
    ANNOTATION_WITHOUT_RAW = (
        "annotation-without-raw",
        _WARNING,
        "annotated images have no raw among the sources",
        "add the missing raws to the sources and run the same command",
    )
    ANNOTATION_GONE = (
        "annotation-gone",
        _WARNING,
        "what a sample was annotated with is gone: it loses its boxes and split",
        "if they are still right, put the records back and run the same command",
    )
    ANNOTATION_NOT_GIVEN = (
        "annotation-not-given",
        _WARNING,
        "samples keep the boxes and split of annotation files that are not among the sources",
        "name these files, too; to be rid of the boxes, give the file without their records",
    )

    # A raw and the sample of its name
    NAME_TAKEN = (
        "name-taken",
        _WARNING,
        "another picture of the store has the name of a raw; both are kept, under names of their "
        "own",
        "nothing, if both are wanted; if one should replace the other, put it where that one was",
    )
    RAW_REPLACED = (
        "raw-replaced",
        _WARNING,
        "a file now holds another picture than the one its sample was made from; the sample shows "
        "the new one",
        "if both are wanted, copy them into folders of their own and ingest these",
    )

    NAMES_DIFFER = (
        "names-differ",
        _WARNING,
        "no annotated image has a raw here, and no raw is annotated: their names differ",
        "give the names of the raws as file_name, or rename the raws; then run the same command",
    )

    RAW_PASSED_OVER = (
        "raw-passed-over",
        _WARNING,
        "files among the sources may be or hold raws, and are not opened",
        "unpack what is packed and finish what is half copied; a file that is given by itself is "
        "taken whatever its name is",
    )

    # One box
    NON_FINITE = (
        "non-finite",
        _ERROR,
        "a box has a number that is not finite",
        _LEFT_OUT + "write four finite numbers [x, y, width, height].",
    )
    ZERO_AREA = (
        "zero-area",
        _ERROR,
        "a box has no area",
        _LEFT_OUT + "draw it again or delete it in the annotation file.",
    )
    OUTSIDE_FRAME = (
        "outside-frame",
        _ERROR,
        "a box lies outside its frame",
        _LEFT_OUT + "check that it was drawn on this image, at this size.",
    )
    UNKNOWN_CATEGORY = (
        "unknown-category",
        _ERROR,
        "a box's category has no name in its file",
        "It is an ignore region, neither target nor background; add its id and its name to the "
        "file's `categories`.",
    )
    CROWD = (
        "crowd",
        _INFO,
        "a box is marked iscrowd, or to be ignored: it is neither target nor background",
        "",
    )
    PARTLY_OUTSIDE = (
        "partly-outside",
        _WARNING,
        "a box reaches over the edge of its frame",
        "Targets are clipped to the frame; nothing to do unless the frame is the wrong one.",
    )
    TINY = (
        "tiny",
        _WARNING,
        "the visible part of a box is less than 2 px wide or high",
        "Look whether it is a stray click.",
    )
    HUGE = "huge", _INFO, "a box covers more than 90 % of its frame", ""
    EXTREME_ASPECT = "extreme-aspect", _INFO, "a box is more than 20 times as long as wide", ""
    AREA_MISMATCH = (
        "area-mismatch",
        _INFO,
        "a box's area is not its width x height",
        "Nothing to do: areas are computed from boxes.",
    )
    NEAR_DUPLICATE = (
        "near-duplicate",
        _WARNING,
        "a box repeats another of its class (IoU above 0.9)",
        "Delete one of the two in the annotation file; both are kept as targets until then.",
    )

    # One sample while it is made
    CENTRED_CROP = (
        "centred-crop",
        _INFO,
        "the file's own crop does not have the annotation's size; a centred one was used",
        "look at the boxes; a wrong centre shifts them by a few pixels",
    )
    SCALED_BOXES = (
        "scaled-boxes",
        _INFO,
        "the annotated picture is a smaller copy of the frame: its boxes are scaled",
        "nothing to do; the scale is in the sidecar",
    )
    SIZE_GUESS = (
        "size-guess",
        _WARNING,
        "whether the annotated picture is a crop of the frame or a smaller copy is a guess",
        "look at the boxes of this sample; annotate the picture in the camera's own size if they "
        "are off",
    )
    AMBIGUOUS_ORIENTATION = (
        "ambiguous-orientation",
        _WARNING,
        "the frame has the annotation's size whether or not it is turned or mirrored",
        "look at the boxes of this sample",
    )
    ABOVE_WHITE = (
        "above-white",
        _INFO,
        "more than one sample in a thousand is above the white level that is known of the camera",
        "nothing to do: they are stored as they are, as values above 1",
    )
    NO_DARK_SAMPLE = (
        "no-dark-sample",
        _INFO,
        "no sample is near the black level, which the file states as 0 or does not state",
        "nothing to do for a bright picture; see doubtful-black",
    )
    DOUBTFUL_BLACK = (
        "doubtful-black",
        _WARNING,
        "no picture of a camera in an ingest is as dark as its black level is said to be",
        "add a picture taken with the lens cap on and run the same command: where that is not near "
        "black either, black is not known, and these files should be left out",
    )
    DECODERS_DISAGREE = (
        "decoders-disagree",
        _WARNING,
        "the fast decoder and LibRaw differ on a class of files, which LibRaw decodes from then on",
        "nothing to do: LibRaw's numbers are stored",
    )
    RELATIVES_MATRIX = (
        "relatives-matrix",
        _WARNING,
        "a camera's colour matrix is that of another model, because LibRaw has none for it",
        "colours are a guess: convert the raws with Adobe DNG Converter, whose DNGs bring their "
        "camera's matrix, or wait for a LibRaw that knows the camera, and ingest into a new store",
    )

    # A store, by prep verify
    DAMAGED_CHUNK = "damaged-chunk", _ERROR, "a chunk is missing or not what its sidecar records"
    DAMAGED_SIDECAR = "damaged-sidecar", _ERROR, "a sidecar is missing or cannot be read"
    DAMAGED_MANIFEST = (
        "damaged-manifest",
        _ERROR,
        "the manifest is missing, cannot be read, or does not fit the store",
    )
    DAMAGED_METADATA = (
        "damaged-metadata",
        _ERROR,
        "a zarr.json is missing or not what the sidecars say",
    )
    DAMAGED_RECIPE = "damaged-recipe", _ERROR, "a sample was made with another recipe"
    DAMAGED_LEVELS = "damaged-levels", _ERROR, "a sample's levels are not the recipe's"
    DAMAGED_SENSOR = (
        "damaged-sensor",
        _ERROR,
        "a sample's black and white levels or matrix cannot be used",
    )
    DAMAGED_SHAPE = "damaged-shape", _ERROR, "a level's shape is not its frame's"
    DAMAGED_STATISTICS = "damaged-statistics", _ERROR, "a level's planes are not the recipe's"
    DAMAGED_RANGE = "damaged-range", _ERROR, "a level cannot hold all values of its sensor"
    DAMAGED_SPLIT = "damaged-split", _ERROR, "a sample's split is not its annotation's"
    DAMAGED_FRAME = "damaged-frame", _ERROR, "a sample's frame is not its annotation's"
    DAMAGED_BOX = "damaged-box", _ERROR, "a box to train on has no area or none of our classes"
    DAMAGED_ROW = "damaged-row", _ERROR, "two samples claim one row"
    DAMAGED_LAYOUT = (
        "damaged-layout",
        _ERROR,
        "a sample's shape, scale or camera are not those of its group",
    )
    UNFINISHED = (
        "unfinished",
        _WARNING,
        "an ingest was interrupted: rows are reserved that hold no sample",
        _CONTINUE,
    )
    MANIFEST_BEHIND = (
        "manifest-behind",
        _WARNING,
        "an ingest was interrupted: committed samples are not in the manifest",
        _CONTINUE,
    )
    FAILED_SOURCES = (
        "failed-sources",
        _INFO,
        "some of the sources seen could not be ingested",
        "prep ingest --retry-failed with the same sources tries them again",
    )
    STRAY_FILE = "stray-file", _WARNING, "a file belongs to no sample"
    SAME_RAW = (
        "same-raw",
        _WARNING,
        "the same raw is stored several times",
        "remove one of the files from the sources and ingest into a new store",
    )
    NEIGHBOUR_LEAKAGE = (
        "neighbour-leakage",
        _INFO,
        "held-out samples have a neighbour frame in train",
        "do not read scores on these splits as independent",
    )

    # A store beside its raws, by prep verify --sources
    RAW_NOT_GIVEN = (
        "raw-not-given",
        None,
        "samples have no raw among the sources: a warning if none has one",
        "name the folders they were ingested from",
    )
    RAW_NOT_STORED = (
        "raw-not-stored",
        _WARNING,
        "raws among the sources are not in the store",
        "prep ingest with the same sources and store adds them",
    )
    RAW_CHANGED = (
        "raw-changed",
        _ERROR,
        "a raw is not the one its sample was made from",
        "prep ingest with the same sources and store redoes samples whose raw changed",
    )
    BOXES_DIFFER = (
        "boxes-differ",
        _ERROR,
        "a sample's boxes are not those of the annotation file",
        "prep ingest with the same sources and store takes over what is annotated",
    )
    UNDERIVABLE = "underivable", _ERROR, "a sample does not follow from its raw by LibRaw"
    UNCONFIRMED = (
        "unconfirmed",
        _WARNING,
        "LibRaw cannot decode a sample's raw; it is compared with its own decoder, if that can",
        "nothing to do if that decoder is trusted: it was chosen with --decoder",
    )

    def finding(
        self, where: str, message: str, *, severity: Severity | None = None, mend: str | None = None
    ) -> Finding:
        """One finding of this kind; severity and mend are given where they are not fixed.

        Raises
        ------
        ValueError
            If one of them is missing, or is given though it is fixed.
        """
        return Finding(
            code=self.value,
            severity=_only(self.severity, severity, f"severity of {self}"),
            where=where,
            message=message,
            mend=_only(self.mend, mend, f"mend of {self}"),
        )


def _only(fixed: Fixed | None, given: Fixed | None, name: str) -> Fixed:
    if fixed is not None and given is None:
        return fixed
    if given is not None and fixed is None:
        return given
    raise ValueError(f"the {name} is {'missing' if fixed is None else 'fixed'}")
