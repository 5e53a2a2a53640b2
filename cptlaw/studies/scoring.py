"""Scores a study's corpora under its runs. `cptlaw.scoring` sees arrays only; this module finds them in a workdir.

`python -m cptlaw.studies.scoring WORKDIR RUN CORPUS SPLIT CHUNK PROGRESS` does one in a process of its own, which
gives the accelerator back when it ends.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cptlaw import cache
from cptlaw.data import build
from cptlaw.data.store import TokenStore
from cptlaw.errors import UserError, exit_code
from cptlaw.execution import rundir
from cptlaw.execution.run import Run
from cptlaw.execution.rundir import RunDir
from cptlaw.execution.workdir import Workdir
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
        raise UserError(f"{directory.task}: the run is {directory.state()}; finish it first")
    mesh: Mapping[str, Any] = directory.run.mesh
    cfg, layout = directory.run.config, Layout(make_mesh(**mesh))
    abstract = make_start(cfg, Optimizer(), layout)[1].params
    return load_params(directory.checkpoints, abstract), cfg, layout


def score_apart(workdir: Workdir, run: Run, corpus: str, split: str, *, chunk: int, progress: bool) -> Path:
    """`score_run` in a process of its own."""
    words = [str(workdir), run.id, corpus, split, str(chunk), str(int(progress))]
    done = subprocess.run([sys.executable, "-m", "cptlaw.studies.scoring", *words])
    if done.returncode:
        raise UserError(f"{workdir}: scoring {corpus}/{split} ended with exit code {done.returncode}, see above")
    return workdir.scores(corpus, split, run.id, chunk)


def score_run(
    workdir: Workdir,
    run: Run,
    corpus: str,
    split: str,
    *,
    chunk: int,
    out: Path | None = None,
    progress: bool = False,
    **options: Any,
) -> Path:
    """Scores what is left of one of the study's token stores under a run's last parameters; returns the folder.

    `options` are those of `scoring.chunks.score`; without `out` the scores lie at `workdir.scores`.
    """
    out = out or workdir.scores(corpus, split, run.id, chunk)
    store = TokenStore.open(workdir.store(corpus, split))
    params, cfg, layout = load_run(RunDir(workdir, run))
    sizes: np.ndarray = build.load_vocabulary(workdir.data).token_bytes()
    workdir.fetch()  # shards that an earlier process has published
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
    workdir.publish()
    return out


def find_run(workdir: Workdir, run_id: str) -> Run:
    """A run of the workdir by its id.

    Raises:
      UserError: there is none.
    """
    if run_id not in (known := workdir.run_ids()):
        raise UserError(f"{workdir}: no run {run_id!r}; there are {', '.join(known) or 'none'}")
    return rundir.read_run(workdir.task(run_id))


def main(workdir: str, run_id: str, corpus: str, split: str, chunk: str, progress: str) -> int:
    """Scores in a process of its own; returns the exit code."""
    cache.keep_compiled()

    def score() -> None:
        run = find_run(Workdir(workdir), run_id)
        score_run(Workdir(workdir), run, corpus, split, chunk=int(chunk), progress=progress == "1")

    return exit_code("scoring", score)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
