"""Scoring a study's corpora under its runs: what `perplexity`, which sees arrays only, is given."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cptlaw.data import build, subsets
from cptlaw.data.store import TokenStore
from cptlaw.errors import UserError
from cptlaw.experiments import rundir
from cptlaw.experiments.grid import Run
from cptlaw.experiments.rundir import RunDir
from cptlaw.models import transformer
from cptlaw.perplexity import score as score_lib
from cptlaw.training.checkpoints import load_params
from cptlaw.training.sharding import Layout, make_mesh
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

    `options` are those of `perplexity.score.score`; without `out` the scores lie in WORKDIR/scores.
    """
    out = out or workdir / "scores" / f"{corpus}-{split}-{run.id}-{chunk}"
    store = TokenStore.open(workdir / "data" / corpus / split)
    params, cfg, layout = load_run(RunDir(workdir, run))
    sizes: np.ndarray = subsets.token_bytes(build.load_vocabulary(workdir / "data"))
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
