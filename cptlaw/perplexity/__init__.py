"""Scoring of text under a model: sums and counts by document. Token arrays only."""
