"""`cptlaw checks` as an absl program (cptlaw/launching/checks.py)."""

from launch.common import run

if __name__ == "__main__":
    run("checks")
