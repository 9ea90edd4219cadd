"""Formats with one label file an image: Pascal VOC and YOLO.

- `voc_file`, `yolo_file`: one file's bytes to the boxes of its image, with findings.
- `one_image`: what the two have in common.
- `text_files`: which text files are labels, names of classes, or lists of a split.
- `class_names`: the names that a set's own files give its classes.
"""
