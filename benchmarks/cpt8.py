"""Writes the shipped table `cpt8` and the measured part of its data sheet from the workdir of its grid.

    cptlaw sweep --config configs/cpt8.py --workdir runs/cpt8 --have cpt8     trains what is missing
    python -m benchmarks.cpt8 --workdir runs/cpt8                                       writes what is there

Runs of the shipped table that the workdir does not hold keep their rows. A sweep may go on meanwhile: only finished
runs are taken. The data sheet's words are written by hand; what stands below its mark is computed here: how much of the
grid is done, and how far apart runs are that differ by their seed alone.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from configs import cpt8
from cptlaw import atomic, runs, tables
from cptlaw.execution import sweep
from cptlaw.execution.run import Run
from cptlaw.models import transformer
from cptlaw.studies import config as config_lib
from cptlaw.studies import grid, prepared
from cptlaw.studies.settings import Study

NAME = "cpt8"
MARK = "<!-- Below this line benchmarks/cpt8.py writes. -->\n"


def parts(study: Study, planned: Sequence[Run], table: pd.DataFrame) -> list[str]:
    """A Markdown table: of each part of the grid, the runs that are there, of how many, and their share of its FLOPs.

    Base models are not counted. A run, and a trunk with its branches, is there when the table has all of its rows.
    """
    done = set(zip(table["run"], table["tokens"].astype(int)))
    lines = ["| part | runs done | of | share of the FLOPs of training |", "|---|---|---|---|"]
    spent, counted, seen = {True: 0.0, False: 0.0}, {True: 0, False: 0}, set()
    data = planned[0].data
    vocabulary = transformer.Config(**planned[0].model).vocab_size
    for part in study.grid_sizes():
        alone = dataclasses.replace(study, grid={part: study.grid[part]}, first=())
        own = [run for run in grid.plan(alone, vocabulary, data) if run.init and run.id not in seen]
        seen |= {run.id for run in own}
        groups: dict[str, list[Run]] = {}
        for run in own:
            groups.setdefault(run.trunk or run.id, []).append(run)
        whole = {
            name: all((name, tokens) in done for run in group for tokens in (0, *run.eval_tokens))
            for name, group in groups.items()
        }
        flops = {name: sum(run.flops() for run in group) for name, group in groups.items()}
        for name in groups:
            spent[whole[name]] += flops[name]
            counted[whole[name]] += 1
        mine = sum(flops[name] for name in groups if whole[name])
        lines.append(f"| {part} | {sum(whole.values())} | {len(groups)} | {mine / sum(flops.values()):.0%} |")
    total = sum(spent.values())
    lines.append(f"| all | {counted[True]} | {sum(counted.values())} | {spent[True] / total:.0%} |")
    return lines


def stores(data: dict[str, str]) -> list[str]:
    """A Markdown table: the hashes of the token stores, which decide the runs' ids."""
    rows = [f"| {corpus} | {' | '.join(f'`{one}`' for one in hashes.split())} |" for corpus, hashes in data.items()]
    return ["| corpus | sha256 of its training tokens | of its held-out tokens |", "|---|---|---|", *rows]


def noise(table: pd.DataFrame) -> list[str]:
    """A Markdown table: the standard deviation of the loss between runs that differ by one seed alone, by size.

    The seed is that of the base model, or of the data order. Pooled over mixes, at the tokens that all runs share, in
    nats, with the degrees of freedom; of runs with a constant learning rate.
    """
    at = table[(table["tokens"] == cpt8.SHORT[-1]) & (table["lr"] > 0)]
    mix = ["params", "model", "eval", *(f"w_{name}" for name in runs.corpora(table))]
    kinds = {"base": [*mix, "seed"], "seed": [*mix, "base"]}
    lines = [
        "| size | corpus | between base seeds (nats) | freedom | between data orders (nats) | freedom |",
        "|---|---|---|---|---|---|",
    ]
    general = at["eval"] == "wiki"
    for size in at.sort_values("params")["model"].unique():
        for words, which in {"general": general, "domain": ~general}.items():
            cells = []
            for varies, same in kinds.items():
                rows = at[which & (at["model"] == size)]
                groups = [g["loss"].to_numpy() for _, g in rows.groupby(same) if g[varies].nunique() == len(g) > 1]
                freedom = sum(len(g) - 1 for g in groups)
                sd = np.sqrt(sum(((g - g.mean()) ** 2).sum() for g in groups) / freedom) if freedom else np.nan
                cells += [f"{sd:.4f}" if freedom else "", str(freedom)]
            lines.append(f"| {size} | {words} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="where the grid of configs/cpt8.py was trained")
    args = parser.parse_args()
    study = config_lib.parse(cpt8.get_config())
    # Only runs that this config asks for are collected, whichever config the workdir was begun with.
    ready = prepared.prepare(study, args.workdir, update_config=True, progress=False)
    planned = grid.plan(study, ready.vocab_size, ready.data)
    table = sweep.collect(planned, ready.workdir, tables.load(NAME) if NAME in tables.names() else None)
    folder = Path(tables.__file__).parent
    runs.write(table, folder / f"{NAME}.parquet")
    sheet = folder / f"{NAME}.md"
    words = sheet.read_text().partition(MARK)[0]
    state = [
        f"{len(table):,} rows of {table['run'].nunique()} runs. Content hash `{runs.digest(table)[:16]}`.",
        "",
        *parts(study, planned, table),
        "",
        "## Noise",
        "",
        f"Standard deviations at {cpt8.SHORT[-1]:,} tokens between runs that differ by one seed alone:",
        "",
        *noise(table),
        "",
        "## Token stores",
        "",
        "Whoever has the same tokens continues the same runs:",
        "",
        *stores(ready.data),
        "",
    ]
    atomic.write_text(sheet, words + MARK + "\n".join(["", "## How much is done", "", *state]))
    print(f"{folder / NAME}.parquet: {table['run'].nunique()} runs, {len(table)} rows")


if __name__ == "__main__":
    main()
