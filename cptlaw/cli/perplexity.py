"""`cptlaw landscape`, `select` and `perplexity-study`: which documents are worth training on."""

import argparse
import sys
from pathlib import Path
from typing import Any

from cptlaw.errors import UserError

UNITS = ("perplexity", "log-perplexity", "bits-per-byte")


def add_parsers(subparsers: Any) -> None:
    """Registers the three commands."""
    landscape = subparsers.add_parser(
        "landscape",
        help="a scored corpus: mean, spread and quantiles of its perplexity, and what subsets can reach",
        description="Prints the perplexity landscape of a corpus that launch/score.py has scored.",
    )
    _pool_arguments(landscape)
    landscape.add_argument("--reachable", type=Path, metavar="CSV", help="write reachable (mean, spread) pairs")
    landscape.set_defaults(run=_landscape)

    select = subparsers.add_parser(
        "select",
        help="choose documents or chunks by the mean and spread of their perplexity",
        description="Writes the list of a subset (Parquet: document, begin, end), and on request its token store.",
    )
    _pool_arguments(select)
    select.add_argument("--method", default="tilt", help="tilt, swaps, dos_greedy, band, low, mid, high or random")
    select.add_argument("--mean", type=float, help="wanted mean, in the unit")
    select.add_argument("--std", type=float, help="wanted standard deviation")
    select.add_argument("--decision", type=Path, metavar="DECISION.json", help="take both from `cptlaw plan subset`")
    select.add_argument("--band", type=float, nargs=2, metavar=("LOW", "HIGH"), help="quantiles, for --method band")
    select.add_argument("--by-length", action="store_true", help="keep the pool's shares of document lengths")
    select.add_argument(
        "--sources",
        type=Path,
        metavar="TABLE",
        help="columns document, source: keep sources' shares; with --models, sources are what is correlated",
    )
    other = select.add_mutually_exclusive_group()
    other.add_argument("--reference", type=Path, metavar="SCORES", help="choose by excess loss over these scores")
    other.add_argument(
        "--models",
        type=Path,
        metavar="TABLE",
        help="choose by how well a document's (or source's) loss tells good models from bad: columns scores (their "
        "folders for this corpus, relative to the table) and quality",
    )
    select.add_argument("--seed", type=int, default=0)
    select.add_argument("--out", type=Path, required=True, metavar="LIST.parquet", help="where the list goes")
    select.add_argument("--store", type=Path, help="the token store that was scored; for the next two")
    select.add_argument("--store-out", type=Path, metavar="DIR", help="write the subset as a token store of its own")
    select.add_argument("--text-out", type=Path, metavar="FILE.jsonl", help="write its text, a corpus for any study")
    select.set_defaults(run=_select)

    study = subparsers.add_parser(
        "perplexity-study",
        help="runs on subsets of different perplexity, the law of them, and whether its choice is better",
        description="Runs a perplexity study (see configs/perplexity_small.py) to its reports. Stop it with Ctrl-C; "
        "the same command continues.",
    )
    study.add_argument("config", type=Path, metavar="CONFIG.py", help="a file with get_config()")
    study.add_argument("--workdir", type=Path, required=True, help="where everything is kept")
    study.add_argument("--update-config", action="store_true", help="keep another config's runs, train the rest")
    study.add_argument("--quiet", action="store_true", help="no progress bars")
    study.set_defaults(run=_study)


def _pool_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scores", type=Path, metavar="SCORES", help="a folder that launch/score.py wrote")
    parser.add_argument("--unit", choices=UNITS, default="log-perplexity", help="default log-perplexity")
    parser.add_argument("--by", choices=("document", "chunk"), default="document", help="what is taken or left whole")
    parser.add_argument("--winsor", type=float, default=0.995, help="quantile to clip at (default 0.995; 1 for none)")
    parser.add_argument("--fraction", type=float, default=0.2, help="share of the pool in a subset (default 0.2)")


