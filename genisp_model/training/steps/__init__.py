"""What one optimiser step is made of.

- `step`: what it tells, read from the device in one piece.
- `schedule`: its learning rate.
- `precision`: fewer bits, and the scale of the loss in float16.
- `speedups`: other ways to the same numbers, and which pay on which device.
- `cuda_graph`: its forward and backward pass launched as one.
- `average`: a moving average of the weights after it.
"""
