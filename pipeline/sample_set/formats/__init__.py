"""Camera files, written from a mosaic: ARW, NEF and DNG.

Written from the formats' descriptions, not from the decoders that they test.
"""
