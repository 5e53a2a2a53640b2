"""`cptlaw plan QUESTION`: the flags of every question, to be decided from saved fits or straight from a runs table."""

import argparse
import math
from pathlib import Path
from typing import Any

from cptlaw.cli import decisions, domains, tables
from cptlaw.cli.fit import no_remedies

FIT = "a saved fit (FIT.json), or a corpus of --table"


def add_parsers(subparsers: Any) -> None:
    """Registers `plan` and its questions."""
    plan = subparsers.add_parser(
        "plan",
        help="decide from fitted laws: which mix, how many tokens, which size, what next",
        description="Decisions from fitted laws. Each says its interval, what a wrong choice would cost, and where it "
        "extrapolates.",
    )
    questions = plan.add_subparsers(required=True, metavar="QUESTION")
    for add in (_add_trade_off, _add_share, _add_limited_data, _add_budget, _add_gate, _add_pareto, _add_mixture,
                _add_subset, _add_next, _add_design):  # fmt: skip
        add(questions)


def _add_trade_off(questions: Any) -> None:
    ask = _question(
        questions, "trade-off", "the largest domain share under a ceiling on the general loss", decisions.ask_trade_off
    )
    _exact(ask)
    _fits(ask, "general", "domain")
    _run(ask)
    ask.add_argument(
        "--base-loss", type=tables.number, help="general loss before CPT (default: the table's, at zero tokens)"
    )
    ceiling = ask.add_mutually_exclusive_group()
    ceiling.add_argument("--tolerance", type=tables.number, default=0.03, help="allowed relative rise (default 0.03)")
    ceiling.add_argument("--rise", type=tables.number, help="allowed rise in nats per token, instead of --tolerance")
    _confidence(ask, "share")
    ask.add_argument(
        "--corpus-tokens", type=tables.named, default={}, metavar="NAME=N,...",
        help="tokens there are of each corpus; compares the mix in proportion to them",
    )  # fmt: skip


def _add_share(questions: Any) -> None:
    ask = _question(questions, "share", "the share at which a corpus has a given loss", decisions.ask_share_for_loss)
    _exact(ask)
    _fits(ask, "fit")
    _run(ask)
    ask.add_argument("--loss", type=tables.number, required=True, help="the wanted loss, nats per token")


def _add_limited_data(questions: Any) -> None:
    ask = _question(
        questions, "limited-data", "the share that makes the most of little domain text", decisions.ask_limited_data
    )
    _exact(ask)
    _fits(ask, "domain")
    ask.add_argument("--params", type=tables.number, required=True, help="non-embedding parameters, a count")
    ask.add_argument("--domain-tokens", type=tables.number, required=True, help="unique tokens of domain text, a count")
    ask.add_argument(
        "--tokens",
        type=tables.number,
        default=math.inf,
        help="most tokens to train on, both corpora together (default any)",
    )
    ask.add_argument(
        "--max-epochs", type=tables.number, default=1.0, help="most passes over the domain text (default 1)"
    )
    ask.add_argument(
        "--repetition", type=tables.number, help="epochs after which repeated text is worth 1/e less (15.4)"
    )


def _add_budget(questions: Any) -> None:
    ask = _question(questions, "budget", "the best size and tokens for a compute budget", decisions.ask_budget)
    _exact(ask)
    _fits(ask, "domain")
    ask.add_argument("--general", metavar="FIT", help=f"the corpus that --ceiling is on: {FIT}")
    ask.add_argument("--flops", type=tables.number, required=True, help="FLOPs for training and inference together")
    ask.add_argument(
        "--share", type=tables.number, help="share of domain text; without it, the best share is found too"
    )
    ask.add_argument("--ceiling", type=tables.number, help="most general loss allowed, nats per token")
    ask.add_argument("--sizes", type=tables.numbers, metavar="N[,N...]", help="sizes to choose from (default any)")
    ask.add_argument(
        "--inference-tokens",
        type=tables.number,
        default=0.0,
        help="tokens the model will serve over its life (default 0)",
    )