def _landscape(args: argparse.Namespace) -> None:
    import pandas as pd

    from cptlaw import atomic
    from cptlaw.selection import choose, landscape
    from cptlaw.selection import scores as scores_lib

    rows, chunk = scores_lib.read(args.scores), scores_lib.meta(args.scores)["chunk"]
    pool = choose.pool(rows, chunk, by=args.by, unit=args.unit, winsor=args.winsor)
    whole = landscape.whole(rows, chunk)
    length = scores_lib.document_tokens(rows, whole["document"])
    x, _, _ = landscape.winsorise(landscape.values(whole, args.unit), args.winsor)
    print(f"{args.unit} of chunks of {chunk} tokens; documents by length (tokens, at least)\n")
    print(landscape.summary(x, landscape.length_classes(length)).to_string(index=False, float_format="{:.4g}".format))
    print(f"\n{pool.clipped:.2%} of the chunks are clipped at {pool.cap:.4g}; ", end="")
    print(f"{pool.unused:.1%} of the tokens are in documents or tails shorter than a chunk and can not be chosen")
    pairs = pool.region(args.fraction).grid()
    print(
        f"\nsubsets of {args.fraction:.0%}, by {args.by}: mean {pairs[:, 0].min():.4g} to {pairs[:, 0].max():.4g}, ",
        end="",
    )
    print(f"std {pairs[:, 1].min():.4g} to {pairs[:, 1].max():.4g}")
    if args.reachable:
        table = pd.DataFrame(pairs, columns=["mean", "spread"])
        atomic.write_text(args.reachable, table.to_csv(index=False))
        print(f"wrote {args.reachable}; cptlaw plan subset --reachable {args.reachable}")


def _select(args: argparse.Namespace) -> None:
    import numpy as np

    from cptlaw.selection import choose
    from cptlaw.selection import scores as scores_lib

    if (args.store is None) != (args.store_out is None and args.text_out is None):
        raise UserError(
            "--store, --store-out, --text-out: the second and third need the first, and it needs one of them"
        )
    about = scores_lib.meta(args.scores)
    store = None
    if args.store is not None:
        from cptlaw.data.store import TokenStore

        store = TokenStore.open(args.store)
        if store.ledger["tokens_sha256"] != about["tokens_sha256"]:
            raise UserError(f"--store {args.store}: not the tokens that {args.scores} holds the scores of; name those")
    rows = scores_lib.read(args.scores)
    x, unit = _other_score(args, rows)
    pool = choose.pool(rows, about["chunk"], by=args.by, unit=unit, winsor=args.winsor, x=x)
    target = _target(args)
    chosen = choose.select(
        pool,
        args.method,
        fraction=args.fraction,
        target=target,
        strata=_strata(args, rows, pool),
        band=args.band,
        seed=args.seed,
    )
    chose = ("method", "band", "fraction", "seed", "by", "winsor", "by_length", "sources", "reference", "models")
    asked = {name: str(value) if isinstance(value := getattr(args, name), Path) else value for name in chose}
    choose.write_list(args.out, pool, chosen, {**asked, "target": target, "unit": unit, "scores": about})
    spans = pool.spans.iloc[chosen]
    for name, (mean, std) in {"pool": pool.moments(), "subset": pool.moments(chosen)}.items():
        print(f"{name:<8} mean {mean:.4g}   std {std:.4g}")
    edges = np.linspace(pool.first.min(), pool.first.max(), 21)
    all_, mine = (np.histogram(pool.first[which], edges)[0] for which in (slice(None), chosen))
    print(f"\n{unit:>24}  share of the subset (#) and of the pool (-)")
    for i in range(20):
        ours, whole = round(150 * mine[i] / mine.sum()), round(150 * all_[i] / all_.sum())
        print(f"{edges[i]:>11.4g} to {edges[i + 1]:<9.4g}  {'#' * ours}{'-' * (whole - ours)}")
    print(f"\n{args.out}: {len(chosen):,} {args.by}s, {(spans['end'] - spans['begin']).sum():,} tokens")
    if store is not None:
        from cptlaw.data import build, subsets

        if args.store_out is not None:
            print(subsets.write_store(store, spans, args.store_out, args.store_out.name))
        if args.text_out is not None:
            # A prepared directory holds CORPUS/SPLIT and vocabulary.
            subsets.write_text(store, spans, build.load_vocabulary(args.store.parent.parent), args.text_out)
            print(args.text_out)


