"""Decoder-only Transformers: `init` and `apply` on plain parameter trees. Token arrays only."""
