"""Training of one model: step, schedules, sharding, checkpoints and the loop. Token arrays only."""
