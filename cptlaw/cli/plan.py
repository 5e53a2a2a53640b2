"""`cptlaw plan QUESTION`: decisions from saved fits, or straight from a runs table."""

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from cptlaw.cli import tables
from cptlaw.cli.fit import own_law
from cptlaw.errors import UserError

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
    for add in (_add_trade_off, _add_share, _add_limited_data, _add_budget, _add_pareto, _add_mixture, _add_subset,
                _add_next, _add_design):  # fmt: skip
        add(questions)


def _add_trade_off(questions: Any) -> None:
    ask = _question(questions, "trade-off", "the largest domain share under a ceiling on the general loss", _trade_off)
    _exact(ask)
    _fits(ask, "general", "domain")
    _run(ask)
    ask.add_argument("--base-loss", type=float, help="general loss before CPT (default: the table's, at zero tokens)")
    ceiling = ask.add_mutually_exclusive_group()
    ceiling.add_argument("--tolerance", type=float, default=0.03, help="allowed relative rise (default 0.03)")
    ceiling.add_argument("--rise", type=float, help="allowed rise in nats per token, instead of --tolerance")
    ask.add_argument(
        "--confidence", type=float, default=0.9, metavar="P",
        help="recommend the share at which the ceiling holds with this probability (default 0.9); 0: the share at "
        "which the predicted loss meets it",
    )  # fmt: skip
    ask.add_argument(
        "--corpus-tokens", type=_named, default={}, metavar="NAME=N,...",
        help="tokens there are of each corpus; compares the mix in proportion to them",
    )  # fmt: skip


def _add_share(questions: Any) -> None:
    ask = _question(questions, "share", "the share at which a corpus has a given loss", _share)
    _exact(ask)
    _fits(ask, "fit")
    _run(ask)
    ask.add_argument("--loss", type=float, required=True, help="the wanted loss, nats per token")


def _add_limited_data(questions: Any) -> None:
    ask = _question(questions, "limited-data", "the share that makes the most of little domain text", _limited)
    _exact(ask)
    _fits(ask, "domain")
    ask.add_argument("--params", type=float, required=True, help="non-embedding parameters, a count")
    ask.add_argument("--domain-tokens", type=float, required=True, help="unique tokens of domain text, a count")
    ask.add_argument(
        "--tokens", type=float, default=math.inf, help="most tokens to train on, both corpora together (default any)"
    )
    ask.add_argument("--max-epochs", type=float, default=1.0, help="most passes over the domain text (default 1)")
    ask.add_argument("--repetition", type=float, help="epochs after which repeated text is worth 1/e less (15.4)")


def _add_budget(questions: Any) -> None:
    ask = _question(questions, "budget", "the best size and tokens for a compute budget", _budget)
    _exact(ask)
    _fits(ask, "domain")
    ask.add_argument("--general", metavar="FIT", help=f"the corpus that --ceiling is on: {FIT}")
    ask.add_argument("--flops", type=float, required=True, help="FLOPs for training and inference together")
    ask.add_argument("--share", type=float, help="share of domain text; without it, the best share is found too")
    ask.add_argument("--ceiling", type=float, help="most general loss allowed, nats per token")
    ask.add_argument("--sizes", type=_numbers, metavar="N[,N...]", help="sizes to choose from (default any)")
    ask.add_argument(
        "--inference-tokens", type=float, default=0.0, help="tokens the model will serve over its life (default 0)"
    )


def _add_pareto(questions: Any) -> None:
    ask = _question(questions, "pareto", "general against domain loss over the share", _pareto)
    _distribution(ask)
    _fits(ask, "general", "domain")
    _run(ask)
    ask.add_argument("--points", type=int, default=21, help="number of shares listed (default 21)")


