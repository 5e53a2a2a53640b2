"""`cptlaw landscape`, `select` and `perplexity-study`: which documents are worth training on."""

import argparse
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cptlaw import units
from cptlaw.cli import tables
from cptlaw.cli.demo import study_arguments
from cptlaw.errors import UserError

if TYPE_CHECKING:
    from cptlaw.selection.choose import Chosen


def add_parsers(subparsers: Any) -> None:
    """Registers the three commands."""
    _add_landscape(subparsers)
    _add_select(subparsers)
    _add_study(subparsers)


def _add_landscape(subparsers: Any) -> None:
    landscape = subparsers.add_parser(
        "landscape",
        help="show mean, spread and quantiles of a scored corpus, and which of them a subset can have",
        description="Prints the perplexity landscape of a corpus that `cptlaw score` has scored.",
    )
    _pool_arguments(landscape)
    landscape.add_argument(
        "--reachable", type=Path, metavar="CSV", help="write the (mean, spread) pairs that a subset can have"
    )
    landscape.set_defaults(run=_landscape)


def _add_select(subparsers: Any) -> None:
    select = subparsers.add_parser(
        "select",
        help="choose documents or chunks by the mean and spread of their perplexity",
        description="Writes a subset as a list (Parquet: document, begin, end), and on request its tokens or text. "
        "tilt, swaps and dos_greedy aim at a mean and a spread; the other methods are controls.",
    )
    _pool_arguments(select)
    select.add_argument(
        "--method", default="tilt", help="tilt (default), swaps, dos_greedy, band, low, mid, high or random"
    )
    select.add_argument("--mean", type=tables.number, help="the subset's mean, in the unit")
    select.add_argument("--std", type=tables.number, help="the subset's standard deviation, in the unit")
    select.add_argument(
        "--decision",
        type=Path,
        metavar="DECISION.json",
        help="take mean and spread from what `cptlaw plan subset` saved",
    )
    select.add_argument(
        "--band", type=tables.number, nargs=2, metavar=("LOW", "HIGH"), help="the two quantiles of --method band"
    )
    select.add_argument(
        "--by-length", action="store_true", help="give every class of document lengths its share of the pool"
    )
    select.add_argument(
        "--sources",
        type=Path,
        metavar="TABLE",
        help="a table of document and source: give every source its share; with --models, correlate the sources",
    )
    other = select.add_mutually_exclusive_group()
    other.add_argument(
        "--reference",
        type=Path,
        metavar="SCORES",
        help="choose by the loss in excess of these scores, of a reference model",
    )
    other.add_argument(
        "--models",
        type=Path,
        metavar="TABLE",
        help="choose by how well a document's (or source's) loss tells good models from bad; a table of scores "
        "(each model's folder for this corpus, relative to the table) and quality",
    )
    select.add_argument("--seed", type=int, default=0, help="seed of the random choice (default 0)")
    select.add_argument("--out", type=Path, required=True, metavar="LIST.parquet", help="write the list here")
    select.add_argument("--store", type=Path, metavar="DIR", help="the token store that was scored")
    select.add_argument(
        "--store-out", type=Path, metavar="DIR", help="write the subset of --store as a token store of its own"
    )
    select.add_argument(
        "--text-out",
        type=Path,
        metavar="FILE.jsonl",
        help="write the text of the subset of --store, a corpus for any study",
    )
    select.set_defaults(run=_select)


def _add_study(subparsers: Any) -> None:
    study = subparsers.add_parser(
        "perplexity-study",
        help="train on subsets of different perplexity, fit the law, and train what it chooses",
        description="Runs a perplexity study (see configs/perplexity_small.py) to its reports. Stop it with Ctrl-C; "
        "the same command continues.",
    )
    study.add_argument("config", type=Path, metavar="CONFIG.py", help="a file with get_config()")
    study.add_argument("--workdir", type=Path, required=True, help="where everything is kept")
    study_arguments(study)
    study.set_defaults(run=_study, overrides=[])


def _pool_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scores", type=Path, metavar="SCORES", help="a folder that `cptlaw score` wrote")
    parser.add_argument(
        "--unit",
        choices=units.PERPLEXITY,
        default="log-perplexity",
        help="unit of a chunk's value (default log-perplexity)",
    )
    parser.add_argument(
        "--by", choices=("document", "chunk"), default="document", help="choose whole documents (default), or chunks"
    )
    parser.add_argument(
        "--winsor",
        type=tables.number,
        default=0.995,
        help="quantile at which a chunk's value is clipped (default 0.995; 1 clips none)",
    )
    parser.add_argument(
        "--fraction", type=tables.number, default=0.2, help="share of the pool's chunks in a subset (default 0.2)"
    )


