"""Programs that train, prepare, score and check on any machine: `cptlaw train` and `python -m launch.train` are one.

`flags` says which there are and what they are told; the other modules are imported when one runs.
"""
