"""The selection study: which documents of a domain are worth training on, asked of real runs.

For each domain: its text is scored under the base model, subsets are drawn that differ in mean and spread of perplexity
(the cells), the base is continued on each, and the perplexity law and its null competitors are fitted. Then the law's
best subset, and that of the competitor which predicted best, are held against random, low-, middle- and high-perplexity
text of the same tokens. Every step resumes. What it leaves in its directory: see `execution.workdir`; every subset is a
token store of its own.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd

from cptlaw import fields, fitting, laws, runs, units
from cptlaw.data import build
from cptlaw.data import subsets as stores
from cptlaw.data.store import TokenStore
from cptlaw.errors import UserError
from cptlaw.execution import sweep
from cptlaw.execution.run import Run
from cptlaw.execution.rundir import RunDir
from cptlaw.fields import ConfigError, NotEmpty, OneOf, Seed, at_least, between
from cptlaw.fitting import Comparison, Fit
from cptlaw.laws import perplexity
from cptlaw.planning.best_subset import best_subset
from cptlaw.selection import choose, landscape, scores
from cptlaw.selection.landscape import Region
from cptlaw.selection.pool import BY, Pool
from cptlaw.studies import config as config_lib
from cptlaw.studies import grid, scoring
from cptlaw.studies import selection_page as page
from cptlaw.studies.prepared import Prepared, repeated, say, worse_than_guessing
from cptlaw.studies.selection_found import CHOSEN, CONTROLS, Found, gaps, verdict
from cptlaw.studies.settings import Study

LAWS = ("perplexity", "perplexity_no_interaction", "perplexity_quadratic", "perplexity_tokens_only")
SIZE = "model"
Rules = Mapping[str, Mapping[str, Any]]  # name -> arguments of `choose.select` but fraction and seed


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a perplexity study's config says beside a study's own fields, as `config.subsets`.

    Attributes:
      share: token share of the domain in continual pre-training; the rest is the general corpus.
      chunk: tokens of a chunk.
      by: "chunk" or "document": what is taken or left whole.
      unit: what a chunk's x is measured in (see `selection.landscape`).
      spread: std or variance: what the law's sigma is (see `laws.perplexity`).
      winsor: quantile at which a chunk's x is clipped.
      fraction: share of the domain's chunks in every subset.
      levels: where the cells lie in what subsets can reach, from 0 to 1: in the range of means, then in the range of
        spreads at this mean. Every mean is combined with every spread.
      seeds: each cell is drawn and trained with each of them.
      confirm_seeds: the same for the chosen subsets and the controls. None is among `seeds`, so that no fit has seen
        their runs.
      bootstrap: resamples over runs of each fit.
    """

    share: Annotated[float, between(0, 1, open_low=True, what="a token share,")] = 0.8
    chunk: Annotated[int, at_least(1)] = 64
    by: Annotated[str, OneOf(BY)] = "chunk"
    unit: Annotated[str, OneOf(units.PERPLEXITY)] = "log-perplexity"
    spread: Annotated[str, OneOf(perplexity.SPREADS)] = "std"
    winsor: Annotated[float, between(0, 1, open_low=True, what="a quantile,")] = 0.995
    fraction: Annotated[float, between(0, 1, open_low=True, open_high=True, what="a share of the chunks,")] = 0.2
    levels: Annotated[tuple[float, ...], between(0, 1, open_low=True, open_high=True, what="a level lies")] = (
        0.15, 0.5, 0.85,
    )  # fmt: skip
    seeds: Annotated[tuple[Seed, ...], NotEmpty()] = (0, 1)
    confirm_seeds: tuple[Seed, ...] = (101, 102, 103)
    bootstrap: Annotated[int, at_least(0)] = 1000

    def __post_init__(self):
        for field in ("seeds", "confirm_seeds", "levels"):
            values = getattr(self, field)
            if len(set(values)) < len(values):
                raise ConfigError(f"subsets.{field}", f"each once, not {', '.join(map(str, values))}")
        if len(self.levels) < 2:
            raise ConfigError("subsets.levels", "at least two: one mean and one spread leave nothing to fit")
        if len(self.confirm_seeds) < 2 or set(self.confirm_seeds) & set(self.seeds):
            raise ConfigError("subsets.confirm_seeds", "at least two, and none of config.subsets.seeds")