def _add_gate(questions: Any) -> None:
    ask = _question(
        questions, "gate", "whether a candidate recipe beats a baseline, and the compute it saves", decisions.ask_gate
    )
    for name in ("baseline", "candidate"):
        ask.add_argument(
            f"--{name}", required=True, metavar="FIT|CONDITION",
            help="a saved fit of its ladder (FIT.json), or which rows of --table are its ladder: \"w_code == 0.2\"",
        )  # fmt: skip
    _run(ask)
    ask.add_argument("--page", type=Path, metavar="PAGE.html", help="write the report of the gate, one HTML page")


def _add_pareto(questions: Any) -> None:
    ask = _question(questions, "pareto", "general against domain loss over the share", decisions.ask_pareto)
    _distribution(ask)
    _fits(ask, "general", "domain")
    _run(ask)
    ask.add_argument("--points", type=int, default=21, help="number of shares listed (default 21)")


def _add_mixture(questions: Any) -> None:
    ask = _question(questions, "mixture", "the best shares of any number of corpora", decisions.ask_mixture)
    _distribution(ask)
    ask.add_argument("--fits", nargs="+", required=True, metavar="FIT", help=f"one for each target corpus: {FIT}")
    ask.add_argument(
        "--weights",
        type=tables.named,
        default={},
        metavar="TARGET=W,...",
        help="weights of the losses (default 1 each)",
    )
    ask.add_argument("--worst", action="store_true", help="minimise the largest weighted loss, not the sum")
    ask.add_argument("--params", type=tables.number, help="non-embedding parameters, for laws that read them")
    ask.add_argument("--tokens", type=tables.number, help="CPT tokens, for laws that read them and for --corpus-tokens")
    for name, what in (("floors", "smallest"), ("caps", "largest")):
        ask.add_argument(
            f"--{name}", type=tables.named, default={}, metavar="CORPUS=SHARE,...", help=f"{what} shares allowed"
        )
    ask.add_argument(
        "--corpus-tokens",
        type=tables.named,
        default={},
        metavar="CORPUS=N,...",
        help="unique tokens there are of a corpus",
    )
    ask.add_argument("--max-epochs", type=tables.number, default=1.0, help="most passes over those tokens (default 1)")
    ask.add_argument("--beyond", action="store_true", help="look outside the measured mixes and their blends too")
    ask.add_argument(
        "--ceilings", type=tables.named, default={}, metavar="TARGET=LOSS,...", help="most loss allowed, nats per token"
    )
    ask.add_argument(
        "--tolerances", type=tables.named, default={}, metavar="TARGET=RISE,...",
        help="the same as a relative rise (0.03 for 3%%) over the base model's loss in --table",
    )  # fmt: skip
    _confidence(ask, "mix")


def _add_subset(questions: Any) -> None:
    ask = _question(
        questions, "subset", "the mean and spread of perplexity of the best domain text", decisions.ask_best_subset
    )
    _fits(ask, "fit")
    ask.add_argument("--tokens", type=tables.number, required=True, help="tokens of the planned run, a count")
    ask.add_argument(
        "--reachable", type=Path, metavar="TABLE",
        help="CSV with columns mean and spread: what can be chosen (default: between those of the fitted runs)",
    )  # fmt: skip
    ask.add_argument(
        "--random", type=tables.number, nargs=2, metavar=("MEAN", "SPREAD"),
        help="of the whole pool, and so of random text, against which a gain is measured (default: the line of "
        "--reachable whose text is random text, as cptlaw landscape writes it)",
    )  # fmt: skip
    ask.add_argument(
        "--miss", type=tables.number, metavar="NATS",
        help="mean error of losses of subsets that were left out: mae of `cptlaw compare TABLE --fold subset` "
        "(default: from the fit's residuals)",
    )  # fmt: skip


def _add_next(questions: Any) -> None:
    ask = _question(
        questions, "next", "the runs that would make a saved decision surer, for their cost", decisions.ask_next_runs
    )
    target = ask.add_mutually_exclusive_group(required=True)
    target.add_argument("--decision", type=Path, metavar="DECISION.json", help="a decision saved by cptlaw plan --out")
    target.add_argument(
        "--predict",
        type=tables.named,
        metavar="params=N,tokens=D,w_CORPUS=SHARE,...",
        help="a run, to make the prediction of its losses surer",
    )
    ask.add_argument(
        "--fits", nargs="+", required=True, metavar="FIT", help=f"the fits that the decision was made from: {FIT}"
    )
    ask.add_argument(
        "--candidates", type=Path, metavar="TABLE",
        help="CSV with columns params, tokens, w_CORPUS, cost (default: the fitted sizes over the fitted mixes)",
    )  # fmt: skip
    ask.add_argument("-k", type=int, default=1, help="how many runs to choose (default 1)")


