"""The selection study: which documents of a domain are worth training on, asked of real runs.

For each base model and domain: its text is scored under the base, subsets are drawn that differ in mean and spread of
perplexity (the cells, and random text), the base is continued on each, and the perplexity law and its null competitors
are fitted. The choice is the best subset by whichever of them predicts left-out subsets best. It is held, as is the
law's own, against random, low-, middle- and high-perplexity text of the same tokens; and on request the base is trained
on it once, and its text scored and chosen again. Every step resumes. What it leaves in its directory: see
`execution.workdir`; every subset is a token store of its own.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cptlaw import atomic, fitting, laws, runs
from cptlaw.data import build
from cptlaw.data import subsets as stores
from cptlaw.data.store import TokenStore
from cptlaw.errors import UserError
from cptlaw.execution import sweep
from cptlaw.execution.run import Run
from cptlaw.execution.rundir import RunDir
from cptlaw.fitting import Comparison, Fit
from cptlaw.planning import best_subset
from cptlaw.planning.best_subset import BEST, option
from cptlaw.planning.decision import Decision
from cptlaw.selection import choose, landscape, scores
from cptlaw.selection.pool import Pool
from cptlaw.studies import grid, scoring
from cptlaw.studies import selection_page as page
from cptlaw.studies.prepared import Prepared, repeated, say, worse_than_guessing
from cptlaw.studies.selection_found import AGAIN, CHOICE, CONTROLS, FIRST, LAW, RANDOM, Found, gaps, summary, verdict
from cptlaw.studies.selection_plan import Plan, inside, layout
from cptlaw.studies.settings import Study

LAWS = ("perplexity", "perplexity_no_interaction", "perplexity_quadratic", "perplexity_tokens_only")
# name -> (arguments of `choose.select` but fraction and seed, seeds)
Rules = Mapping[str, tuple[Mapping[str, Any], Iterable[int]]]


def run(prepared: Prepared, plan: Plan, *, retry_failed: bool = False, command: str = "") -> Iterator[Found]:
    """The whole study; see the module. What all bases and domains train next is trained in one sweep.

    Args:
      retry_failed: train runs that failed before again.
      command: what the reports say made them.

    Raises:
      UserError: a run failed, of which the study needs every one.
    """
    study = prepared.study
    trainer = _Trainer(prepared, retry_failed)
    bases = [prepared.base(size, seed) for size in study.sizes for seed in plan.base_seeds or (study.seed,)]
    trainer.train(bases, "bases")
    measured = [
        {"model": base.size, "tokens": 0, **loss}
        for base in bases
        for loss in (RunDir(prepared.workdir, base).result() or {"losses": ()})["losses"]
    ]
    say(worse_than_guessing(pd.DataFrame(measured), prepared.vocab_size))
    labs = [
        _Lab(prepared, plan, base, d, _pool(prepared, plan, base, d, "train")) for base in bases for d in study.domains
    ]
    cells = [layout(lab.region, plan) for lab in labs]
    tables = trainer.measure([(lab, _of_cells(plan, mine)) for lab, mine in zip(labs, cells)], "subsets")
    answers = [_answer(lab, mine, table) for lab, mine, table in zip(labs, cells, tables)]
    confirmed = trainer.measure(
        [(lab, _to_confirm(plan, answer)) for lab, answer in zip(labs, answers)], "confirming runs"
    )
    again = _second_round(trainer, labs, answers) if plan.second_round else [None] * len(labs)
    done: list[Found] = []
    for lab, mine, table, answer, measures, round_ in zip(labs, cells, tables, answers, confirmed, again):
        done.append(found := _found(lab, mine, table, answer, measures, round_))
        _write_report(lab, found, command)
        prepared.workdir.publish()
        yield found
    atomic.write_text(prepared.workdir.selection, summary(done).to_csv(index=False))
    prepared.workdir.publish()


@dataclasses.dataclass(frozen=True)
class _Lab:
    """Draws subsets of one domain, and plans what the base learns from them.

    Attributes:
      base: the run of the base model.
      pool: the domain's chunks under it.
    """

    prepared: Prepared
    plan: Plan
    base: Run
    domain: str
    pool: Pool

    @property
    def part(self) -> str:
        """What tells this base and domain from the study's others, in names of files and titles."""
        size = [self.base.size] if len(self.prepared.study.sizes) > 1 else []
        seed = [f"b{self.base.seed}"] if self.plan.base_seeds else []
        return "-".join([*size, *seed, self.domain])

    @functools.cached_property
    def region(self) -> landscape.Region:
        """The means and spreads that subsets of the pool can have."""
        return self.pool.region(self.plan.fraction)

    @property
    def study(self) -> Study:
        """The study of this domain alone: of the others no loss is measured."""
        return dataclasses.replace(self.prepared.study, domains=(self.domain,), evaluate="all")

    def choose(self, rule: Mapping[str, Any], seed: int) -> np.ndarray:
        """The units that a rule takes of the pool with a seed."""
        return choose.select(self.pool, fraction=self.plan.fraction, seed=seed, **rule)

    def runs(self, name: str, rule: Mapping[str, Any], seed: int) -> tuple[list[Run], dict[str, Any]]:
        """The runs on one subset, whose token store is written, and the columns that tell what it is.

        The seed draws the subset and the order of its text.
        """
        chosen, workdir = self.choose(rule, seed), self.prepared.workdir
        spans = self.pool.spans.iloc[chosen]
        whole = TokenStore.open(workdir.store(self.domain, "train"))
        store = f"{self.domain}_{name}_{stores.digest(whole, spans)[:8]}"
        part = stores.write_store(whole, spans, workdir.store(store, "train"), store)
        data = {corpus: self.prepared.data[corpus] for corpus in self.study.names}
        data[store] = part.ledger["tokens_sha256"]
        planned = grid.cpt_runs(self.study, self.base, {store: self.plan.share}, seed, data)
        say(repeated(planned, {store: len(part.tokens)}))
        mean, std = self.pool.moments(chosen)
        about = {"ppl_mean": mean, "ppl_std": std, f"unique_tokens_{self.domain}": len(part.tokens)}
        return planned, {"subset": name, **about}

    def collect(self, planned: list[Run], about: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
        """The runs table of finished runs on subsets; `about` is run id -> columns.

        A run has read its subset as a corpus of its own. In the table that share is the domain's.
        """
        table = self.study.fit.rows(sweep.collect(planned, self.prepared.workdir))
        table = table[table["tokens"] > 0].copy()
        table[f"w_{self.domain}"], table[f"w_{self.study.general}"] = self.plan.share, 1 - self.plan.share
        for column in next(iter(about.values())):
            table[column] = [about[run_id][column] for run_id in table["run"]]
        return table


@dataclasses.dataclass(frozen=True)
class _Trainer:
    """Trains what several labs have planned, in one sweep.

    Attributes:
      retry_failed: train runs that failed before again.
    """

    prepared: Prepared
    retry_failed: bool

    def train(self, planned: list[Run], title: str) -> None:
        if failed := self.prepared.sweep(planned, title, retry_failed=self.retry_failed).failed:
            raise UserError(
                f"{len(failed)} of {len(planned)} runs failed, and this study needs every one. Mend the cause, and run "
                "the same command with --retry-failed"
            )

    def measure(self, asked: Sequence[tuple[_Lab, Rules]], title: str) -> list[pd.DataFrame]:
        """The runs table of each lab: every one of its rules with every seed."""
        planned: list[list[Run]] = []
        about: list[dict[str, dict[str, Any]]] = []
        for lab, rules in asked:
            own: list[tuple[list[Run], dict[str, Any]]] = [
                lab.runs(name, rule, seed) for name, (rule, seeds) in rules.items() for seed in seeds
            ]
            planned.append([run for runs_of_subset, _ in own for run in runs_of_subset])
            about.append({run.id: facts for runs_of_subset, facts in own for run in runs_of_subset})
        self.train([run for own in planned for run in own], title)
        return [lab.collect(own, facts) for (lab, _), own, facts in zip(asked, planned, about)]


@dataclasses.dataclass(frozen=True)
class _Answer:
    """What the runs on the cells say of one base and domain; the fields are those of `Found`."""

    fits: dict[str, Fit]
    rankings: dict[str, Comparison]
    winner: Fit
    decision: Decision
    of_law: Decision

    @property
    def aims(self) -> dict[str, dict[str, Any]]:
        """The rules that take CHOICE, and LAW where it is another."""
        of = {CHOICE: self.decision} if self.winner.law.name == LAWS[0] else {CHOICE: self.decision, LAW: self.of_law}
        return {name: {"method": "tilt", "target": option(decision, BEST)} for name, decision in of.items()}


def _of_cells(plan: Plan, cells: Mapping[str, tuple[float, float]]) -> Rules:
    aimed = {name: ({"method": "tilt", "target": target}, plan.seeds) for name, target in cells.items()}
    return aimed | {RANDOM: ({"method": "random"}, plan.seeds)}


def _to_confirm(plan: Plan, answer: _Answer) -> Rules:
    few = plan.confirm_seeds[: plan.control_seeds]
    rules = {name: (rule, plan.confirm_seeds) for name, rule in answer.aims.items()}
    return rules | {name: ({"method": name}, plan.confirm_seeds if name == RANDOM else few) for name in CONTROLS}


def _answer(lab: _Lab, cells: Mapping[str, tuple[float, float]], table: pd.DataFrame) -> _Answer:
    """Fits the law of both losses and its null competitors, and asks the winner and the law.

    The winner is that which knows perplexity and predicts the domain loss of left-out subsets best.
    """
    prepared, plan, domain, workdir = lab.prepared, lab.plan, lab.domain, lab.prepared.workdir
    runs.write(table, workdir.subsets(lab.part))
    candidates = [laws.get(name, unit=plan.unit, spread=plan.spread) for name in LAWS]

    def fit(law: laws.Law, corpus: str) -> Fit:
        path = workdir.subset_fit(lab.part, corpus, law.name)
        return prepared.fit(path, table[table["eval"] == corpus], law, corpus, bootstrap=plan.bootstrap)

    fits = {corpus: fit(candidates[0], corpus) for corpus in (domain, prepared.study.general)}
    rankings = {
        corpus: fitting.compare(
            table[table["eval"] == corpus], candidates, corpus, fold="subset", seed=prepared.study.seed
        )
        for corpus in fits
    }
    error = rankings[domain].table.set_index("name")["mae"]
    best = min((law for law in candidates if "ppl_mean" in law.columns), key=lambda law: error[law.name])
    winner = fits[domain] if best is candidates[0] else fit(best, domain)
    question: dict[str, Any] = {"tokens": lab.study.cpt.tokens, "random": lab.pool.moments()}
    question["reachable"] = inside(lab.region, cells).tolist()
    decision, of_law = (best_subset(one, **question, miss=error[one.law.name]) for one in (winner, fits[domain]))
    decision.save(workdir.subset(lab.part))
    return _Answer(fits, rankings, winner, decision, of_law)


def _second_round(trainer: _Trainer, labs: Sequence[_Lab], answers: Sequence[_Answer]) -> list[pd.DataFrame]:
    """Trains each base on its choice once, and from there on what is chosen again under it and on the first choice.

    The second choice lies where the first did in its pool: as many of the pool's standard deviations from its mean,
    with a spread of as many of them.

    Returns:
      The runs tables of AGAIN and FIRST, of which both have the seeds that confirmed the first choice.
    """
    rules = [answer.aims[CHOICE] for answer in answers]
    once = [grid.kept(lab.runs(CHOICE, rule, lab.base.seed)[0][0]) for lab, rule in zip(labs, rules)]
    trainer.train(once, "bases on their choices")
    asked: list[tuple[_Lab, Rules]] = []
    for lab, rule, base in zip(labs, rules, once):
        updated = dataclasses.replace(lab, base=base, pool=_pool(lab.prepared, lab.plan, base, lab.domain, "train"))
        (mean, std), (now, wide) = lab.pool.moments(), updated.pool.moments()
        target = now + (rule["target"][0] - mean) * wide / std, rule["target"][1] * wide / std
        target = updated.region.nearest(*target)
        asked.append((updated, {AGAIN: ({"method": "tilt", "target": target}, lab.plan.confirm_seeds)}))
        asked.append((dataclasses.replace(lab, base=base), {FIRST: (rule, lab.plan.confirm_seeds)}))
    tables = trainer.measure(asked, "second round")
    both = [pd.concat(pair) for pair in zip(tables[::2], tables[1::2])]
    for lab, table in zip(labs, both):
        runs.write(table, lab.prepared.workdir.second_round(lab.part))
    return both


def _found(
    lab: _Lab, cells: dict[str, tuple[float, float]], table: pd.DataFrame, answer: _Answer, confirmed: pd.DataFrame,
    again: pd.DataFrame | None,
) -> Found:  # fmt: skip
    """Everything of one base and domain; writes the confirming runs and the list of what is recommended."""
    plan, pool, workdir = lab.plan, lab.pool, lab.prepared.workdir
    runs.write(confirmed, workdir.confirm(lab.part))
    rules = answer.aims | {name: {"method": name} for name in CONTROLS}
    first = {name: lab.choose(rule, plan.confirm_seeds[0]) for name, rule in rules.items()}
    recommended = CHOICE if answer.decision.supported else RANDOM
    about = {**rules[recommended], "seed": plan.confirm_seeds[0], "corpus": lab.domain, "base": lab.base.id}
    about |= {field: getattr(plan, field) for field in ("unit", "by", "chunk", "winsor", "fraction")}
    choose.write_list(workdir.selected(lab.part), pool, first[recommended], about)
    return Found(
        part=lab.part,
        size=lab.base.size,
        base_seed=lab.base.seed,
        domain=lab.domain,
        pool=pool,
        test=_pool(lab.prepared, plan, lab.base, lab.domain, "validation"),
        fraction=plan.fraction,
        region=lab.region,
        cells=cells,
        table=table,
        confirmed=confirmed,
        values={name: pool.first[which] for name, which in first.items()},
        fits=answer.fits,
        rankings=answer.rankings,
        decision=answer.decision,
        of_law=answer.of_law,
        winner=answer.winner,
        gaps=gaps(confirmed),
        again=again,
    )


def _pool(prepared: Prepared, plan: Plan, base: Run, corpus: str, split: str) -> Pool:
    out = scoring.score_apart(prepared.workdir, base, corpus, split, chunk=plan.chunk, progress=prepared.progress)
    return Pool.of(scores.read(out), plan.chunk, by=plan.by, unit=plan.unit, winsor=plan.winsor)


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
        workdir.landscape(found.part),
        found,
        title=f"{prepared.study.name}: {found.part}",
        summary=landscape.summary(x, classes),
        examples=ends.assign(text=text),
        verdict=verdict(found),
        command=command,
    )
