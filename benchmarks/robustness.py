"""What a kill and a damaged file cost: a study that is killed at random moments, and every file it writes, mutated.

    python -m benchmarks.robustness                     # 20 kills and 100 mutations of each file, about 15 minutes
    python -m benchmarks.robustness --kills 100 --mutations 1000 --seed 1

Kills: the launchers of a tiny study (tokens, base models, mixes, scores) are started and killed with SIGKILL, the
launcher, a worker, or all of it, until they have been killed that often; then they are let finish. Token stores, runs
table and scores must be those of a study that nobody killed, to the byte (scores: the same rows).

Mutations: bits, bytes, lengths, lines, values and keys of JSON are changed at random, and the file is read as the
product reads it. Each mutation is
  refused    by an error for the user that names the file
  harmless   read, with the same content (white space, a checkpoint whose damage another one makes good, with a warning)
  unnamed    refused without the file's name
  silent     read as other content, without a word
  traceback  an error that is no message
"""

import argparse
import collections
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cptlaw import fitting, records, runs
from cptlaw.data import build
from cptlaw.data.store import TokenStore, verify
from cptlaw.errors import UserError
from cptlaw.execution import rundir, sweep
from cptlaw.execution.rundir import RunDir
from cptlaw.execution.workdir import Workdir
from cptlaw.planning.decision import Decision
from cptlaw.planning.tradeoff import trade_off
from cptlaw.selection import scores
from cptlaw.training import writers

ROOT = Path(__file__).parents[1]

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({{
        "name": "tiny",
        "corpora": {{"prose": {{"source": "{0}/prose.jsonl"}}, "code": {{"source": "{0}/code.jsonl"}}}},
        "general": "prose",
        "domains": ("code",),
        "vocabulary": {{"kind": "bytes"}},
        "validation_share": 0.2,
        "model": {{"layers": 1, "d_model": 16, "heads": 1, "kv_heads": 1, "d_ff": 32}},
        "sizes": {{"small": {{}}}},
        "base": {{"tokens": 64 * 1500, "peak_lr": 1e-2, "warmup_tokens": 64}},
        "cpt": {{"tokens": 64 * 1000, "peak_lr": 1e-3, "warmup_tokens": 64}},
        "eval_tokens": (64 * 100, 64 * 1000),
        "grid": {{"small": {{"domain_shares": (0.0, 0.5)}}}},
        "held_out": {{"size": "small", "tokens": 64 * 500}},
        "seq_len": 8,
        "batch_size": 8,
        "workers": 1,
        "checkpoint_seconds": 0.5,
        "monitor": {{"spike": {{"window": 5}}}},
    }})
"""


def study(folder: Path) -> Path:
    """Writes two corpora and a config."""
    rng = np.random.default_rng(0)
    for name in ("prose", "code"):
        words = ["".join(rng.choice(list("abcdefgh"), rng.integers(2, 8))) for _ in range(300)]
        texts = [" ".join(rng.choice(words, rng.integers(5, 60))) for _ in range(400)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "config.py").write_text(CONFIG.format(folder))
    return folder / "config.py"


# --- kills


def commands(config: Path, workdir: Path) -> list[list[str]]:
    words = [f"--config={config}", f"--workdir={workdir}"]
    score = ["--size=small", "--corpus=code", "--chunk=8", "--batch_tokens=512"]
    return [[sys.executable, "-m", "launch.sweep", *words], [sys.executable, "-m", "launch.score", *words, *score]]


def started(command: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu"}
    options: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "start_new_session": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **options)


def finish(config: Path, workdir: Path) -> float:
    """Seconds."""
    begin = time.monotonic()
    for command in commands(config, workdir):
        process = started(command)
        _, errors = process.communicate()
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{errors}")
    return time.monotonic() - begin


def workers(workdir: Path) -> set[int]:
    """Process ids of the workers that hold a run."""
    found = set()
    for path in workdir.glob("runs/*/lock"):
        words = path.read_text().split()
        if len(words) == 2 and b"cptlaw.execution.worker" in _command(int(words[1])):
            found.add(int(words[1]))
    return found


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def killed(config: Path, workdir: Path, kills: int, seconds: float, rng: random.Random) -> collections.Counter:
    """Kills the study's launchers `kills` times, each started again by the same command."""
    done: collections.Counter = collections.Counter()
    todo = commands(config, workdir)
    while done.total() < kills and todo:
        process = started(todo[0])
        end = time.monotonic() + rng.uniform(0.2, 0.6 * seconds)
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is not None:
            process.communicate()
            if process.returncode:
                raise SystemExit(f"{' '.join(todo[0])} ended with {process.returncode}")
            todo.pop(0)
            continue
        mine = workers(workdir)
        whom = rng.choice(["launcher", "worker", "all"]) if mine else "launcher"
        if whom != "launcher":
            for worker in mine:
                _kill(os.kill, worker)
        if whom != "worker":
            _kill(os.killpg, process.pid)
        else:
            time.sleep(rng.uniform(0.5, 3))
            _kill(os.killpg, process.pid)
        process.communicate()
        while workers(workdir):  # they save, and leave
            time.sleep(0.05)
        done[whom] += 1
    return done


