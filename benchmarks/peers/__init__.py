"""The loader beside what people stream images from instead: ``python -m benchmarks.peers``."""
