"""The perplexity study: which documents of a domain are worth training on, asked of real runs.

For each domain: its text is scored under the base model, subsets are drawn that differ in mean and spread of perplexity
(the cells), the base is continued on each, and the perplexity law and its null competitors are fitted. Then the law's
best subset, and that of the competitor which predicted best, are held against random, low-, middle- and high-perplexity
text of the same tokens. Every step resumes.

WORKDIR/
  scores/              the domains' chunks under the base model
  data/SUBSET/train    the subsets' token stores
  runs/                a directory a run (see rundir)
  subsets-DOMAIN.csv, confirm-DOMAIN.csv       runs tables
  fits/subset-DOMAIN-CORPUS-LAW.json           the fits
  subset-DOMAIN.json, selected-DOMAIN.parquet  the law's decision, and the list of what it chose
  landscape-DOMAIN.html                        the report
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from cptlaw import fields, fitting, laws, runs
from cptlaw.data import build
from cptlaw.data import subsets as stores
from cptlaw.data.store import TokenStore
from cptlaw.errors import UserError
from cptlaw.execution import sweep
from cptlaw.execution.run import Run
from cptlaw.fields import ConfigError
from cptlaw.fitting import Comparison, Fit
from cptlaw.laws import Law
from cptlaw.planning.best_subset import subset as best_subset
from cptlaw.planning.decision import Decision
from cptlaw.selection import choose as builders
from cptlaw.selection import landscape, scores
from cptlaw.selection.choose import Pool
from cptlaw.selection.landscape import Region
from cptlaw.studies import config as config_lib
from cptlaw.studies import grid, scoring
from cptlaw.studies.config import Study
from cptlaw.studies.mixture_study import Prepared

LAWS = ("perplexity", "perplexity_no_interaction", "perplexity_quadratic", "perplexity_tokens_only")
CHOSEN = ("law", "competitor")
CONTROLS = ("random", "low", "mid", "high")
SIZE = "model"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a perplexity study's config says beside a study's own fields, as `config.subsets`.

    Attributes:
      share: token share of the domain in continual pre-training; the rest is the general corpus.
      chunk: tokens of a chunk.
      by: "chunk" or "document", what is taken or left whole.
      unit, spread: of the law (see `laws.perplexity`).
      winsor: quantile at which a chunk's x is capped.
      fraction: share of the domain's chunks in every subset.
      levels: where the cells lie in what can be reached: in the range of means, then in that of spreads at this mean.
      seeds: each cell is drawn and trained with each.
      confirm_seeds: the same for the chosen subsets and the controls; none of `seeds`, so that no fit has seen them.
      bootstrap: resamples of the fits.
    """

    share: float = 0.8
    chunk: int = 64
    by: str = "chunk"
    unit: str = "log-perplexity"
    spread: str = "std"
    winsor: float = 0.995
    fraction: float = 0.2
    levels: tuple[float, ...] = (0.15, 0.5, 0.85)
    seeds: tuple[int, ...] = (0, 1)
    confirm_seeds: tuple[int, ...] = (101, 102, 103)
    bootstrap: int = 1000


