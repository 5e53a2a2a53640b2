"""The units that several rooms name."""

PERPLEXITY = ("perplexity", "log-perplexity", "bits-per-byte")  # of a chunk's score, and of its mean and spread
