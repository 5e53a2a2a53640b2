"""Runs on disk and the processes that train them: one run, a group, a sweep. Knows no law and no study."""
