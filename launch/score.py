"""`cptlaw score` as an absl program (cptlaw/launching/score.py)."""

from launch.common import run

if __name__ == "__main__":
    run("score")
