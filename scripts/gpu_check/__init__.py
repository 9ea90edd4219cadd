"""What only a GPU can tell, by subject; ``python -m scripts.gpu_check`` runs it (`__main__`)."""