def _other_score(args: argparse.Namespace, rows: Any) -> tuple[Any, str]:
    """What the chunks are chosen by instead of their perplexity, None for that; and its unit."""
    import pandas as pd

    from cptlaw.selection import alternatives
    from cptlaw.selection import scores as scores_lib

    if args.reference is not None:
        return alternatives.excess(rows, scores_lib.read(args.reference)), "excess nats per token"
    if args.models is None:
        return None, args.unit
    if not args.models.is_file():
        raise UserError(f"--models {args.models}: no such file")
    table = pd.read_csv(args.models)
    if not {"scores", "quality"} <= set(table):
        raise UserError(f"--models {args.models}: needs the columns scores and quality")
    quality = pd.to_numeric(table["quality"], errors="coerce")
    if quality.isna().any():
        row = int(quality.isna().to_numpy().argmax())
        raise UserError(f"--models {args.models}, row {row + 1}: quality is no number ({table['quality'][row]!r})")
    scores = [scores_lib.read(args.models.parent / folder) for folder in table["scores"]]
    groups = rows["document"] if args.sources is None else _sources(args.sources, rows["document"])
    return alternatives.correlation(scores, quality, groups), "perplexity correlation"


def _sources(path: Path, documents: Any) -> Any:
    """The source of each of `documents`, of a table of the columns document and source: a Series of strings."""
    import pandas as pd

    if not path.is_file():
        raise UserError(f"--sources {path}: no such file")
    table = (pd.read_parquet if path.suffix == ".parquet" else pd.read_csv)(path)
    if not {"document", "source"} <= set(table):
        raise UserError(f"--sources {path}: needs the columns document and source")
    source = table.set_index("document")["source"].reindex(documents)
    if source.isna().any():
        raise UserError(f"--sources {path}: no source of document {source.index[source.isna()][0]}")
    return source.astype(str).reset_index(drop=True)


def _target(args: argparse.Namespace) -> tuple[float, float] | None:
    if args.decision is not None:
        from cptlaw.planning.decision import Decision

        point = Decision.load(args.decision).point
        if not {"mean", "spread"} <= set(point):
            raise UserError(f"--decision {args.decision}: not one of `cptlaw plan subset`")
        return point["mean"], point["spread"]
    if (args.mean is None) != (args.std is None):
        raise UserError("--mean, --std: give both, or neither")
    return None if args.mean is None else (args.mean, args.std)


def _strata(args: argparse.Namespace, rows: Any, pool: Any) -> Any:
    """A label for each unit: its document's length class, its source, or both."""
    import pandas as pd

    from cptlaw.selection import landscape
    from cptlaw.selection import scores as scores_lib

    labels = []
    if args.by_length:
        length = scores_lib.document_tokens(rows, pool.spans["document"])
        labels.append(pd.Series(landscape.length_classes(length)).astype(str))
    if args.sources is not None and args.models is None:  # with it they are what is correlated
        labels.append(_sources(args.sources, pool.spans["document"]))
    if not labels:
        return None
    return (labels[0] if len(labels) == 1 else labels[0] + " " + labels[1]).to_numpy()


def _study(args: argparse.Namespace) -> None:
    from cptlaw.cli.demo import need_training, read_config

    need_training()
    import jax

    from cptlaw import cache
    from cptlaw.studies import mixture_study, selection_study

    # This process draws and fits; the ones that score and train, which inherit none of this, have the accelerator.
    jax.config.update("jax_platforms", "cpu")
    cache.keep_compiled()
    settings, plan = selection_study.parse(read_config(args.config))
    prepared = mixture_study.prepare(settings, args.workdir, update_config=args.update_config, progress=not args.quiet)
    for found in selection_study.run(prepared, plan, command=" ".join(["cptlaw", *sys.argv[1:]])):
        print(found.text(), flush=True)
        print(f"\n  {args.workdir / f'landscape-{found.domain}.html'}\n", flush=True)