def parse(config: Mapping[str, Any]) -> tuple[Study, Plan]:
    """Reads a selection study's config: the fields of `Plan` under `subsets`, and those of a `Study`.

    The study itself sets sizes, grid and held_out, and asks no question.

    Raises:
      ConfigError: naming the field.
    """
    plain = config_lib.plain(config)
    plan: Plan = fields.build(Plan, plain.pop("subsets", {}), "config.subsets")
    ours = {
        "sizes": {SIZE: {}},
        "grid": {SIZE: {"domain_shares": (plan.share,)}},
        "held_out": {"size": SIZE, "tokens": 0},
    }
    for field in ours:
        if field in plain:
            raise ConfigError(f"config.{field}", "a perplexity study has one model, config.model, and its own grid")
    return config_lib.parse({**plain, **ours}), plan


def run(prepared: Prepared, plan: Plan, *, retry_failed: bool = False, command: str = "") -> Iterator[Found]:
    """The whole study, domain by domain; see the module.

    Args:
      retry_failed: train runs that failed before again.
      command: what the reports say made them.

    Raises:
      UserError: a run failed, of which the study needs every one.
    """
    base = prepared.base(SIZE)
    _train_every(prepared, [base], "base", retry_failed)
    measured = RunDir(prepared.workdir, base).result() or {}
    at_start = pd.DataFrame(measured.get("losses", []), columns=["eval", "loss"])
    say(worse_than_guessing(at_start.assign(model=SIZE, tokens=0), prepared.vocab_size))
    for domain in prepared.study.domains:
        pool, test = (_pool(prepared, plan, base, domain, split) for split in ("train", "validation"))
        lab = _Lab(prepared, plan, base, domain, pool, retry_failed)
        found = _find(lab, test)
        _write_report(lab, found, command)
        prepared.workdir.publish()
        yield found


@dataclasses.dataclass(frozen=True)
class _Lab:
    """Draws subsets of one domain, and measures what the base learns from them.

    Attributes:
      base: the run of the base model.
      pool: the domain's chunks under it.
      retry_failed: train runs that failed before again.
    """

    prepared: Prepared
    plan: Plan
    base: Run
    domain: str
    pool: Pool
    retry_failed: bool

    def choose(self, rule: Mapping[str, Any], seed: int) -> np.ndarray:
        """The units that a rule takes of the pool with a seed."""
        return choose.select(self.pool, fraction=self.plan.fraction, seed=seed, **rule)

    def measure(self, rules: Rules, seeds: Iterable[int]) -> pd.DataFrame:
        """The runs table of every rule with every seed, which draws the subset and the order of its text.

        A run reads its subset as a corpus of its own. In the table that share is the domain's, and `subset`, `ppl_mean`
        and `ppl_std` tell which part of the domain it was.
        """
        study, domain, share = self.prepared.study, self.domain, self.plan.share
        planned: list[Run] = []
        facts: dict[str, dict[str, Any]] = {}
        for rule, options in rules.items():
            for seed in seeds:
                runs_of_subset, about = self._plan(rule, self.choose(options, seed), seed)
                planned += runs_of_subset
                facts |= {run.id: {"subset": rule, **about} for run in runs_of_subset}
        title = f"{domain}: {', '.join(rules)}" if len(rules) < 6 else domain
        _train_every(self.prepared, planned, title, self.retry_failed)
        table = sweep.collect(planned, self.prepared.workdir)
        table = table[table["tokens"] > 0]
        for corpus in (study.general, *study.domains):
            table[f"w_{corpus}"] = 0.0
        table[f"w_{domain}"], table[f"w_{study.general}"] = share, 1 - share
        for column in ("subset", "ppl_mean", "ppl_std", f"unique_tokens_{domain}"):
            table[column] = [facts[run_id][column] for run_id in table["run"]]
        return table

    def _plan(self, rule: str, chosen: np.ndarray, seed: int) -> tuple[list[Run], dict[str, Any]]:
        """The runs on one subset, whose token store is written, and the columns that tell what it was."""
        workdir, spans = self.prepared.workdir, self.pool.spans.iloc[chosen]
        whole = TokenStore.open(workdir.store(self.domain, "train"))
        name = f"{self.domain}_{rule}_{stores.digest(whole, spans)[:8]}"
        part = stores.write_store(whole, spans, workdir.store(name, "train"), name)
        data = {**self.prepared.data, name: part.ledger["tokens_sha256"]}
        planned = grid.cpt_runs(self.prepared.study, self.base, {name: self.plan.share}, seed, data)
        say(repeated(planned, {name: len(part.tokens)}))
        mean, std = self.pool.moments(chosen)
        return planned, {"ppl_mean": mean, "ppl_std": std, f"unique_tokens_{self.domain}": len(part.tokens)}


