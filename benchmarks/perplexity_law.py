"""Whether the perplexity law's optimum is found again, and how fast and how large a subset selection is.

    python -m benchmarks.perplexity_law --seeds 100          # 9 cells x 3 token counts, noise 0.003 nats
    python -m benchmarks.perplexity_law --select 10000000    # chunks to choose a fifth of, by every builder

Recovery: tables are drawn from a known law whose optimum lies inside the cells; the law is fitted to each, its best
(mean, spread) is taken, and its regret is what the TRUE loss there is above the true best, at the largest token count.
"""

import argparse
import resource
import time

import numpy as np
import pandas as pd

from cptlaw import fitting, laws
from cptlaw.selection import choose
from cptlaw.selection.pool import Pool

MEANS, SPREADS, TOKENS = (10.0, 20.0, 40.0), (4.0, 8.0, 16.0), (0.5e9, 1e9, 2e9)
# The gradient of g vanishes at mean 20, spread 8, where its Hessian is negative definite.
TRUTH = {"E": 1.8, "D_c": 3.0, "a0": 0.4002, "a1": -0.01252, "b0": 0.4443, "b1": -0.007215, "aD": 0.15}


def recover(seeds: int, noise: float, name: str) -> pd.DataFrame:
    """One line a seed: the recommended mean and spread, and the regret in nats."""
    truth, law = laws.get("perplexity"), laws.get(name)
    cells = pd.DataFrame(
        [(f"m{m:g}s{s:g}", m, s, d) for m in MEANS for s in SPREADS for d in TOKENS],
        columns=["run", "ppl_mean", "ppl_std", "tokens"],
    ).assign(eval="domain")
    clean = truth.predict(TRUTH, {k: cells[k].to_numpy() for k in ("ppl_mean", "ppl_std", "tokens")})
    mean, spread = (axis.ravel() for axis in np.meshgrid(np.geomspace(10, 40, 121), np.geomspace(4, 16, 121)))
    at = {"ppl_mean": mean, "ppl_std": spread, "tokens": np.full(mean.size, TOKENS[-1])}
    true = truth.predict(TRUTH, at)
    lines = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        fit = fitting.fit(cells.assign(loss=clean + noise * rng.normal(size=len(cells))), law, bootstrap=0, seed=seed)
        best = int(np.argmin(law.predict(fit.params, {k: at[k] for k in law.columns})))
        lines.append((seed, mean[best], spread[best], true[best] - true.min()))
    return pd.DataFrame(lines, columns=["seed", "mean", "spread", "regret"])


def select(chunks: int) -> None:
    """Prints seconds of every builder, and how far its moments are from the target."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"document": np.arange(chunks), "chunk": np.int32(0), "tokens": np.int32(64)})
    rows["nats"] = 64 * rng.lognormal(1.2, 0.25, chunks)
    pool = Pool.of(rows, 64, by="chunk")
    del rows
    mean, std = pool.moments()
    target = mean + 0.15 * std, 0.9 * std
    for method in ("tilt", "swaps", "dos_greedy", "low", "random"):
        cpu, wall = time.process_time(), time.perf_counter()
        aim = target if method in choose.AIMED else None
        chosen = choose.select(pool, method, fraction=0.2, target=aim)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        found = pool.moments(chosen)
        miss = f"{max(abs(found[0] - target[0]), abs(found[1] - target[1])) / std:.1e}" if aim else "-"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{method:12} {len(chosen):,} of {chunks:,} chunks   {cpu:.1f} CPU seconds, {wall:.1f} on the clock   "
            f"moments miss by {miss} std   peak memory so far {peak:.1f} GiB",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--noise", type=float, default=0.003, help="standard deviation in nats")
    parser.add_argument("--select", type=int, metavar="CHUNKS", help="time the builders instead")
    args = parser.parse_args()
    if args.select:
        return select(args.select)
    for name in ("perplexity", "perplexity_no_interaction", "perplexity_quadratic"):
        found = recover(args.seeds, args.noise, name)
        median, most, nearly = np.quantile(found["regret"], [0.5, 0.9, 0.99])
        print(
            f"{name:28} regret under 5e-4 nats in {np.mean(found['regret'] < 5e-4):.0%} of {args.seeds} seeds; "
            f"median {median:.2g}, 90% {most:.2g}, 99% {nearly:.2g} nats"
        )


if __name__ == "__main__":
    main()
