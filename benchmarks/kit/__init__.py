"""What several benchmarks share: facts of the machine, raws to measure with, a clock a stage."""
