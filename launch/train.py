"""`cptlaw train` as an absl program (cptlaw/launching/train.py)."""

from launch.common import run

if __name__ == "__main__":
    run("train")
