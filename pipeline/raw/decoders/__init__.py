"""The decoders: bytes of one raw in, its mosaic out. Each is one module.

- `libraw`: the reference. It alone decides what a file means.
- `flashraw`: faster, for some formats.
- `sony_arw2`, `nikon_lossless`: our own, compiled, the fastest.

The last three are used where they agree with LibRaw bit for bit (`pipeline.raw.cross_check`).
"""
