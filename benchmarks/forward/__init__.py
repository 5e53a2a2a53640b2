"""Forward questions of real and simulated tables: what `benchmarks/calibration.py` asks and how it scores."""