def _add_mixture(questions: Any) -> None:
    ask = _question(questions, "mixture", "the best shares of any number of corpora", _mixture)
    _distribution(ask)
    ask.add_argument("--fits", nargs="+", required=True, metavar="FIT", help=f"one for each target corpus: {FIT}")
    ask.add_argument(
        "--weights", type=_named, default={}, metavar="TARGET=W,...", help="weights of the losses (default 1 each)"
    )
    ask.add_argument("--worst", action="store_true", help="minimise the largest weighted loss, not the sum")
    ask.add_argument("--params", type=float, help="non-embedding parameters, for laws that read them")
    ask.add_argument("--tokens", type=float, help="CPT tokens, for laws that read them and for --corpus-tokens")
    for name, what in (("floors", "smallest"), ("caps", "largest")):
        ask.add_argument(
            f"--{name}", type=_named, default={}, metavar="CORPUS=SHARE,...", help=f"{what} shares allowed"
        )
    ask.add_argument(
        "--corpus-tokens", type=_named, default={}, metavar="CORPUS=N,...", help="unique tokens there are of a corpus"
    )
    ask.add_argument("--max-epochs", type=float, default=1.0, help="most passes over those tokens (default 1)")
    ask.add_argument("--beyond", action="store_true", help="look outside the measured mixes and their blends too")
    ask.add_argument(
        "--ceilings", type=_named, default={}, metavar="TARGET=LOSS,...", help="most loss allowed, nats per token"
    )


def _add_subset(questions: Any) -> None:
    ask = _question(questions, "subset", "the mean and spread of perplexity of the best domain text", _subset)
    _fits(ask, "fit")
    ask.add_argument("--tokens", type=float, required=True, help="tokens of the planned run, a count")
    ask.add_argument(
        "--reachable", type=Path, metavar="TABLE",
        help="CSV with columns mean and spread: what can be chosen (default: between those of the fitted runs)",
    )  # fmt: skip


