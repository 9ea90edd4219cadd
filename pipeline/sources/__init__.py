"""Where raws come from: folders, single files, zip archives, URLs.

Open `source` first: a `Source` is one file, wherever it lies, and can be read whole.

- `discover`: finds all of them in what the user named, and gives them names.
- `folders`: lists local folders and remote file systems, links included.
- `location`: opens a path or URL, and explains to the user why that failed.
- `zip_archive`: reads members of an archive in place.
- `cut_zip`: finds the members of an archive whose download was cut off.
"""