def _kill(how: Callable[[int, int], None], process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        how(process, signal.SIGKILL)


def compare(whole: Path, other: Path) -> list[str]:
    """What differs between two finished studies."""
    wrong = []
    for path in sorted(whole.glob("data/*/*/*")):
        same = other / path.relative_to(whole)
        if path.name != "verified.json" and path.read_bytes() != same.read_bytes():
            wrong.append(f"{same} is another")
    if (whole / "runs.csv").read_bytes() != (other / "runs.csv").read_bytes():
        wrong.append("the runs tables differ")
    one, two = (scores.read(next(folder.glob("scores/*"))) for folder in (whole, other))
    if not one.equals(two):
        wrong.append("the scores differ")
    return wrong


# --- mutations


def mutate(data: bytes, rng: random.Random, is_json: bool) -> bytes:
    """One random change."""
    kinds = ["bit", "byte", "cut", "drop", "repeat", "insert", "empty"] + ["value", "key"] * 4 * is_json
    kind, at = rng.choice(kinds), rng.randrange(max(1, len(data)))
    if kind in ("value", "key"):
        pattern = rb'(?<=: )("[^"\n]*"|-?[0-9.]+(e-?\d+)?|null|true|false)' if kind == "value" else rb'"\w+"(?=:)'
        found = list(re.finditer(pattern, data))
        if found:
            place = rng.choice(found)
            new = rng.choice([b"null", b"-1", b'"x"', b"[]", b"{}", b"1e999", b"0.5", b"true", b'"' + b"y" * 50 + b'"'])
            return data[: place.start()] + (new if kind == "value" else b'"other"') + data[place.end() :]
    length = rng.choice([1, 2, 8, 100])
    changed = {
        "bit": data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :] if data else b"",
        "byte": data[:at] + rng.randbytes(1) + data[at + 1 :],
        "cut": data[:at],
        "drop": data[:at] + data[at + length :],
        "repeat": data[:at] + data[at : at + length] + data[at:],
        "insert": data[:at] + rng.randbytes(length) + data[at:],
        "empty": b"",
    }
    return changed.get(kind, data[:at])


Reader = Callable[[], Any]


