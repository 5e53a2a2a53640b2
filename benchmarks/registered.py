"""The questions that the header of configs/cpt8.py registered before its first run, answered from the shipped table.

    python -m benchmarks.registered                     # all three, as far as the table goes
    python -m benchmarks.registered --size 323k         # the share asked of another size, which no fit then sees
    python -m benchmarks.registered --only domains

domains         K3 of the Cross-Domain D-CPT Law against "pooled plus constant", each domain left out in turn
share           the largest share under a ceiling at a size that no fit saw, against where the measured losses cross it
extrapolation   the held-out size, and the long runs beyond the tokens that were fitted, with simple rivals beside

A question whose rows are not all there yet is said to be open; nothing is counted for it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.paper import constant_rate, law_columns
from cptlaw import cache, fitting, runs, tables
from cptlaw.errors import UserError
from cptlaw.fitting import Fit, rivals, unseen
from cptlaw.planning import DecisionError, measured_base, trade_off

GENERAL, PROBE, TOKENS, TOLERANCE = "wiki", (98304.0, 196608.0, 393216.0), 786432.0, 0.03
FITTED = 1e6  # parameters: the largest size that is ever fitted
LAWS = ("auto", "dcpt")
# How the general loss is fitted -> the law: as if every run had started from the planned base, or as measured.
METHODS = {"auto, rebased": "auto", "dcpt, rebased": "dcpt", "auto": "auto", "dcpt": "dcpt"}
POINTS = 0.05


def domains(table: pd.DataFrame) -> None:
    """Passes if K3 beats "pooled plus constant" in 7 of 8 domains, and errs at most twice as a fit that saw it does."""
    pooled = runs.by_domain(table[(table["tokens"] > 0) & (table["params"] <= FITTED)], GENERAL, PROBE)
    sizes = sorted(pooled["model"].unique())
    found = unseen.leave_out(pooled, runs.DOMAIN, tokens=PROBE, progress=True)
    error = found.table.pivot_table(index="domain", columns="method", values="mean_log")
    wins, twice = error["K3"] < error["pooled + constant"], error["K3"] <= 2 * error[found.own]
    print(f"\ndomains: sizes {', '.join(sizes)}, {len(error)} domains")
    print(found.summary().to_string(index=False, float_format=lambda v: f"{v:.4g}", na_rep=""))
    print(f"K3 is better in {wins.sum()} of {len(error)} domains (7 of 8 wanted); at most twice in {twice.sum()}")


def crossing(share: np.ndarray, loss: np.ndarray, ceiling: float) -> float:
    """The largest share under the ceiling by linear interpolation; inf if the last one is under it too."""
    order = np.argsort(share)
    share, over = share[order], (loss - ceiling)[order]
    if over[-1] <= 0:
        return np.inf
    under = np.flatnonzero(over <= 0)
    if not len(under):
        return 0.0
    i = under[-1]
    return float(share[i] + (share[i + 1] - share[i]) * -over[i] / (over[i + 1] - over[i]))


def measured(rows: pd.DataFrame, domain: str, params: float) -> tuple[float, float, int]:
    """(crossing of the ceiling, largest measured share, shares) of one size: general losses, mean over base models."""
    base, _ = measured_base(rows, GENERAL, params)
    at = rows[(rows["params"] == params) & (rows["tokens"] == TOKENS) & (rows["eval"] == GENERAL)]
    mean = at.groupby(f"w_{domain}")["loss"].mean()
    top = float(mean.index.max()) if len(mean) else 0.0
    return crossing(mean.index.to_numpy(), mean.to_numpy(), (1 + TOLERANCE) * base), top, len(mean)


def share(table: pd.DataFrame, size: str, names: Sequence[str]) -> None:
    """Passes if the recommendation is within 5 points of the measured crossing in at least 6 of 8 domains."""
    params = float(table.loc[table["model"] == size, "params"].iloc[0])
    smaller = max(p for p in table["params"].unique() if p < params)
    lines = []
    for domain in names:
        own = runs.of_mixes(table, (GENERAL, domain), (GENERAL, domain))
        wanted, top, count = measured(own, domain, params)
        if count < 4:
            continue
        # The share-0 runs are every domain's.
        below = own[(own["params"] < params) & (own["tokens"] > 0)].reset_index(drop=True)
        base, error = measured_base(own, GENERAL, params)
        line = {"domain": domain, "measured": wanted, "as at the next smaller size": measured(own, domain, smaller)[0]}
        of_domain = {law: _fit(below[below["eval"] == domain].reset_index(drop=True), law, domain) for law in LAWS}
        carried = runs.rebased(own, GENERAL, params).loc[lambda rows: (rows["params"] < params) & (rows["tokens"] > 0)]
        for law, method in METHODS.items():
            rows = below if law == method else carried
            fits = [_fit(rows[rows["eval"] == GENERAL].reset_index(drop=True), method, GENERAL), of_domain[method]]
            try:
                found = trade_off(
                    *fits, params=params, tokens=TOKENS, base_loss=base, base_loss_se=error, tolerance=TOLERANCE
                )
                line |= {law: found.point["share"], f"{law} low": found.interval["share"][0]}
                line[f"{law} high"] = found.interval["share"][1]
            except DecisionError as reason:
                line[law] = np.nan
                print(f"share, {domain}, {law}: {reason}")
        lines.append({**line, "last measured share": top})
    print(f"\nshare: {size}, a general loss within {TOLERANCE:.0%} of the base model's; fitted to smaller sizes")
    if len(lines) < len(names):
        print(f"open: four shares are measured for {len(lines)} of {len(names)} domains")
    if not lines:
        return
    made = pd.DataFrame(lines)
    print(made.to_string(index=False, float_format=lambda v: f"{v:.3g}", na_rep=""))
    for method in (*METHODS, "as at the next smaller size"):
        near = [_near(a, b, c) for a, b, c in zip(made[method], made["measured"], made["last measured share"])]
        print(f"{method}: within {100 * POINTS:.0f} points in {sum(near)} of {len(made)} domains (6 of 8 wanted)")


def _near(said: float, wanted: float, top: float) -> bool:
    """A ceiling that no measured share reaches counts as within if the recommendation is beyond the last one too."""
    return bool(said >= top - POINTS if np.isinf(wanted) else abs(said - wanted) <= POINTS)


def _fit(rows: pd.DataFrame, law: str, corpus: str) -> Fit:
    nothing = np.zeros(len(rows), bool)
    return fitting.fit(rows, law, corpus, bootstrap=200, hold_out=nothing, try_remedies=False)


def extrapolation(table: pd.DataFrame, names: Sequence[str]) -> None:
    """What fits of 27k to 755k say of 3m, and fits of up to 0.8M tokens of the long runs."""
    splits = {
        "size": (table["params"] <= FITTED, table["params"] > FITTED),
        "tokens": (table["tokens"] <= TOKENS, table["tokens"] > TOKENS),
    }
    for title, (seen, asked) in splits.items():
        lines: list[dict] = []
        for domain in names:
            own = runs.of_mixes(table, (GENERAL, domain), (GENERAL, domain))
            for corpus in (GENERAL, domain):
                mine = own[(own["eval"] == corpus) & (own["tokens"] > 0)]
                train, test = (mine[one.loc[mine.index]].reset_index(drop=True) for one in (seen, asked))
                if title == "tokens":
                    train = train[train["params"] <= FITTED].reset_index(drop=True)
                    test = test[test["params"] <= FITTED].reset_index(drop=True)
                if not test.empty:
                    lines += _asked(title, domain, corpus, train, test)
        print(f"\nextrapolation, {title}:")
        if not lines:
            print("open: no run yet")
            continue
        made = pd.DataFrame(lines)
        mean = made.groupby(["loss", "method"], sort=False)[["error", "cover", "width"]].mean()
        mean["rows"] = made.groupby(["loss", "method"], sort=False)["rows"].sum()
        print(mean.sort_values(["loss", "error"]).to_string(float_format=lambda v: f"{v:.4f}", na_rep=""))


def _asked(title: str, domain: str, corpus: str, train: pd.DataFrame, test: pd.DataFrame) -> list[dict]:
    about = {"loss": "general" if corpus == GENERAL else "domain", "domain": domain, "rows": len(test)}
    truth = test["loss"].to_numpy()
    lines = []
    for law in LAWS:
        fit = _fit(train, law, corpus)
        x = law_columns(fit, test)
        said = fit.predict(target="base" if title == "size" else "run", **x)
        inside = (said.low <= truth) & (truth <= said.high)
        error = np.abs(np.log(said.point / truth)).mean()
        width = ((said.high - said.low) / truth).mean()
        lines.append(
            {**about, "method": f"{law}, 90% interval", "error": error, "cover": inside.mean(), "width": width}
        )
        alone = fit.predict(target="law", **x).point
        lines.append({**about, "method": f"{law}, its law alone", "error": np.abs(np.log(alone / truth)).mean()})
    for name, values in rivals.predict(train, test).items():
        lines.append({**about, "method": name, "error": np.abs(np.log(values / truth)).mean()})
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, help="another table of the same grid")
    parser.add_argument("--size", default="755k", help="the size that the share is asked of (default 755k)")
    parser.add_argument("--only", choices=("domains", "share", "extrapolation"), action="append")
    args = parser.parse_args()
    cache.keep_compiled()
    table = constant_rate(tables.load("cpt8") if args.table is None else runs.read(args.table))
    names = sorted(runs.by_domain(table[table["tokens"] > 0], GENERAL, PROBE)["mixed_in"].unique())
    wanted = args.only or ("domains", "share", "extrapolation")
    print(f"{table['run'].nunique()} runs, sizes {', '.join(table.sort_values('params')['model'].unique())}")
    if "share" in wanted:
        if args.size not in set(table["model"]):
            print(f"\nshare: open: no run of {args.size} yet")
        else:
            share(table, args.size, names)
    if "extrapolation" in wanted:
        extrapolation(table, names)
    if "domains" in wanted:
        try:
            domains(table)
        except UserError as error:
            print(f"\ndomains: open: {error}")


if __name__ == "__main__":
    main()