@dataclasses.dataclass(frozen=True)
class Found:
    """What a study found for one domain.

    Attributes:
      pool, test: the domain's chunks under the base model, for training and held out.
      fraction: share of the pool in every subset.
      region: what subsets can reach; `cells` name -> (mean, std) of those that were trained.
      table, confirmed: runs tables of the cells, and of the rules: CHOSEN and CONTROLS.
      values: rule -> x of what it takes, with the first seed.
      fits: evaluated corpus -> the law; `rankings` the law among its null competitors, one subset left out.
      decision, other: the law's, and that of the competitor `rival`.
      gaps: as of `gaps`.
    """

    domain: str
    pool: Pool
    test: Pool
    fraction: float
    region: Region
    cells: dict[str, tuple[float, float]]
    table: pd.DataFrame
    confirmed: pd.DataFrame
    values: dict[str, np.ndarray]
    fits: dict[str, Fit]
    rankings: dict[str, Comparison]
    decision: Decision
    other: Decision
    rival: str
    gaps: pd.DataFrame

    def text(self) -> str:
        """The answer and how it fared, for a terminal."""
        mean, std = self.test.moments()
        point = self.other.point
        lines = [
            self.decision.text(),
            f"  measured there: {self.measured():.4f}",
            f"  {self.rival} instead: mean {point['mean']:.4g}, spread {point['spread']:.4g}",
            f"  held-out {self.domain} text: mean {mean:.4g}, spread {std:.4g}",
            "",
        ]
        for row in self.gaps.itertuples():
            lines.append(
                f"  {row.eval} loss, {row.chosen}'s choice less {row.rule:<8}{-row.gain:+.4f} nats "
                f"(95% {-row.high:+.4f} to {-row.low:+.4f}, {row.seeds} seeds)"
            )
        return "\n".join([*lines, "", f"  {verdict(self)}"])

    def measured(self) -> float:
        """The domain loss of the law's choice at the end, mean over seeds, beside `decision.losses`."""
        rows = self.confirmed[(self.confirmed["eval"] == self.domain) & (self.confirmed["subset"] == "law")]
        return float(rows.loc[rows["tokens"] == rows["tokens"].max(), "loss"].mean())


def parse(config: Mapping[str, Any]) -> tuple[Study, Plan]:
    """A study's fields, but for sizes, grid, held_out, question and fit, and the fields of `Plan` under `subsets`.

    Raises:
      ConfigError: naming the field.
    """
    plain = dict(config.to_dict() if hasattr(config, "to_dict") else config)
    plan: Plan = fields.build(Plan, plain.pop("subsets", {}), "config.subsets")
    if not 0 < plan.share <= 1:
        raise ConfigError(f"config.subsets.share: a token share, above 0 and at most 1, not {plan.share}")
    if len(plan.confirm_seeds) < 2 or set(plan.confirm_seeds) & set(plan.seeds):
        raise ConfigError("config.subsets.confirm_seeds: at least two, and none of config.subsets.seeds")
    ours = {
        "sizes": {SIZE: {}},
        "grid": {SIZE: {"domain_shares": (plan.share,)}},
        "held_out": {"size": SIZE, "tokens": 0},
    }
    for field in ours:
        if field in plain:
            raise ConfigError(f"config.{field}: a perplexity study has one model, config.model, and its own grid")
    return config_lib.parse({**plain, **ours}), plan


