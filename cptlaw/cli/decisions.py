"""What `cptlaw plan QUESTION` does when it is asked: finds the fits, asks the question, shows the decision."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from cptlaw.cli import domains, tables
from cptlaw.cli.fit import own_law
from cptlaw.errors import UserError
from cptlaw.words import count

TOLD = 3  # warnings of the fits that an answer ends with


def _fit_of(args: argparse.Namespace, name: str) -> Any:
    """The fit that `--name` means."""
    return _fit(args, name, getattr(args, name))


def _fit(args: argparse.Namespace, name: str, text: str) -> Any:
    from cptlaw import fitting

    if text.endswith(".json"):
        saved = fitting.Fit.load(text, own_law(args))
        args.saved_fits = [*getattr(args, "saved_fits", []), saved]
        _asked(args, saved)
        return _about(saved, args)
    if args.table is None:
        raise UserError(f"--{name} {text}: not a saved fit (FIT.json); to fit the corpus {text!r} here, give --table")
    found = fitting.fit(
        _table(args), args.law, text, factor=args.factor, bootstrap=args.bootstrap, seed=args.seed,
        try_remedies=not args.no_remedies, progress=True,
    )  # fmt: skip
    _asked(args, found)
    return _at_level(found, args)


def _asked(args: argparse.Namespace, fit: Any) -> None:
    """Keeps the fit, whose warnings the answer ends with."""
    name = fit.eval if isinstance(fit.eval, str) else ", ".join(fit.eval)
    args.asked_fits = {**getattr(args, "asked_fits", {}), name: fit}


def _about(fit: Any, args: argparse.Namespace) -> Any:
    """The fit as it speaks of the domain and the level that are asked about."""
    return _at_level(domains.about(args, fit), args)


def _at_level(fit: Any, args: argparse.Namespace) -> Any:
    """The fit at the level of its factor that is asked about."""
    found, left = tables.at_level(fit, args.at)
    if left:
        raise UserError(f"--at {left[0][0]}: the fit of {fit.eval} has no factor of that name")
    return found


def _table(args: argparse.Namespace) -> Any:
    """The runs table of --table, or of the saved fits, read once for all corpora that are fitted to it."""
    from cptlaw import cache

    if not hasattr(args, "runs_table"):
        cache.keep_compiled()
        fits = getattr(args, "saved_fits", [])
        if (path := args.table or tables.table_of(fits)) is None:
            raise UserError("--table: give the runs table")
        args.runs_table = tables.read(args, path, like=fits)
    return args.runs_table


def _has_table(args: argparse.Namespace) -> bool:
    return args.table is not None or tables.table_of(getattr(args, "saved_fits", [])) is not None


def _csv(flag: str, path: Path) -> Any:
    from cptlaw import runs

    try:
        return runs.read_columns(path)
    except runs.TableError as error:
        raise UserError(f"{flag} {error}") from None


def show(decision: Any, args: argparse.Namespace) -> None:
    """Prints the decision and what its fits warn of first, and saves it where --out and --plot say."""
    if args.out:
        decision.save(args.out)
    if args.plot:
        decision.plot().save(args.plot)
    if args.json:
        print(json.dumps(decision.to_json(), allow_nan=False))
        return
    print(decision.text())
    from cptlaw.fitting import verdicts

    found = verdicts.warnings(getattr(args, "asked_fits", {}))
    found = [warning for warning in found if "rows at zero tokens" not in warning]  # which is as it should be
    for warning in found[:TOLD]:
        print(f"  the fit of {warning}")
    if found[TOLD:]:
        print(f"  and {len(found) - TOLD} more warnings of the fits: cptlaw report, or cptlaw fit, tells them all")


def _decide(args: argparse.Namespace, decide: Any, *fits: Any, **question: Any) -> Any:
    if args.exact and any(fit.law.factor is not None for fit in fits):
        raise UserError(
            "--exact fits again without each run, which is not offered for a fit with a factor; leave it out"
        )
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


def _size(args: argparse.Namespace, *fits: Any) -> float:
    """The size at which the fits are asked of a model of --params (`Fit.size`)."""
    sizes = {fit.size(args.params) for fit in fits}
    if len(sizes) > 1:
        raise UserError("--params: the fits tell sizes differently; make all of them with --size-by-base, or none")
    (size,) = sizes
    if size != args.params and not getattr(args, "quiet", False):
        print(
            f"note: {count(args.params)} parameters are asked of as {count(size)}, which their base model is worth",
            file=sys.stderr,
        )
    return size


def _laws(args: argparse.Namespace, fits: Any) -> list[Any]:
    return [fit.alone() if args.law_only else fit for fit in fits]


def ask_trade_off(args: argparse.Namespace) -> Any:
    from cptlaw.planning.tradeoff import measured_base, trade_off

    general, domain = _fit_of(args, "general"), _fit_of(args, "domain")
    base, error = args.base_loss, 0.0
    if base is None:
        if not _has_table(args):
            raise UserError("--base-loss: give the general loss before CPT, or --table with rows at zero tokens")
        base, error = measured_base(_table(args), general.eval, args.params)
    return _decide(
        args,
        trade_off,
        general,
        domain,
        params=_size(args, general, domain),
        tokens=args.tokens,
        base_loss=base,
        tolerance=args.tolerance,
        ceiling=None if args.rise is None else base + args.rise,
        base_loss_se=error,
        confidence=args.confidence or None,
        corpus_tokens=args.corpus_tokens or None,
        level=args.level,
    )


def ask_share_for_loss(args: argparse.Namespace) -> Any:
    from cptlaw.planning.share_for_loss import share_for_loss

    fit = _fit_of(args, "fit")
    run = {"params": _size(args, fit), "tokens": args.tokens}
    return _decide(args, share_for_loss, fit, loss=args.loss, **run, level=args.level)


def ask_limited_data(args: argparse.Namespace) -> Any:
    from cptlaw.planning.limited_data import limited_data

    fit = _fit_of(args, "domain")
    return _decide(
        args,
        limited_data,
        fit,
        params=_size(args, fit),
        domain_tokens=args.domain_tokens,
        tokens=args.tokens,
        max_epochs=args.max_epochs,
        **({} if args.repetition is None else {"repetition": args.repetition}),
        level=args.level,
    )


def ask_budget(args: argparse.Namespace) -> Any:
    from cptlaw.planning.budget import budget

    return _decide(
        args,
        budget,
        _fit_of(args, "domain"),
        *([] if args.general is None else [_fit_of(args, "general")]),
        flops=args.flops,
        share=args.share,
        sizes=args.sizes,
        inference_tokens=args.inference_tokens,
        ceiling=args.ceiling,
        level=args.level,
    )


def ask_gate(args: argparse.Namespace) -> Any:
    from cptlaw import report
    from cptlaw.planning.gate import gate

    fits = [_ladder(args, name) for name in ("baseline", "candidate")]
    decision = gate(*fits, params=args.params, tokens=args.tokens, level=args.level)
    if args.page:
        import pandas as pd

        rows = pd.concat([fit.residuals.assign(recipe=name) for fit, name in zip(fits, ("baseline", "candidate"))])
        command = " ".join(["cptlaw", *sys.argv[1:]])
        title = f"{args.candidate} against {args.baseline}"
        report.write(
            args.page, title=title, table=rows.assign(loss=rows["observed"]), fits={fits[0].eval: fits[0]},
            decisions=[decision], command=command,
        )  # fmt: skip
    return decision


def _ladder(args: argparse.Namespace, name: str) -> Any:
    """The fit that `--name` means: a saved one, or of the rows of --table that meet a condition."""
    from cptlaw import fitting, runs

    text = getattr(args, name)
    if text.endswith(".json"):
        return _fit(args, name, text)
    if args.table is None:
        raise UserError(f"--{name} {text}: not a saved fit (FIT.json); a condition on rows needs --table")
    rows = runs.select(_table(args), text, f"--{name}")
    if rows.empty:
        raise UserError(f"--{name}: no row of {args.table} satisfies {text!r}")
    corpora = list(rows["eval"].unique())
    if args.eval is None and len(corpora) > 1:
        raise UserError(f"--eval: choose the corpus whose loss is compared; there are {', '.join(corpora)}")
    law = "chinchilla" if args.law == "auto" else args.law
    return fitting.fit(
        rows, law, args.eval or corpora[0], bootstrap=args.bootstrap, seed=args.seed,
        try_remedies=not args.no_remedies, progress=True,
    )  # fmt: skip


def ask_pareto(args: argparse.Namespace) -> Any:
    from cptlaw.planning.pareto import pareto

    fits = _fit_of(args, "general"), _fit_of(args, "domain")
    run = {"params": _size(args, *fits), "tokens": args.tokens}
    return _ask(args, pareto, *fits, **run, points=args.points, level=args.level)


def ask_mixture(args: argparse.Namespace) -> Any:
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
        "confidence",
        "beyond",
        "level",
    )
    fits = [_fit(args, "fits", text) for text in args.fits]
    args.ceilings = {**args.ceilings, **_relative_ceilings(args)}
    args.confidence = args.confidence or None
    if args.params is not None:
        args.params = _size(args, *fits)
    return _ask(args, mixture, *fits, **{name: getattr(args, name) for name in asked})


def _relative_ceilings(args: argparse.Namespace) -> dict[str, float]:
    """Target -> the most loss that --tolerances allow it."""
    from cptlaw.planning.tradeoff import base_loss

    if args.tolerances and (not _has_table(args) or args.params is None):
        raise UserError(
            "--tolerances: needs --table with rows at zero tokens, and --params, for the base model's losses"
        )
    return {name: (1 + rise) * base_loss(_table(args), name, args.params) for name, rise in args.tolerances.items()}


def ask_best_subset(args: argparse.Namespace) -> Any:
    from cptlaw.planning.best_subset import RANDOM, best_subset

    reachable, random = None, args.random
    if args.reachable is not None:
        table = _csv("--reachable", args.reachable)
        if not {"mean", "spread"} <= set(table):
            raise UserError(f"--reachable {args.reachable}: needs the columns mean and spread")
        reachable = table[["mean", "spread"]].to_numpy()
        if random is None and "text" in table and (is_random := table["text"] == RANDOM).any():
            random = tuple(table.loc[is_random, ["mean", "spread"]].iloc[0])
    if random is None:
        raise UserError(
            "--random: give the mean and the spread of the whole pool, since a gain is measured against random text; "
            "`cptlaw landscape SCORES` prints them, and its --reachable CSV holds them"
        )
    return best_subset(
        _fit_of(args, "fit"), tokens=args.tokens, random=random, reachable=reachable, miss=args.miss, level=args.level
    )


def ask_next_runs(args: argparse.Namespace) -> Any:
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


def ask_first_grid(args: argparse.Namespace) -> Any:
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
            theta = tables.named(args.assume)
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
