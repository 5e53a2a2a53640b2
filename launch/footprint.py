"""`cptlaw footprint` as an absl program (cptlaw/launching/footprint.py)."""

from launch.common import run

if __name__ == "__main__":
    run("footprint")
