"""From a camera's file to its mosaic and what the file says about it.

Open `reader` first: bytes in, a decoded mosaic with its levels out, and whose work that was.

- `facts`: the plain values that pass between decoders and everybody else.
- `tiff`, `tiff_reader`: what a TIFF-like container says, read within bounds.
- `undecodable`: why LibRaw cannot decode a file; `file_kind`: what is no raw, by its first bytes.
- `cfa`: the order of colours on the sensor.
- `matrix`: whose colour matrix LibRaw gives, and which one counts; `dng_colour`: a DNG's own.
- `damage`: signs of damage that no decoder reports; `rows` looks for them in every row.
- `black`: whether a black level can be that of the samples.
- `cross_check`: decodes with a fast decoder, compared with LibRaw where that is due.
- `decoders`: LibRaw, flashraw, and two of our own, in one table.
"""
