"""`cptlaw prepare` as an absl program (cptlaw/launching/prepare.py)."""

from launch.common import run

if __name__ == "__main__":
    run("prepare")