def run(prepared: Prepared, plan: Plan, command: str = "") -> Iterator[Found]:
    """The whole study, domain by domain; see the module. `command` is what the reports say made them."""
    study, workdir = prepared.study, prepared.workdir
    base = grid.base_run(study, SIZE, prepared.vocab_size, prepared.data)
    _sweep(prepared, [base], "base")
    for domain in study.domains:
        pool, test = (_pool(prepared, plan, base, domain, split) for split in ("train", "validation"))
        lab = _Lab(prepared, plan, base, domain, pool)
        region = pool.region(plan.fraction)
        cells = layout(region, plan.levels)
        table = lab.train({name: {"method": "tilt", "target": target} for name, target in cells.items()}, plan.seeds)
        runs.write(table, workdir / f"subsets-{domain}.csv")
        fits, rankings, rival = _fit(prepared, plan, domain, table)
        question = {"tokens": study.cpt.tokens, "reachable": inside(region, cells).tolist()}
        decision, other = (best_subset(fit, **question) for fit in (fits[domain], rival))
        decision.save(workdir / f"subset-{domain}.json")
        rules: dict[str, Any] = {
            name: {"method": "tilt", "target": (d.point["mean"], d.point["spread"])}
            for name, d in zip(CHOSEN, (decision, other))
        }
        rules |= {name: {"method": name} for name in CONTROLS}
        confirmed = lab.train(rules, plan.confirm_seeds)
        confirmed = confirmed[confirmed["eval"].isin((domain, study.general))]
        runs.write(confirmed, workdir / f"confirm-{domain}.csv")
        first = {rule: lab.choose(rules[rule], plan.confirm_seeds[0]) for rule in rules}
        about = {**rules["law"], "seed": plan.confirm_seeds[0], "corpus": domain, "base": base.id}
        about |= {field: getattr(plan, field) for field in ("unit", "by", "chunk", "winsor", "fraction")}
        builders.write_list(workdir / f"selected-{domain}.parquet", pool, first["law"], about)
        found = Found(
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
        _report(prepared, plan, base, found, command)
        yield found


def _fit(
    prepared: Prepared, plan: Plan, domain: str, table: pd.DataFrame
) -> tuple[dict[str, Fit], dict[str, Comparison], Fit]:
    """The law of both losses, its ranks among the null competitors, and the competitor that knows perplexity and
    predicts the domain loss of left-out subsets best."""
    fits, rankings = {}, {}
    candidates = [laws.get(name, unit=plan.unit, spread=plan.spread) for name in LAWS]

    def fit(law: Law, corpus: str) -> Fit:
        rows = table[table["eval"] == corpus]
        found = fitting.fit(rows, law, corpus, bootstrap=plan.bootstrap, seed=prepared.study.seed)
        found.save(prepared.workdir / "fits" / f"subset-{domain}-{corpus}-{law.name}.json")
        return found

    for corpus in (domain, prepared.study.general):
        rows = table[table["eval"] == corpus]
        fits[corpus] = fit(candidates[0], corpus)
        rankings[corpus] = fitting.compare(rows, candidates, corpus, fold="subset", seed=prepared.study.seed)
    order = list(rankings[domain].table["name"])
    rivals = (law for law in candidates[1:] if "ppl_mean" in law.columns)
    return fits, rankings, fit(min(rivals, key=lambda law: order.index(law.name)), domain)


class _Lab:
    """Draws subsets of one domain, and continues the base on them."""

    def __init__(self, prepared: Prepared, plan: Plan, base: Run, domain: str, pool: Pool):
        self.prepared, self.plan, self.base, self.domain, self.pool = prepared, plan, base, domain, pool
        self.store = TokenStore.open(prepared.workdir / "data" / domain / "train")

    def choose(self, rule: Mapping[str, Any], seed: int) -> np.ndarray:
        return builders.select(self.pool, fraction=self.plan.fraction, seed=seed, **rule)

    def train(self, rules: Mapping[str, Mapping[str, Any]], seeds: Iterable[int]) -> pd.DataFrame:
        """The runs table of every rule with every seed, which draws the subset and the order of its text.

        A run reads its subset as a corpus of its own; in the table that share is the domain's, and `subset`,
        `ppl_mean` and `ppl_std` tell which part of the domain it was.
        """
        study, workdir = self.prepared.study, self.prepared.workdir
        trained: dict[str, tuple[str, tuple[float, float], int]] = {}
        runs_: list[Run] = []
        for rule, options in rules.items():
            for seed in seeds:
                chosen = self.choose(options, seed)
                spans = self.pool.spans.iloc[chosen]
                name = f"{self.domain}_{rule}_{stores.digest(self.store, spans)[:8]}"
                part = stores.write_store(self.store, spans, workdir / "data" / name / "train", name)
                data = {**self.prepared.data, name: part.ledger["tokens_sha256"]}
                for one in grid.cpt_runs(study, self.base, {name: self.plan.share}, seed, data):
                    runs_.append(one)
                    trained[one.id] = rule, self.pool.moments(chosen), len(part.tokens)
        _sweep(self.prepared, runs_, f"{self.domain}: {', '.join(rules)}" if len(rules) < 6 else self.domain)
        table = sweep.collect(runs_, workdir)
        table = table[table["tokens"] > 0]
        for corpus in (study.general, *study.domains):
            table[f"w_{corpus}"] = 0.0
        table[f"w_{self.domain}"], table[f"w_{study.general}"] = self.plan.share, 1 - self.plan.share
        about = [trained[run_id] for run_id in table["run"]]
        table["subset"] = [rule for rule, _, _ in about]
        table["ppl_mean"], table["ppl_std"] = ([moments[i] for _, moments, _ in about] for i in (0, 1))
        table[f"unique_tokens_{self.domain}"] = [tokens for _, _, tokens in about]
        return table


def _pool(prepared: Prepared, plan: Plan, base: Run, corpus: str, split: str) -> Pool:
    out = scoring.score_apart(prepared.workdir, base, corpus, split, chunk=plan.chunk, progress=prepared.progress)
    return builders.pool(scores.read(out), plan.chunk, by=plan.by, unit=plan.unit, winsor=plan.winsor)


def _sweep(prepared: Prepared, runs_: list[Run], title: str) -> None:
    summary = prepared.sweep(runs_, title)
    if summary.failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in summary.failed.items())
        raise UserError(
            f"{len(summary.failed)} of {len(runs_)} runs failed, and a study needs its whole grid: {reasons}. Mend the "
            f"cause, delete their result.json in {prepared.workdir}/runs, and run the same command again"
        )


