"""Twenty thousand samples in one store."""
