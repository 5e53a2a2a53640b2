"""Every series that is asked forward questions, as data: one evaluated corpus of one table, its family and its law.

The public tables lie in `../shared/data` beside a checkout (each with its source and licence); without them only the
simulated series and a runs table given by path are there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cptlaw import runs

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = next((d for d in (ROOT.parent / "shared" / "data", ROOT.parents[1] / "shared" / "data") if d.is_dir()), None)


@dataclass(frozen=True)
class Series:
    """One evaluated corpus of one table: `rows()` is a runs table of it. Families are balanced, not series."""

    name: str
    family: str
    law: str
    rows: Callable[[], pd.DataFrame]


def _read(path: str) -> pd.DataFrame:
    assert PUBLIC is not None
    return pd.read_csv(PUBLIC / path)


def _table(source: pd.DataFrame, loss: str, run: str | None = None, **columns: str) -> pd.DataFrame:
    """A runs table of the rows of `source` that have all columns; without `run` each row is a run."""
    out = pd.DataFrame({ours: pd.to_numeric(source[theirs]) for ours, theirs in {**columns, "loss": loss}.items()})
    out["run"] = [f"r{i}" for i in range(len(out))] if run is None else source[run].astype(str).to_numpy()
    out["eval"] = "loss"
    return out[np.isfinite(out.select_dtypes("number")).all(axis=1)].reset_index(drop=True)


def _gemstones(file: str, loss: str = "final_loss") -> pd.DataFrame:
    return _table(_read(f"gemstones/{file}.csv"), loss, "run_name", params="params_active_precise", tokens="tokens")


def _olmo(loss: str) -> pd.DataFrame:
    rows = _read("olmo_ladder/final_rows.csv").dropna(subset=["tokens", "n", "xC"])
    return _table(rows, loss, params="n", tokens="tokens")


def _overtraining(train: str, loss: str) -> pd.DataFrame:
    rows = _read("mlfoundations_overtraining/models.csv")
    return _table(rows[rows["train_dataset"] == train], loss, params="params_no_embed", tokens="tokens")


def _datablations(repeated: bool) -> pd.DataFrame:
    rows = _read("datablations/c4_runs.csv")
    if repeated:
        kept = (rows["in_fit_cell25"] == 1) & ~rows["tag"].fillna("").str.contains("dedup")
        return _table(rows[kept], "val_loss", params="params", tokens="tokens", unique_tokens="unique_tokens")
    return _table(rows[rows["tokens"] <= rows["unique_tokens"]], "val_loss", params="params", tokens="tokens")


def _farseer() -> pd.DataFrame:
    rows = pd.concat([_read(f"scalebench/farseer_scaling_law__{part}.csv") for part in ("train", "test")])
    return _table(rows.reset_index(drop=True), "loss", params="N", tokens="D")


def _isoflop(dataset: str, hparams: str, warmup: str, decay: str) -> pd.DataFrame:
    rows = _read("resolving_discrepancies/isoflop_points.csv")
    wanted = {"dataset": dataset, "hparams": hparams, "warmup": warmup, "decay": decay, "val": "val"}
    for name, value in {**wanted, "param_count": "standard"}.items():
        rows = rows[rows[name] == value]
    return _table(rows, "loss", params="n", tokens="t")


def _best_rate() -> pd.DataFrame:
    """The best learning rate and batch size of each size and token count."""
    rows = _read("scalebench/lr_bsz_scaling_law__train.csv")
    best = rows.groupby(["non_embedding_param_size", "data_size"], as_index=False)["lm_loss"].min()
    return _table(best, "lm_loss", params="non_embedding_param_size", tokens="data_size")


def _regmix(part: str, loss: str) -> pd.DataFrame:
    mixes, losses = _read(f"regmix/test_mixture_{part}.csv"), _read(f"regmix/test_pile_loss_{part}.csv")
    rows = mixes.merge(losses, on="index")
    shares = [c for c in mixes if c != "index"]
    out = _table(
        rows, f"metric/the_pile_{loss}_val_loss", **{f"w_{c.removeprefix('train_the_pile_')}": c for c in shares}
    )
    names = [f"w_{c}" for c in runs.corpora(out)]
    out[names] = out[names].div(out[names].sum(axis=1), axis=0)
    # A law of 17 shares has 18 parameters; rows beyond 128 only cost time.
    return out.sample(min(len(out), 128), random_state=0).reset_index(drop=True)


def _domains(domain: int, size: str | None) -> pd.DataFrame:
    rows = pd.concat([_read(f"scalebench/domain_mixture_scaling_law__{part}.csv") for part in ("train", "test")])
    rows = rows.reset_index(drop=True)
    rows["params"] = rows["group"].str.removesuffix("M").astype(float) * 1e6
    shares = {f"w_domain_{i}": f"proportion_domain_{i}" for i in range(1, 6)}
    columns = shares if size else {"params": "params", **shares}
    rows = rows[rows["group"] == size] if size else rows
    out = _table(rows, f"loss_domain_{domain}", **columns)
    out[list(shares)] = out[list(shares)].div(out[list(shares)].sum(axis=1), axis=0)
    # No token counts are published; the additive law reads them, so all runs have the same.
    return out if size else out.assign(tokens=1e10)


def _finetuned(task: str, model: int) -> pd.DataFrame:
    row = _read(f"sld_sft/{task}.csv").iloc[model].drop("model").drop("0")
    # Published by examples; a thousand tokens each, since a runs table refuses counts of a few hundred tokens.
    rows = pd.DataFrame({"tokens": row.index.astype(float) * 1e3, "loss": row.to_numpy(float), "run": "one"})
    return _table(rows, "loss", "run", tokens="tokens")


def public() -> Iterator[Series]:
    """All series of the public tables at hand."""
    if PUBLIC is None:
        return
    nd, mixing = "chinchilla", "mixing"
    for name, file, loss in (
        ("hot", "wandb_df_for_fitting_hot", "final_loss"),
        ("cooled", "wandb_df_for_fitting_cool_end", "final_loss"),
        ("lower rate", "wandb_df_for_fitting_lr_ablation_hot", "final_loss"),
        ("fineweb-edu", "other_validation_losses", "fineweb_edu_loss"),
        ("dclm", "other_validation_losses", "fineweb_dclm_loss"),
    ):
        yield Series(f"gemstones {name}", "gemstones", nd, lambda f=file, c=loss: _gemstones(f, c))
    for loss in ("c4_en", "pile", "dolma_stack", "wikitext_103"):
        yield Series(f"olmo {loss}", "olmo", nd, lambda c=loss: _olmo(c))
    c4, code = "loss:c4_val/shard-{0000000..0000010}.tar", "loss:paloma_dolma_100_programing_languages/00000001.tar"
    for train, loss, word in (
        ("c4_original", c4, "c4"), ("rpj", c4, "c4"), ("rw_original", c4, "c4"), ("rpj", code, "code"),
    ):  # fmt: skip
        yield Series(f"overtraining {train} {word}", "overtraining", nd, lambda t=train, c=loss: _overtraining(t, c))
    yield Series("datablations once", "datablations", nd, lambda: _datablations(False))
    yield Series("datablations repeated", "datablations", "repetition", lambda: _datablations(True))
    yield Series("chinchilla points", "chinchilla points", nd, lambda: _table(
        _read("llm_kyotakano/df.csv"), "loss", params="N", tokens="D"))  # fmt: skip
    yield Series("farseer", "farseer", nd, _farseer)
    for how in (
        ("rw", "base", "short", "chinchilla"), ("rw", "tuned", "short", "const"), ("owt2", "tuned", "short", "const"),
    ):  # fmt: skip
        yield Series(f"isoflop {' '.join(how)}", "isoflop", nd, lambda h=how: _isoflop(*h))
    yield Series("best rates", "best rates", nd, _best_rate)
    for part, loss in (("1m", "pile_cc"), ("1m", "github"), ("60m", "pile_cc"), ("60m", "arxiv")):
        yield Series(f"regmix {part} {loss}", "regmix", mixing, lambda p=part, c=loss: _regmix(p, c))
    for domain in range(1, 6):
        yield Series(f"domains {domain}", "domains", "additive", lambda d=domain: _domains(d, None))
        yield Series(f"domains {domain} 410M", "domains", mixing, lambda d=domain: _domains(d, "410M"))
    for task, model in (("flan", 1), ("flan", 8), ("gigaword", 4), ("gigaword", 11), ("wikiword", 2), ("wikiword", 9)):
        name = f"finetuned {task} {model}"
        yield Series(name, "finetuned", "perplexity_tokens_only", lambda t=task, m=model: _finetuned(t, m))


def given(path: Path, law: str = "dcpt:free_sign=true") -> Iterator[Series]:
    """The evaluated corpora of a runs table of one's own, each a series of the family named after its folder."""
    table = runs.read(path)
    table = table[runs.finished(table) & (table["tokens"] > 0)]
    for corpus, rows in table.groupby("eval", sort=True):
        yield Series(f"demo {corpus}", "demo", law, lambda r=rows: r.reset_index(drop=True))
