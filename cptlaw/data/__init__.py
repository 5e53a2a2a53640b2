"""Corpora, seqio tasks and vocabularies, token stores, mixtures by token share, batches.

`store`, `mixture` and `batches` are NumPy only; TensorFlow and seqio are imported when tokens are made, never before.
"""
