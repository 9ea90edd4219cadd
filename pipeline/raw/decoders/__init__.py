"""The decoders: bytes of one raw in, its mosaic out. Each is one module and one line of `table`.

- `decoder`: what a decoder is; what it is given and what it may say. `table`: all of them.
- `libraw`: the reference. It alone decides what a file means.
- `flashraw`: faster, for some formats.
- `own`: compiled and the fastest, for two formats: `sony_arw2` and `nikon_lossless`.

The last two are used where they agree with LibRaw bit for bit (`pipeline.raw.cross_check`).
docs/how-to/new-decoder.md says how another one is added.
"""
