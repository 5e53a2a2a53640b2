"""What a team asks: a study's config and grid, the mixture study, the selection study, scoring, footprint."""
