"""`cptlaw sweep` as an absl program (cptlaw/launching/sweep.py)."""

from launch.common import run

if __name__ == "__main__":
    run("sweep")
