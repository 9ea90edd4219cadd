"""What an ingest needs from the machine, taken away: disk, files, memory, sources, the clock."""
