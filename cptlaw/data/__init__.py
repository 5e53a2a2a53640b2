"""Corpora, seqio tasks and vocabularies, token stores, mixtures by token share, batches.

`store`, `mixture` and `batches` are NumPy only. TensorFlow is imported to read `tfds:` sources and for seqio Tasks, for
nothing else.
"""
