"""From a mosaic to the numbers that are stored. Pure: arrays and plain values in and out, no files.

Open `steps` first: it develops one raw into every level of a recipe.

- `frame`: which part of the sensor a sample shows, and which way up.
- `colour`: camera RGB to XYZ, and the fixed point it is stored in.
- `resample`: how much of each pixel goes into each smaller one.
- `statistics`: mean and percentiles of a level, from its histogram.
- `kernels`: the loops over pixels, compiled.
"""
