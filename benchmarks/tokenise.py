"""MB/s of text into a token store: seqio's Task in one process against `build.prepare` in one and in several.

    python benchmarks/tokenise.py                                   # 30 MB of the standard library's source
    python benchmarks/tokenise.py --source corpus/ --megabytes 500 --processes 1 4 16

The ways take turns, so that a busy machine slows all of them; each is given by its fastest turn (clock) and that turn's
processor time, children included. Imports are not counted; the processes' start is. All ways write the same tokens,
which is checked.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cptlaw import cache
from cptlaw.data import build, corpora, tasks, vocabularies


def documents(source: str, size: int, path: Path) -> int:
    """Writes about `size` bytes of the source's documents, repeated with a number in front, as JSON lines."""
    texts = [document.text for document in corpora.open_corpus("text", source, cache.directory()).documents()]
    written = 0
    with path.open("w") as file:
        for number, text in enumerate(itertools.cycle(texts)):
            if written >= size:
                return written
            written += len(text.encode())
            file.write(json.dumps({"text": f"{number} {text}"}) + "\n")
    raise AssertionError


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Clock and processor time of `work`."""
    start, used = time.perf_counter(), os.times()
    work()
    clock = time.perf_counter() - start
    return clock, sum(after - before for before, after in zip(used[:4], os.times()[:4]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="recipe:python_stdlib")
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        size = documents(args.source, int(args.megabytes * 1e6), directory / "text.jsonl")
        source = {"text": str(directory / "text.jsonl")}
        vocab = {"kind": "sentencepiece", "size": args.vocabulary, "train_on": "text"}
        fresh = (directory / str(number) for number in itertools.count())
        first = build.prepare(source, vocab, trained := next(fresh), directory)["text"]["train"]
        vocabulary = (trained / "vocabulary").resolve()
        corpus = corpora.open_corpus("text", source["text"], directory)
        task = tasks.register_task("benchmark", corpus, build.load_vocabulary(trained), 0.05)

        def by_seqio() -> None:
            for split in corpora.SPLITS:
                rows = task.get_dataset(None, split, use_cached=False, shuffle=False).as_numpy_iterator()
                with vocabularies.silent():
                    tokens = np.concatenate([row["targets"] for row in rows])
                assert split != "train" or np.array_equal(tokens, first.tokens)

        def by_prepare(processes: int) -> None:
            target = next(fresh)
            target.mkdir()
            (target / "vocabulary").symlink_to(vocabulary)
            stores = build.prepare(source, vocab, target, directory, processes=processes)
            assert stores["text"]["train"].ledger["tokens_sha256"] == first.ledger["tokens_sha256"]

        ways: dict[str, Callable[[], None]] = {"seqio Task": by_seqio}
        for processes in args.processes:
            ways[f"prepare, {processes} process{'es' * (processes > 1)}"] = lambda count=processes: by_prepare(count)
        best: dict[str, tuple[float, float]] = {}
        for _ in range(args.turns):
            for way, work in ways.items():
                best[way] = min(best.get(way, (np.inf, np.inf)), seconds(work))
        slowest = best["seqio Task"]
        print(f"{size / 1e6:.0f} MB, vocabulary {args.vocabulary}, {os.cpu_count()} cores")
        for way, (clock, cpu) in best.items():
            print(
                f"{way:24} {size / 1e6 / clock:6.1f} MB/s  {slowest[0] / clock:5.1f}x   {cpu:6.1f} s of processor time"
            )


if __name__ == "__main__":
    main()
