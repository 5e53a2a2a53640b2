"""Builds a study's token stores, and nothing else: on a machine with many cores, before the accelerators are paid for.

    python -m launch.prepare --config configs/pythia.py --workdir /shared/runs/pythia

Stop or kill it whenever you like; the same command continues. Everything else then finds the stores in the workdir.
"""

from launch import common


def main() -> None:
    prepared = common.prepare()
    print(f"{prepared.workdir.data}: {', '.join(prepared.data)}; {prepared.vocab_size} token ids")


if __name__ == "__main__":
    common.run(main, multihost=False)
