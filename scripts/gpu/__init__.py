"""The checks of `scripts.gpu_check`, by subject."""