def _add_next(questions: Any) -> None:
    ask = _question(questions, "next", "the runs that would make a saved decision surer, for their cost", _next)
    target = ask.add_mutually_exclusive_group(required=True)
    target.add_argument("--decision", type=Path, metavar="DECISION.json", help="a decision saved by cptlaw plan --out")
    target.add_argument(
        "--predict",
        type=_named,
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
    ask = _question(questions, "design", "before any run: the cheapest grid for a wanted precision", _design)
    ask.add_argument("--assume", metavar="FIT|P=X,...", required=True, help="a saved fit, or --law's parameters")
    _run(ask)
    ask.add_argument("--ratio", type=float, required=True, help="share of the corpus in the run to be predicted")
    ask.add_argument(
        "--precision", type=float, required=True, help="wanted: half the width of the interval, nats per token"
    )
    ask.add_argument("--sizes", type=_numbers, required=True, metavar="N,...", help="sizes that could be trained")
    ask.add_argument(
        "--lengths", type=_numbers, required=True, metavar="D,...", help="run lengths that could be trained, tokens"
    )
    ask.add_argument(
        "--run-noise", type=float, default=0.003, help="standard deviation between seeds, nats (default 0.003)"
    )
    ask.add_argument(
        "--checkpoint-noise", type=float, default=0.001, help="standard deviation within a run, nats (default 0.001)"
    )
    ask.add_argument("--seeds", type=int, default=3, help="most repeats of a run (default 3)")


def _question(questions: Any, name: str, about: str, run: Any) -> argparse.ArgumentParser:
    ask = questions.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
    ask.add_argument("--table", type=Path, metavar="TABLE", help="runs table to fit, instead of saved fits")
    ask.add_argument(
        "--law", default="auto", help="law to fit to --table (default auto, chosen by it); of saved fits, FILE.py:NAME"
    )
    ask.add_argument("--bootstrap", type=int, default=1000, metavar="S", help="resamples of --table (default 1000)")
    ask.add_argument("--seed", type=int, default=0, help="seed of the resamples of --table (default 0)")
    ask.add_argument("--level", type=float, default=0.9, help="confidence of the intervals (default 0.9)")
    ask.add_argument(
        "--out", type=Path, metavar="DECISION.json", help="save the decision for cptlaw report and plan next"
    )
    ask.add_argument("--json", action="store_true", help="print JSON")
    tables.add_arguments(ask, loss="--losses" if name == "share" else "--loss")
    ask.set_defaults(run=lambda args: _show(run(args), args))
    return ask


def _distribution(ask: argparse.ArgumentParser) -> None:
    ask.add_argument(
        "--law-only", action="store_true",
        help="take the laws as true: decide by their resamples, not by the predictive distribution",
    )  # fmt: skip


def _exact(ask: argparse.ArgumentParser) -> None:
    _distribution(ask)
    ask.add_argument("--exact", action="store_true", help="find the influential runs by fitting again without each")


def _fits(ask: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        ask.add_argument(f"--{name}", required=True, metavar="FIT", help=FIT)


def _run(ask: argparse.ArgumentParser) -> None:
    ask.add_argument("--params", type=float, required=True, help="non-embedding parameters, a count")
    ask.add_argument("--tokens", type=float, required=True, help="CPT tokens of all corpora together, a count")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, nor numbers separated by commas") from None


def _named(text: str) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in tables.pairs("", text).items()}
    except (ValueError, UserError):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=NUMBER,NAME=NUMBER") from None


def load(args: argparse.Namespace, name: str) -> Any:
    """The fit that `--name` means."""
    return _fit(args, name, getattr(args, name))


def _fit(args: argparse.Namespace, name: str, text: str) -> Any:
    from cptlaw import fitting

    if text.endswith(".json"):
        return fitting.Fit.load(text, own_law(args))
    if args.table is None:
        raise UserError(f"--{name} {text}: not a saved fit (FIT.json); to fit the corpus {text!r} here, give --table")
    return fitting.fit(_table(args), args.law, text, bootstrap=args.bootstrap, seed=args.seed, progress=True)


def _table(args: argparse.Namespace) -> Any:
    from cptlaw import cache

    cache.keep_compiled()
    return tables.read(args, args.table)


def _csv(flag: str, path: Path) -> Any:
    from cptlaw import runs

    try:
        return runs.read_columns(path)
    except runs.TableError as error:
        raise UserError(f"{flag} {error}") from None


def _show(decision: Any, args: argparse.Namespace) -> None:
    if args.out:
        decision.save(args.out)
    print(json.dumps(decision.to_json(), allow_nan=False) if args.json else decision.text())


def _decide(args: argparse.Namespace, decide: Any, *fits: Any, **question: Any) -> Any:
    decision = _ask(args, decide, *fits, **question)
    if not args.exact:
        return decision
    from cptlaw import cache
    from cptlaw.planning.influence import leave_one_out

    cache.keep_compiled()
    moved = leave_one_out(decide, *_laws(args, fits), progress=True, **question)
    return dataclasses.replace(decision, influence=moved.influence)


def _ask(args: argparse.Namespace, decide: Any, *fits: Any, **question: Any) -> Any:
    return decide(*_laws(args, fits), **question)


def _laws(args: argparse.Namespace, fits: Any) -> list[Any]:
    return [fit.alone() if args.law_only else fit for fit in fits]


def _trade_off(args: argparse.Namespace) -> Any:
    from cptlaw.planning.tradeoff import measured_base, trade_off

    general, domain = load(args, "general"), load(args, "domain")
    base, error = args.base_loss, 0.0
    if base is None:
        if args.table is None:
            raise UserError("--base-loss: give the general loss before CPT, or --table with rows at zero tokens")
        base, error = measured_base(_table(args), general.eval, args.params)
    return _decide(
        args,
        trade_off,
        general,
        domain,
        params=args.params,
        tokens=args.tokens,
        base_loss=base,
        tolerance=args.tolerance,
        ceiling=None if args.rise is None else base + args.rise,
        base_loss_se=error,
        confidence=args.confidence or None,
        corpus_tokens=args.corpus_tokens or None,
        level=args.level,
    )


def _share(args: argparse.Namespace) -> Any:
    from cptlaw.planning.share_for_loss import share_for_loss

    fit = load(args, "fit")
    return _decide(args, share_for_loss, fit, loss=args.loss, params=args.params, tokens=args.tokens, level=args.level)


def _limited(args: argparse.Namespace) -> Any:
    from cptlaw.planning.limited_data import limited_data

    return _decide(
        args,
        limited_data,
        load(args, "domain"),
        params=args.params,
        domain_tokens=args.domain_tokens,
        tokens=args.tokens,
        max_epochs=args.max_epochs,
        **({} if args.repetition is None else {"repetition": args.repetition}),
        level=args.level,
    )


def _budget(args: argparse.Namespace) -> Any:
    from cptlaw.planning.budget import budget

    return _decide(
        args,
        budget,
        load(args, "domain"),
        *([] if args.general is None else [load(args, "general")]),
        flops=args.flops,
        share=args.share,
        sizes=args.sizes,
        inference_tokens=args.inference_tokens,
        ceiling=args.ceiling,
        level=args.level,
    )


def _pareto(args: argparse.Namespace) -> Any:
    from cptlaw.planning.pareto import pareto

    fits = load(args, "general"), load(args, "domain")
    return _ask(args, pareto, *fits, params=args.params, tokens=args.tokens, points=args.points, level=args.level)


def _mixture(args: argparse.Namespace) -> Any:
    from cptlaw import cache
    from cptlaw.planning.mixture import mixture

    cache.keep_compiled()
    asked = (
        "weights",
        "worst",
        "params",
        "tokens",
        "floors",
        "caps",
        "corpus_tokens",
        "max_epochs",
        "ceilings",
        "beyond",
        "level",
    )
    fits = [_fit(args, "fits", text) for text in args.fits]
    return _ask(args, mixture, *fits, **{name: getattr(args, name) for name in asked})


def _subset(args: argparse.Namespace) -> Any:
    from cptlaw.planning.best_subset import best_subset

    reachable = None
    if args.reachable is not None:
        table = _csv("--reachable", args.reachable)
        if not {"mean", "spread"} <= set(table):
            raise UserError(f"--reachable {args.reachable}: needs the columns mean and spread")
        reachable = table[["mean", "spread"]].to_numpy()
    return best_subset(load(args, "fit"), tokens=args.tokens, reachable=reachable, level=args.level)


def _next(args: argparse.Namespace) -> Any:
    from cptlaw import cache
    from cptlaw.planning.decision import Decision
    from cptlaw.planning.next_runs import next_runs

    target = args.predict or Decision.load(args.decision)
    if isinstance(target, Decision) and target.kind == "mixture":
        cache.keep_compiled()
    return next_runs(
        target,
        *(_fit(args, "fits", text) for text in args.fits),
        candidates=None if args.candidates is None else _csv("--candidates", args.candidates),
        k=args.k,
        level=args.level,
    )


def _design(args: argparse.Namespace) -> Any:
    from cptlaw import fitting, laws
    from cptlaw.planning.first_grid import first_grid

    if args.assume.endswith(".json"):
        fit = fitting.Fit.load(args.assume, own_law(args))
        law, theta = fit.law, fit.params
        for column, loose in fit.rests.items():
            if loose:
                raise UserError(
                    f"--assume {args.assume}: {column} never varied in its runs, so it does not determine "
                    f"{', '.join(loose)}: give values for all parameters, --assume NAME=X,... with --law {law.name}"
                )
    else:
        law = laws.parse("dcpt" if args.law == "auto" else args.law)
        try:
            theta = _named(args.assume)
        except argparse.ArgumentTypeError as error:
            raise UserError(f"--assume {error}") from None
    return first_grid(
        law,
        theta,
        at={"params": args.params, "tokens": args.tokens, "ratio": args.ratio},
        precision=args.precision,
        sizes=args.sizes,
        tokens=args.lengths,
        run_noise=args.run_noise,
        checkpoint_noise=args.checkpoint_noise,
        seeds=args.seeds,
        level=args.level,
    )