def _find(lab: _Lab, test: Pool) -> Found:
    """Trains the cells, fits the law and its competitors, and trains what they recommend beside the controls."""
    prepared, plan, domain, pool = lab.prepared, lab.plan, lab.domain, lab.pool
    study, workdir = prepared.study, prepared.workdir
    region = pool.region(plan.fraction)
    cells = layout(region, plan.levels)
    table = lab.measure({name: {"method": "tilt", "target": target} for name, target in cells.items()}, plan.seeds)
    runs.write(table, workdir.subsets(domain))
    fits, rankings, rival = _fit(prepared, plan, domain, table)
    question = {"tokens": study.cpt.tokens, "reachable": inside(region, cells).tolist()}
    decision, other = (best_subset(fit, **question) for fit in (fits[domain], rival))
    decision.save(workdir.subset(domain))
    rules: dict[str, dict[str, Any]] = {
        name: {"method": "tilt", "target": (d.point["mean"], d.point["spread"])}
        for name, d in zip(CHOSEN, (decision, other))
    }
    rules |= {name: {"method": name} for name in CONTROLS}
    confirmed = lab.measure(rules, plan.confirm_seeds)
    confirmed = confirmed[confirmed["eval"].isin((domain, study.general))]
    runs.write(confirmed, workdir.confirm(domain))
    first = {rule: lab.choose(rules[rule], plan.confirm_seeds[0]) for rule in rules}
    about = {**rules["law"], "seed": plan.confirm_seeds[0], "corpus": domain, "base": lab.base.id}
    about |= {field: getattr(plan, field) for field in ("unit", "by", "chunk", "winsor", "fraction")}
    choose.write_list(workdir.selected(domain), pool, first["law"], about)
    return Found(
        domain=domain,
        pool=pool,
        test=test,
        fraction=plan.fraction,
        region=region,
        cells=cells,
        table=table,
        confirmed=confirmed,
        values={rule: pool.first[which] for rule, which in first.items()},
        fits=fits,
        rankings=rankings,
        decision=decision,
        other=other,
        rival=rival.law.name,
        gaps=gaps(confirmed, study.cpt.tokens),
    )


