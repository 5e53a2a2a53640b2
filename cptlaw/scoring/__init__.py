"""The jitted evaluation and scoring of text under a model. Token arrays only."""
