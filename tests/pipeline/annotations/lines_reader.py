"""A reader as docs/how-to/new-annotation-format.md describes one: a line of text for each box.

``file_name width height category x y box_width box_height``, parted by blanks.
"""

from __future__ import annotations

from pipeline.annotations.columns import AnnotatedImages, BoxColumns, ImageColumns
from pipeline.annotations.reader import LoadedFile, split_from_name
from schemas.coco import CocoAnnotation, CocoImage, number_of


class LinesReader:
    suffixes = (".boxes",)

    def recognises(self, data: bytes, name: str) -> bool:
        return name.endswith(self.suffixes)

    def read(self, data: bytes, *, name: str, split: str | None) -> LoadedFile:
        images, boxes, split = ImageColumns(), BoxColumns(), split or split_from_name(name)
        numbers: dict[str, int] = {}
        for line_number, line in enumerate(data.decode().splitlines()):
            file_name, width, height, category, x, y, w, h = line.split()
            if file_name not in numbers:
                size = {"width": int(width), "height": int(height)}
                numbers[file_name] = images.add(
                    CocoImage(id=file_name, file_name=file_name, **size)
                )
            box = CocoAnnotation(
                id=line_number,
                image_id=file_name,
                category_id=category,
                bbox=(float(x), float(y), float(w), float(h)),
            )
            boxes.add(box, numbers[file_name])
        names = [str(category) for category in boxes.category_ids]
        categories = [(number_of(name), name) for name in names]
        kept = range(len(images.ids))
        read = AnnotatedImages(name, split, images, boxes, kept, categories)
        return LoadedFile(name, split, read, findings=(), refused={})