def _fit(
    prepared: Prepared, plan: Plan, domain: str, table: pd.DataFrame
) -> tuple[dict[str, Fit], dict[str, Comparison], Fit]:
    """The law of both losses, its ranks among the null competitors, and the best competitor.

    The best competitor is that which knows perplexity and predicts the domain loss of left-out subsets best.
    """
    fits, rankings = {}, {}
    candidates = [laws.get(name, unit=plan.unit, spread=plan.spread) for name in LAWS]

    def fit(law: laws.Law, corpus: str) -> Fit:
        path = prepared.workdir.subset_fit(domain, corpus, law.name)
        return prepared.fit(path, table[table["eval"] == corpus], law, corpus, bootstrap=plan.bootstrap)

    for corpus in (domain, prepared.study.general):
        rows = table[table["eval"] == corpus]
        fits[corpus] = fit(candidates[0], corpus)
        rankings[corpus] = fitting.compare(rows, candidates, corpus, fold="subset", seed=prepared.study.seed)
    order = list(rankings[domain].table["name"])
    rivals = (law for law in candidates[1:] if "ppl_mean" in law.columns)
    return fits, rankings, fit(min(rivals, key=lambda law: order.index(law.name)), domain)


def _pool(prepared: Prepared, plan: Plan, base: Run, corpus: str, split: str) -> Pool:
    out = scoring.score_apart(prepared.workdir, base, corpus, split, chunk=plan.chunk, progress=prepared.progress)
    return Pool.of(scores.read(out), plan.chunk, by=plan.by, unit=plan.unit, winsor=plan.winsor)


def _train_every(prepared: Prepared, planned: list[Run], title: str, retry_failed: bool) -> None:
    if failed := prepared.sweep(planned, title, retry_failed=retry_failed).failed:
        raise UserError(
            f"{len(failed)} of {len(planned)} runs failed, and this study needs every one. Mend the cause, and run the "
            "same command with --retry-failed"
        )


def _write_report(lab: _Lab, found: Found, command: str) -> None:
    """The page of one domain."""
    prepared, plan, workdir = lab.prepared, lab.plan, lab.prepared.workdir
    rows = scores.read(workdir.scores(found.domain, "train", lab.base.id, plan.chunk))
    whole = landscape.whole(rows, plan.chunk)
    x = np.minimum(landscape.values(whole, plan.unit), found.pool.cap)
    length = scores.document_tokens(rows, whole["document"])
    classes = np.array([f"{low:,} to {4 * low - 1:,} tokens" for low in landscape.length_classes(length)])
    store = TokenStore.open(workdir.store(found.domain, "train"))
    vocabulary = build.load_vocabulary(workdir.data)

    def tokens_of(document: int, chunk: int) -> np.ndarray:
        begin = store.offsets[document] + chunk * plan.chunk
        return store.tokens[begin : begin + plan.chunk + 1]

    ends = landscape.examples(whole, landscape.values(whole, plan.unit), tokens_of)
    text = [vocabulary.decode(tokens_of(d, c).tolist()) for d, c in zip(ends["document"], ends["chunk"])]
    page.write(
        workdir.landscape(found.domain),
        found,
        title=f"{prepared.study.name}: {found.domain}",
        summary=landscape.summary(x, classes),
        examples=ends.assign(text=text),
        verdict=verdict(found),
        command=command,
    )


def layout(region: Region, levels: tuple[float, ...]) -> dict[str, tuple[float, float]]:
    """The cells: name -> (mean, std), at `levels` of the reachable range of means, and of stds at each of these."""
    pairs = region.grid(201)
    means = np.unique(pairs[:, 0])
    cells = {}
    for i, level in enumerate(levels):
        mean = means[round(level * (len(means) - 1))]
        at = pairs[pairs[:, 0] == mean, 1]
        for j, other in enumerate(levels):
            cells[f"m{i + 1}s{j + 1}"] = float(mean), float(at.min() + other * np.ptp(at))
    return cells


def inside(region: Region, cells: Mapping[str, tuple[float, float]]) -> np.ndarray:
    """(n, 2) reachable pairs between the cells: a law of seven parameters is not trusted outside them."""
    from scipy.spatial import Delaunay

    corners = np.array(list(cells.values()))
    pairs = region.grid(121)
    width = np.ptp(corners, axis=0)
    return pairs[Delaunay(corners / width).find_simplex(pairs / width) >= 0]
