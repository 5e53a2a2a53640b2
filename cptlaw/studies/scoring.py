"""Scoring a study's corpora under its runs: what `perplexity`, which sees arrays only, is given.

`python -m cptlaw.studies.scoring WORKDIR RUN CORPUS SPLIT CHUNK PROGRESS` does one in a process of its own, which
gives the accelerator back when it ends.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cptlaw import cache
from cptlaw.data import build
from cptlaw.data.store import TokenStore
from cptlaw.errors import UserError
from cptlaw.execution import rundir
from cptlaw.execution.run import Run
from cptlaw.execution.rundir import RunDir
from cptlaw.models import transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.scoring import chunks as score_lib
from cptlaw.training.checkpoints import load_params
from cptlaw.training.step import Optimizer, make_start


def load_run(directory: RunDir) -> tuple[transformer.Params, transformer.Config, Layout]:
    """The last parameters of a run, over the run's mesh or all devices.

    Raises:
      UserError: the run is not finished, or its checkpoints were not kept.
    """
    if directory.state() != rundir.FINISHED:
        raise UserError(f"{directory.path}: the run is {directory.state()}; finish it first")
    mesh: Mapping[str, Any] = directory.run.mesh
    cfg, layout = transformer.Config(**directory.run.model), Layout(make_mesh(**mesh))
    abstract = make_start(cfg, Optimizer(), layout)[1].params
    return load_params(directory.checkpoints, abstract), cfg, layout


def scores_path(workdir: Path, run: Run, corpus: str, split: str, chunk: int) -> Path:
    """Where a study keeps the scores of one of its token stores under one of its runs."""
    return workdir / "scores" / f"{corpus}-{split}-{run.id}-{chunk}"


def score_apart(workdir: Path, run: Run, corpus: str, split: str, *, chunk: int, progress: bool) -> Path:
    """`score_run` in a process of its own."""
    words = [str(workdir), run.id, corpus, split, str(chunk), str(int(progress))]
    done = subprocess.run([sys.executable, "-m", "cptlaw.studies.scoring", *words])
    if done.returncode:
        raise UserError(f"{workdir}: scoring {corpus}/{split} ended with exit code {done.returncode}, see above")
    return scores_path(workdir, run, corpus, split, chunk)


def score_run(
    workdir: Path,
    run: Run,
    corpus: str,
    split: str,
    *,
    chunk: int,
    out: Path | None = None,
    progress: bool = False,
    **options: Any,
) -> Path:
    """Scores one of the study's token stores under a run's last parameters, or what is left of it; returns where.

    `options` are those of `perplexity.score.score`; without `out` the scores lie at `scores_path`.
    """
    out = out or scores_path(workdir, run, corpus, split, chunk)
    store = TokenStore.open(workdir / "data" / corpus / split)
    params, cfg, layout = load_run(RunDir(workdir, run))
    sizes: np.ndarray = build.load_vocabulary(workdir / "data").token_bytes()
    score_lib.score(
        params,
        cfg,
        store,
        out,
        chunk=chunk,
        model={"run": run.id, "tokens": run.tokens},
        layout=layout,
        token_bytes=sizes,
        progress=progress,
        **options,
    )
    return out


def find_run(workdir: Path, run_id: str) -> Run:
    """A run of the workdir by its id.

    Raises:
      UserError: there is none.
    """
    path = rundir.path_of(workdir, run_id) / "run.json"
    if not path.is_file():
        known = sorted(p.parent.name for p in (workdir / "runs").glob("*/run.json"))
        raise UserError(f"{workdir}: no run {run_id!r}; there are {', '.join(known) or 'none'}")
    return Run.of(json.loads(path.read_text()))


def main(workdir: str, run_id: str, corpus: str, split: str, chunk: str, progress: str) -> int:
    """Scores, says what the user can mend, and returns the exit code."""
    cache.keep_compiled()
    try:
        run = find_run(Path(workdir), run_id)
        score_run(Path(workdir), run, corpus, split, chunk=int(chunk), progress=progress == "1")
    except UserError as error:
        print(f"scoring: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