def _report(prepared: Prepared, plan: Plan, base: Run, found: Found, command: str) -> None:
    """The page of one domain."""
    from cptlaw.studies import selection_page as page

    rows = scores.read(scoring.scores_path(prepared.workdir, base, found.domain, "train", plan.chunk))
    whole = landscape.whole(rows, plan.chunk)
    x = np.minimum(landscape.values(whole, plan.unit), found.pool.cap)
    length = scores.document_tokens(rows, whole["document"])
    classes = np.array([f"{low:,} to {4 * low - 1:,} tokens" for low in landscape.length_classes(length)])
    store = TokenStore.open(prepared.workdir / "data" / found.domain / "train")
    vocabulary = build.load_vocabulary(prepared.workdir / "data")

    def tokens_of(document: int, chunk: int) -> np.ndarray:
        begin = store.offsets[document] + chunk * plan.chunk
        return store.tokens[begin : begin + plan.chunk + 1]

    ends = landscape.examples(whole, landscape.values(whole, plan.unit), tokens_of)
    text = [vocabulary.decode(tokens_of(d, c).tolist()) for d, c in zip(ends["document"], ends["chunk"])]
    page.write(
        prepared.workdir / f"landscape-{found.domain}.html",
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


def gaps(confirmed: pd.DataFrame, tokens: float, level: float = 0.95) -> pd.DataFrame:
    """How much lower the final losses of the chosen subsets are than the controls', by Student's t over seeds.

    Columns: eval, chosen (of CHOSEN), rule (of CONTROLS), gain (nats, mean of differences paired by seed; positive: the
    chosen is better), low, high, seeds.
    """
    from scipy import stats

    last = confirmed[confirmed["tokens"] == tokens]
    lines = []
    for corpus, rows in last.groupby("eval", sort=False):
        loss = rows.pivot(index="seed", columns="subset", values="loss")
        for chosen, rule in itertools.product(CHOSEN, CONTROLS):
            gain = (loss[rule] - loss[chosen]).dropna()
            half = stats.t.ppf((1 + level) / 2, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain))
            lines.append((corpus, chosen, rule, gain.mean(), gain.mean() - half, gain.mean() + half, len(gain)))
    return pd.DataFrame(lines, columns=["eval", "chosen", "rule", "gain", "low", "high", "seeds"])


def verdict(found: Found) -> str:
    """What the confirming runs say of both choices, and whether the law earned its place, in two sentences."""
    said = []
    for chosen in CHOSEN:
        mine = found.gaps[(found.gaps["eval"] == found.domain) & (found.gaps["chosen"] == chosen)]
        better, worse = (list(mine["rule"][side]) for side in (mine["low"] > 0, mine["high"] < 0))
        same = [rule for rule in mine["rule"] if rule not in better + worse]
        named = (("better than", better), ("worse than", worse), ("not told from", same))
        parts = [f"{words} {', '.join(rules)}" for words, rules in named if rules]
        said.append(f"the {chosen}'s choice is {' and '.join(parts)} text")
    ranking = found.rankings[found.domain].table
    miss = dict(zip(ranking["name"], ranking["mae"]))
    return (
        f"On held-out {found.domain} loss {', '.join(said)}. On subsets left out the law misses by "
        f"{miss.pop('perplexity'):.4f} nats; the best without it ({min(miss, key=lambda name: miss[name])}) by "
        f"{min(miss.values()):.4f}."
    )
