"""Which documents to train on: scores, their landscape, choosing by them. NumPy, pandas and Arrow only."""
