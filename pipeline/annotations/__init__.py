"""What annotation files say: which boxes a raw has, in which frame, in which split.

Open `index` first: it answers, for a raw, what all files together say about it.

- `reader`: what a reader of annotation files is, and what it gives. `table`: all of them.
- `coco_file`: one COCO file's bytes, in any of its variants, to images with boxes and findings.
- `labels`: Pascal VOC and YOLO, which have one file an image.
- `columns`: the records of a large file, kept as arrays until one is asked for.
- `json_lists`: the records of a large JSON file, one after another.
- `names`: which raw an annotated image is, by names and folders.
- `shapes`: the box of an annotation that has polygons, a mask or keypoints only.
- `units`: whether boxes are pixels at all.
- `file_findings`: notes about a file, counted where there are many of one kind.
- `boxes`: boxes as arrays: formats and scales. `box_checks`: what is wrong with them.
"""