def readers(workdir: Path, extra: Path) -> Iterator[tuple[str, Path, Reader]]:
    """(kind of file, a file, how the product reads it: returns its content in a form that can be compared)."""
    home = Workdir(workdir)
    all_runs = [rundir.read_run(path) for path in sorted(home.runs.iterdir())]
    base, mix = next(r for r in all_runs if r.init is None), next(r for r in all_runs if r.init)

    def table() -> str:
        return sweep.collect([base, mix], home).to_json(double_precision=15)

    def store() -> tuple[str, str]:
        directory = home.store("code", "train")
        verify(directory)
        opened = TokenStore.open(directory)
        arrays = b"".join(array.tobytes() for array in (opened.tokens, opened.offsets, opened.doc_bytes))
        return records.digest(opened.ledger), records.digest(arrays.hex())

    folder = home.run(mix.id)
    yield "result.json", folder / "result.json", table
    yield "rows.jsonl", folder / "rows.jsonl", table
    yield "run.json", folder / "run.json", lambda: rundir.read_run(folder)
    yield "metrics.jsonl, no hash", folder / "metrics.jsonl", lambda: _metrics(folder / "metrics.jsonl")
    for name in ("ledger.json", "tokens.bin", "offsets.npy", "doc_bytes.npy", "verified.json"):
        yield name, home.store("code", "train") / name, store
    yield "vocabulary.json", home.data / "vocabulary" / "vocabulary.json", lambda: build.load_vocabulary(home.data)
    scored = next((workdir / "scores").iterdir())
    for name in ("scores.json", "shard-00000.parquet"):
        # Facts of the scores are compared with what is asked, so they are a part of the content.
        yield name, scored / name, lambda: (scores.read(scored).to_json(double_precision=15), scores.meta(scored))
    checkpoint = sorted(RunDir(home, base).checkpoints.iterdir(), key=lambda path: int(path.name))[-1]
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size):
        yield f"checkpoint: {path.relative_to(checkpoint)}", path, _restoring(home, base)
    yield "fit", extra / "code.json", lambda: json.dumps(fitting.Fit.load(extra / "code.json").__dict__, default=repr)
    yield "decision", extra / "answer.json", lambda: json.dumps(Decision.load(extra / "answer.json").to_json())


def _metrics(path: Path) -> str:
    writers._take_back(path, 10**9)
    return path.read_text()


def _restoring(workdir: Workdir, run: Any) -> Reader:
    from cptlaw.execution.job import layout
    from cptlaw.training.checkpoints import Checkpoints
    from cptlaw.training.step import make_start

    abstract = make_start(run.config, run.make_optimizer(), layout(run))[1]

    def restore() -> tuple[str, list[float]]:
        with Checkpoints(RunDir(workdir, run).checkpoints) as checkpoints:
            restored = checkpoints.restore(abstract)
            assert restored is not None
            import jax

            leaves = [np.asarray(leaf).tobytes().hex() for leaf in jax.tree.leaves(restored[1])]
            return records.digest(leaves), checkpoints.memory

    return restore


def fits(folder: Path) -> None:
    """A saved fit and a decision, of a table that a law made."""
    rng, rows = np.random.default_rng(0), []
    for run, (size, share) in enumerate((n, r) for n in (3e7, 1e8, 4e8) for r in (0.1, 0.25, 0.5, 0.75, 0.9)):
        for tokens in (2e8, 5e8, 1e9, 3e9):
            for corpus, r in (("web", 1 - share), ("code", share)):
                loss = (
                    1.8 + 0.35 * (size / 1e9) ** -0.2 + 0.1 * r**0.8 / (tokens / 1e9) ** 0.35 + 0.2 / (r + 0.1) ** 0.3
                )
                at = {"run": str(run), "params": size, "tokens": tokens, "w_web": 1 - share, "w_code": share}
                rows.append({**at, "eval": corpus, "loss": loss + rng.normal(0, 1e-3)})
    table = pd.DataFrame(rows)
    runs.check(table)
    both = {corpus: fitting.fit(table, "dcpt:constrained=false", corpus, bootstrap=20) for corpus in ("web", "code")}
    both["code"].save(folder / "code.json")
    base = float(table[table["eval"] == "web"]["loss"].min())
    question = {"params": 1e8, "tokens": 1e9, "base_loss": base, "tolerance": 0.5}
    trade_off(both["web"], both["code"], **question).save(folder / "answer.json")