def _add_design(questions: Any) -> None:
    ask = _question(
        questions, "design", "before any run: the cheapest grid for a wanted precision", decisions.ask_first_grid
    )
    ask.add_argument("--assume", metavar="FIT|P=X,...", required=True, help="a saved fit, or --law's parameters")
    _run(ask)
    ask.add_argument(
        "--ratio", type=tables.number, required=True, help="share of the corpus in the run to be predicted"
    )
    ask.add_argument(
        "--precision", type=tables.number, required=True, help="wanted: half the width of the interval, nats per token"
    )
    ask.add_argument("--sizes", type=tables.numbers, required=True, metavar="N,...", help="sizes that could be trained")
    ask.add_argument(
        "--lengths",
        type=tables.numbers,
        required=True,
        metavar="D,...",
        help="run lengths that could be trained, tokens",
    )
    ask.add_argument(
        "--run-noise", type=tables.number, default=0.003, help="standard deviation between seeds, nats (default 0.003)"
    )
    ask.add_argument(
        "--checkpoint-noise",
        type=tables.number,
        default=0.001,
        help="standard deviation within a run, nats (default 0.001)",
    )
    ask.add_argument("--seeds", type=int, default=3, help="most repeats of a run (default 3)")


def _question(questions: Any, name: str, about: str, run: Any) -> argparse.ArgumentParser:
    ask = questions.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
    ask.add_argument("--table", type=Path, metavar="TABLE", help="runs table to fit, instead of saved fits")
    ask.add_argument(
        "--law",
        default="auto",
        metavar="LAW",
        help="law to fit to --table (default auto: the one that predicts the table best); for a saved fit by a law of "
        "your own, its FILE.py:NAME",
    )
    ask.add_argument("--factor", metavar="COLUMN", help=f"of --table: {tables.FACTOR}")
    ask.add_argument(
        "--at", type=tables.at, action="append", default=[], metavar="COLUMN=LEVEL", help="level of the fit's factor"
    )
    ask.add_argument("--bootstrap", type=int, default=1000, metavar="S", help="resamples of --table (default 1000)")
    ask.add_argument("--seed", type=int, default=0, help="seed of the resamples of --table (default 0)")
    no_remedies(ask)
    ask.add_argument("--level", type=tables.number, default=0.9, help="confidence of the intervals (default 0.9)")
    ask.add_argument(
        "--out", type=Path, metavar="DECISION.json", help="save the decision for cptlaw report and plan next"
    )
    ask.add_argument("--plot", type=Path, metavar="FILE", help="draw how sure the share or mix is (.png, .svg, .pdf)")
    ask.add_argument("--json", action="store_true", help="print JSON")
    domains.asking(ask)
    domains.learnability(ask)
    tables.add_arguments(ask, loss="--losses" if name == "share" else "--loss")
    ask.set_defaults(run=lambda args: decisions.show(run(args), args))
    return ask


def _distribution(ask: argparse.ArgumentParser) -> None:
    ask.add_argument(
        "--law-only", action="store_true",
        help="take the laws as true: decide by their resamples, not by the predictive distribution",
    )  # fmt: skip


def _confidence(ask: argparse.ArgumentParser, what: str) -> None:
    ask.add_argument(
        "--confidence", type=tables.number, default=0.9, metavar="P",
        help=f"recommend the {what} at which the ceiling holds with this probability (default 0.9); 0: the {what} at "
        "which the predicted loss meets it",
    )  # fmt: skip


def _exact(ask: argparse.ArgumentParser) -> None:
    _distribution(ask)
    ask.add_argument("--exact", action="store_true", help="find the influential runs by fitting again without each")


def _fits(ask: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        ask.add_argument(f"--{name}", required=True, metavar="FIT", help=FIT)


def _run(ask: argparse.ArgumentParser) -> None:
    ask.add_argument("--params", type=tables.number, required=True, help="non-embedding parameters, a count")
    ask.add_argument("--tokens", type=tables.number, required=True, help="CPT tokens of all corpora together, a count")