def _landscape(args: argparse.Namespace) -> None:
    _check_numbers(args)
    import pandas as pd

    from cptlaw import atomic
    from cptlaw.selection import landscape
    from cptlaw.selection import scores as scores_lib
    from cptlaw.selection.pool import Pool

    rows, chunk = _rows(args.scores), scores_lib.meta(args.scores)["chunk"]
    pool = Pool.of(rows, chunk, by=args.by, unit=args.unit, winsor=args.winsor)
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
        from cptlaw.planning.best_subset import RANDOM

        table = pd.DataFrame([*pairs, pool.moments()], columns=["mean", "spread"])
        table["text"] = [""] * len(pairs) + [RANDOM]
        atomic.write_text(args.reachable, table.to_csv(index=False))
        print(f"wrote {args.reachable}; cptlaw plan subset --reachable {args.reachable}")


def _rows(directory: Path) -> Any:
    """All scores; of a corpus that does not fit into memory those of every n-th shard, which is said."""
    import pandas as pd

    from cptlaw.selection import scores as scores_lib
    from cptlaw.selection import shards

    every = -(-scores_lib.count(directory) // shards.IN_MEMORY)
    if every > 1:
        print(f"of every {every}th shard of the scores, which are more than memory holds\n")
    return pd.concat(scores_lib.shards(directory, max(every, 1)), ignore_index=True)


def _select(args: argparse.Namespace) -> None:
    _check_numbers(args)
    _check_flags(args)
    from cptlaw.selection import scores as scores_lib
    from cptlaw.selection import shards

    meta = scores_lib.meta(args.scores)
    store, vocabulary = _open_store(args, meta["tokens_sha256"])
    chose = ("method", "band", "fraction", "seed", "by", "winsor", "by_length", "sources", "reference", "models")
    asked = {name: str(value) if isinstance(value := getattr(args, name), Path) else value for name in chose}
    about = {**asked, "target": _target(args), "unit": _unit(args), "scores": meta}
    chunks = scores_lib.count(args.scores)
    chosen = _from_shards(args, about, chunks) if chunks > shards.IN_MEMORY else _in_memory(args, about)
    for name, (mean, std) in {"pool": chosen.pool, "subset": chosen.subset}.items():
        print(f"{name:<8} mean {mean:.4g}   std {std:.4g}")
    print(f"\n{about['unit']:>24}  share of the subset (#) and of the pool (-)")
    for low, high, of_pool, mine in zip(chosen.edges, chosen.edges[1:], *chosen.counts):
        ours, whole = round(150 * mine / chosen.units), round(150 * of_pool / chosen.counts[0].sum())
        print(f"{low:>11.4g} to {high:<9.4g}  {'#' * ours}{'-' * (whole - ours)}")
    print(f"\n{args.out}: {chosen.units:,} {args.by}s, {chosen.tokens:,} tokens")
    if store is not None:
        from cptlaw.data import subsets

        spans = subsets.read_list(args.out)
        if args.store_out is not None:
            print(subsets.write_store(store, spans, args.store_out, args.store_out.name))
        if args.text_out is not None:
            subsets.write_text(store, spans, vocabulary, args.text_out)
            print(args.text_out)


def _in_memory(args: argparse.Namespace, about: dict[str, Any]) -> "Chosen":
    from cptlaw.selection import choose
    from cptlaw.selection import scores as scores_lib
    from cptlaw.selection.pool import Pool

    rows = scores_lib.read(args.scores)
    x = _other_score(args, rows)
    pool = Pool.of(rows, about["scores"]["chunk"], by=args.by, unit=about["unit"], winsor=args.winsor, x=x)
    chosen = choose.select(
        pool,
        args.method,
        fraction=args.fraction,
        target=about["target"],
        strata=_strata(args, rows, pool),
        band=args.band,
        seed=args.seed,
    )
    choose.write_list(args.out, pool, chosen, about)
    return choose.Chosen.of(pool, chosen)


def _from_shards(args: argparse.Namespace, about: dict[str, Any], chunks: int) -> "Chosen":
    from cptlaw.selection import shards

    for flag in ("reference", "models"):
        if getattr(args, flag) is not None:
            raise UserError(
                f"--{flag}: needs all chunks in memory, and {args.scores} has {chunks:,}, more than the "
                f"{shards.IN_MEMORY:,} that are taken; score a part of the corpus, or choose by perplexity"
            )
    print(f"{chunks:,} chunks: chosen shard by shard, in four to eight passes over the scores", file=sys.stderr)
    labels = None if args.sources is None and not args.by_length else functools.partial(_strata, args)
    source = shards.Shards(args.scores, args.by, about["unit"], args.winsor, labels)
    return shards.select(
        source,
        args.out,
        about,
        args.method,
        fraction=args.fraction,
        target=about["target"],
        band=args.band,
        seed=args.seed,
    )


def _check_numbers(args: argparse.Namespace) -> None:
    from cptlaw.fields import Range, above, at_least, between  # imports NumPy, which `--help` does without

    ranges = {
        "winsor": between(0, 1, open_low=True, what="a quantile,"),
        "fraction": between(0, 1, open_low=True, open_high=True, what="a share of the pool,"),
        "mean": Range(),
        "std": above(0),
        "seed": at_least(0),
    }
    for name, rule in ranges.items():
        value = getattr(args, name, None)
        if value is not None and (said := rule.refuse(value)) is not None:
            raise UserError(f"--{name}: {said}")


def _check_flags(args: argparse.Namespace) -> None:
    """Flags that do not go together, before anything is read."""
    from cptlaw.selection.choose import AIMED, METHODS

    aimed = ", ".join(AIMED)
    if args.method not in METHODS:
        raise UserError(f"--method {args.method}: one of {', '.join(METHODS)}")
    if (args.mean is None) != (args.std is None):
        missing = "--mean" if args.mean is None else "--std"
        raise UserError(f"--mean, --std: give both; {missing} is missing, and a subset is chosen by both")
    if args.mean is not None and args.decision is not None:
        raise UserError("--decision, --mean, --std: the decision holds a mean and a spread; give it or the two numbers")
    if args.method in AIMED and args.mean is None and args.decision is None:
        raise UserError(
            f"--method {args.method} aims at a mean and a spread: give --mean and --std, or --decision. "
            f"`cptlaw landscape {args.scores}` shows which can be reached"
        )
    if args.method not in AIMED and (args.mean is not None or args.decision is not None):
        flags = "--decision" if args.mean is None else "--mean, --std"
        raise UserError(f"{flags}: --method {args.method} aims at no mean and spread; {aimed} do")
    if args.method == "band" and args.band is None:
        raise UserError("--method band: give the two quantiles as --band LOW HIGH, such as --band 0.25 0.75")
    if args.method != "band" and args.band is not None:
        raise UserError(f"--band: --method {args.method} takes no quantiles; --method band does")
    if args.store is None and (args.store_out is not None or args.text_out is not None):
        flag = "--store-out" if args.store_out is not None else "--text-out"
        raise UserError(f"{flag}: give --store too, the token store whose scores {args.scores} holds")
    if args.store is not None and args.store_out is None and args.text_out is None:
        raise UserError("--store, --store-out, --text-out: say with one of the last two what to write of the store")


def _open_store(args: argparse.Namespace, tokens_sha256: str) -> tuple[Any, Any]:
    """The scored token store, and the vocabulary that its text is written with; None for what is not wanted."""
    if args.store is None:
        return None, None
    from cptlaw.data import build
    from cptlaw.data.store import TokenStore

    store = TokenStore.open(args.store)
    if store.ledger["tokens_sha256"] != tokens_sha256:
        raise UserError(
            f"--store {args.store}: not the tokens that {args.scores} holds the scores of. Name the store that was "
            "scored, or score this one"
        )
    if args.text_out is None:
        return store, None
    vocabulary = build.load_vocabulary(
        args.store.parent.parent
    )  # a prepared directory holds CORPUS/SPLIT and vocabulary
    try:
        vocabulary.decode([])
    except ImportError as error:
        raise UserError(
            f"--text-out: the vocabulary needs {error.name}, which is not installed: pip install 'cptlaw[train]'. "
            "The list and --store-out need it not"
        ) from None
    return store, vocabulary


def _unit(args: argparse.Namespace) -> str:
    """What a chunk's value is measured in."""
    if args.reference is not None:
        return "excess nats per token"
    return args.unit if args.models is None else "perplexity correlation"


def _other_score(args: argparse.Namespace, rows: Any) -> Any:
    """Another score of every row than perplexity; None where perplexity is wanted."""
    import pandas as pd

    from cptlaw.selection import alternatives
    from cptlaw.selection import scores as scores_lib

    if args.reference is not None:
        return alternatives.excess(rows, scores_lib.read(args.reference))
    if args.models is None:
        return None
    table = _table("--models", args.models, ("scores", "quality"))
    quality = pd.to_numeric(table["quality"], errors="coerce")
    if quality.isna().any():
        row = int(quality.isna().to_numpy().argmax())
        raise UserError(f"--models {args.models}, row {row + 1}: quality is no number ({table['quality'][row]!r})")
    scores = [scores_lib.read(args.models.parent / str(folder)) for folder in table["scores"]]
    groups = rows["document"] if args.sources is None else _sources(args.sources, rows["document"])
    return alternatives.correlation(scores, quality, groups)


def _table(flag: str, path: Path, columns: tuple[str, ...]) -> Any:
    """A CSV or Parquet table that has `columns`."""
    import pandas as pd

    if not path.is_file():
        raise UserError(f"{flag} {path}: no such file")
    try:
        table = (pd.read_parquet if path.suffix == ".parquet" else pd.read_csv)(path)
    except ValueError as error:  # pandas' and Arrow's errors of reading are ValueErrors
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{flag} {path}: not a CSV or Parquet table ({said})") from None
    if missing := [name for name in columns if name not in table]:
        raise UserError(
            f"{flag} {path}: needs the columns {' and '.join(columns)}; {', '.join(missing)} is missing, it has "
            f"{', '.join(map(str, table))}"
        )
    return table


def _sources(path: Path, documents: Any) -> Any:
    """The source of each of `documents`, by a table of the columns document and source: a Series of strings."""
    table = _table("--sources", path, ("document", "source"))
    if (twice := table["document"].duplicated()).any():
        raise UserError(f"--sources {path}: document {table['document'][twice].iloc[0]} has more than one row")
    source = table.set_index("document")["source"].reindex(documents)
    if source.isna().any():
        raise UserError(f"--sources {path}: no source of document {source.index[source.isna()][0]}")
    return source.astype(str).reset_index(drop=True)


def _target(args: argparse.Namespace) -> tuple[float, float] | None:
    """The wanted (mean, std) of x; None for methods that aim at none."""
    if args.decision is None:
        return None if args.mean is None else (args.mean, args.std)
    from cptlaw.planning.decision import Decision

    decision = Decision.load(args.decision)
    point = decision.point
    if not {"mean", "spread"} <= set(point):
        raise UserError(f"--decision {args.decision}: holds no mean and spread; make one with `cptlaw plan subset`")
    if not decision.supported:
        raise UserError(
            f"--decision {args.decision}: recommends random text, since no choice surely gains on it: give --method "
            "random without --decision, or --mean and --std"
        )
    return point["mean"], point["spread"]


def _strata(args: argparse.Namespace, rows: Any, pool: Any) -> Any:
    """A label for each unit, whose shares of the pool are kept: its document's length class, its source, or both."""
    import pandas as pd

    from cptlaw.selection import landscape
    from cptlaw.selection import scores as scores_lib

    labels = []
    if args.by_length:
        length = scores_lib.document_tokens(rows, pool.spans["document"])
        labels.append(pd.Series(landscape.length_classes(length)).astype(str))
    if args.sources is not None and args.models is None:  # with --models the sources are what is correlated
        labels.append(_sources(args.sources, pool.spans["document"]))
    if not labels:
        return None
    return (labels[0] if len(labels) == 1 else labels[0] + " " + labels[1]).to_numpy()


def _study(args: argparse.Namespace) -> None:
    from cptlaw.launching.flags import need_training

    need_training()
    import jax

    from cptlaw import cache
    from cptlaw.studies import config_file, selection_plan, selection_study
    from cptlaw.studies.prepared import prepare

    # This process only draws subsets and fits laws. Those that score and train do not inherit the setting, and use the
    # accelerator.
    jax.config.update("jax_platforms", "cpu")
    cache.keep_compiled()
    settings, plan = selection_plan.parse(config_file.read(args.config, args.overrides))
    prepared = prepare(settings, args.workdir, update_config=args.update_config, progress=not args.quiet)
    command = " ".join(["cptlaw", *sys.argv[1:]])
    for found in selection_study.run(prepared, plan, retry_failed=args.retry_failed, command=command):
        print(found.text(), flush=True)
        print(f"\n  {prepared.workdir.landscape(found.part)}\n", flush=True)