def judge(path: Path, read: Reader, wanted: Any) -> tuple[str, str]:
    """The class of one mutation, and what was said."""
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = read()
    except UserError as error:
        named = path.name in str(error) or str(path.parent) in str(error)
        return ("refused" if named or _in_checkpoint(path, error) else "unnamed"), str(error)
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {str(error)[:200]}"
    if found == wanted:
        return "harmless", ""
    if any("damaged" in str(warning.message) for warning in said):
        return "harmless", "fell back"
    return "silent", ""


def _in_checkpoint(path: Path, error: UserError) -> bool:
    """A checkpoint is named by its directory: whose file it is that is damaged only the array format knows."""
    return any(parent.name == "checkpoints" and str(parent) in str(error) for parent in path.parents)


def fuzz(workdir: Path, extra: Path, mutations: int, rng: random.Random) -> dict[str, collections.Counter]:
    counts: dict[str, collections.Counter] = {}
    for kind, path, read in readers(workdir, extra):
        whole, wanted = path.read_bytes(), read()
        counts[kind] = found = collections.Counter()
        checkpoint = kind.startswith("checkpoint")
        backup = extra / "backup"
        if checkpoint:  # a damaged one is removed when another is sound
            root = next(parent for parent in path.parents if parent.name == "checkpoints")
            shutil.copytree(root, backup)
        for _ in range(mutations if not checkpoint else max(1, mutations // 20)):
            changed = mutate(whole, rng, ".json" in kind or kind in ("fit", "decision"))
            if changed == whole:
                continue
            path.write_bytes(changed)
            verdict, said = judge(path, read, wanted)
            found[verdict] += 1
            if verdict in ("silent", "traceback", "unnamed") and found[verdict] <= 3:
                print(f"  {verdict}: {kind}: {said}", file=sys.stderr)
            if checkpoint:
                shutil.rmtree(root)
                shutil.copytree(backup, root)
            else:
                path.write_bytes(whole)
        if checkpoint:
            shutil.rmtree(backup)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--mutations", type=int, default=100, help="of each file; of a checkpoint's files a twentieth")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = study(folder)
        seconds = finish(config, folder / "whole")
        print(f"a study of 3 runs, and its scores: {seconds:.0f} s")
        if args.kills:
            done = collections.Counter[str]()
            differing, trial = 0, 0
            while done.total() < args.kills:
                trial += 1
                other = folder / f"killed-{trial}"
                done += killed(config, other, args.kills - done.total(), seconds, rng)
                finish(config, other)
                wrong = compare(folder / "whole", other)
                differing += bool(wrong)
                for line in wrong:
                    print(f"  {line}", file=sys.stderr)
                deaths = sum(1 for path in other.glob("runs/*/attempts.jsonl") for _ in path.open())
                print(f"study {trial}: {deaths} deaths of a run's worker seen by a sweep")
                shutil.rmtree(other)
            whom = ", ".join(f"{count} of {who}" for who, count in sorted(done.items()))
            print(f"{done.total()} kills ({whom}) over {trial} studies: {differing} differ from the one nobody killed")
        if args.mutations:
            extra = folder / "extra"
            extra.mkdir()
            fits(extra)
            counts = fuzz(folder / "whole", extra, args.mutations, rng)
            names = ("refused", "harmless", "unnamed", "silent", "traceback")
            merged: dict[str, collections.Counter] = {}
            for kind, found in counts.items():
                key = "checkpoints" if kind.startswith("checkpoint") else kind
                merged[key] = merged.get(key, collections.Counter()) + found
            print(f"{'file':24}{'tried':>8}" + "".join(f"{name:>11}" for name in names))
            total = sum(merged.values(), collections.Counter())
            for kind, found in [*merged.items(), ("all", total)]:
                print(f"{kind:24}{found.total():8}" + "".join(f"{found[name]:11}" for name in names))


if __name__ == "__main__":
    main()
