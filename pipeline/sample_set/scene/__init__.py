"""A street at night, drawn: what stands where (`composition`), and how it looks (`render`)."""
