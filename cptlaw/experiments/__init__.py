"""A grid of continual pre-training runs: plan it, run it, resume it, collect its runs table."""
