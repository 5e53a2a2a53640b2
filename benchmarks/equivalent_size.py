"""Sizes by base models' losses (`runs.sized_by_base`) against parameters: the largest size predicted from smaller ones.

    python -m benchmarks.equivalent_size                # 3m, two domains; and 755k, eight domains
    python -m benchmarks.equivalent_size --size 3m

Of the shipped table `cpt8`: every smaller size is fitted (the law `dcpt`, corrected by how it misses, and the law
alone; and rules without a law), and the rows of the size itself are predicted, of the domain's loss and of the general
one. The base models of 3m were trained on no more tokens than those of 755k, and find the general text less likely.
The base models' losses of all sizes are known to both ways, as they are to a person before any continual pre-training.
"""

import argparse

import numpy as np
import pandas as pd

from benchmarks.paper import constant_rate, law_columns
from benchmarks.registered import GENERAL, PROBE
from cptlaw import cache, fitting, runs, tables
from cptlaw.fitting import rivals

LAW = "dcpt"
COLUMNS = ["loss", "sizes by", "method"]


def asked(table: pd.DataFrame, domain: str, size: float) -> list[dict]:
    """Errors and intervals of both losses of the model of `size` parameters, by both ways and by rules."""
    lines = []
    own = runs.of_mixes(table, (GENERAL, domain), (GENERAL, domain))
    for way, given in {"parameters": own, "base models": runs.sized_by_base(own, GENERAL)}.items():
        actual = given[runs.ACTUAL] if runs.ACTUAL in given else given["params"]
        for corpus in (domain, GENERAL):
            here = (given["eval"] == corpus) & (given["tokens"] > 0)
            train = given[here & (actual < size)].reset_index(drop=True)
            test = given[here & (actual == size)].reset_index(drop=True)
            about = {"loss": "general" if corpus == GENERAL else "domain", "sizes by": way, "domain": domain}
            truth = test["loss"].to_numpy()
            fit = fitting.fit(train, LAW, corpus, bootstrap=0, hold_out=np.zeros(len(train), bool))
            for method, target in ((f"{LAW}, corrected", "base"), (f"{LAW} alone", "law")):
                said = fit.predict(target=target, **law_columns(fit, test))
                found = {"error": np.abs(np.log(said.point / truth)).mean(), "rows": len(test)}
                if target == "base":
                    found["cover"] = ((said.low <= truth) & (truth <= said.high)).mean()
                    found["width"] = ((said.high - said.low) / truth).mean()
                lines.append({**about, "method": method, **found})
            for name, values in rivals.predict(train, test).items():
                error = np.abs(np.log(values / truth)).mean()
                lines.append({**about, "method": name, "error": error, "rows": len(test)})
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", help="predict this size alone; may be repeated")
    args = parser.parse_args()
    cache.keep_compiled()
    table = constant_rate(tables.load("cpt8"))
    names = sorted(runs.by_domain(table[table["tokens"] > 0], GENERAL, PROBE)["mixed_in"].unique())
    pd.set_option("display.width", 200)
    print(runs.equivalent_sizes(table, GENERAL).to_string(index=False, float_format=lambda v: f"{v:.4g}"))
    for size in args.size or ("3m", "755k"):
        params = float(table.loc[table["model"] == size, "params"].iloc[0])
        made: list[dict] = []
        for domain in names:
            mixed = table[(table["params"] == params) & (table["tokens"] > 0) & (table[f"w_{domain}"] > 0)]
            made += asked(table, domain, params) if len(mixed) else []
        found = pd.DataFrame(made)
        mean = found.groupby(COLUMNS, sort=False)[["error", "cover", "width"]].mean()
        mean["rows"] = found.groupby(COLUMNS, sort=False)["rows"].sum()
        print(f"\n{size}: {found['domain'].nunique()} domains; mean of the domains")
        print(mean.sort_values(["loss", "error"]).to_string(float_format=lambda v: f"{v:.4f}", na_rep=""))
        corrected = found[found["method"] == f"{LAW}, corrected"]
        wide = corrected.pivot_table(index=["loss", "domain"], columns="sizes by", values="error")
        better = (wide["base models"] < wide["parameters"]).groupby("loss").agg(["sum", "size"])
        print("sizes by base models err by less than parameters:", end=" ")
        print(", ".join(f"{loss} {row['sum']} of {row['size']}" for loss, row in better.iterrows()))


if __name__ == "__main__":
    main()
