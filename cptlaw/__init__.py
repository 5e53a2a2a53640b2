"""cptlaw: predict continual pre-training before paying for it."""

__version__ = "0.1.0"
