"""Whether the perplexity law's optimum is found again, and how fast and how large a subset selection is.

    python -m benchmarks.perplexity_law --seeds 100          # the cells of configs/perplexity.py, noise 0.01 nats
    python -m benchmarks.perplexity_law --select 10000000    # chunks to choose a fifth of, by every builder

Recovery: tables are drawn from a known law in the studies' unit, log-perplexity, whose optimum lies inside the cells:
twelve cells and random text, three seeds, two token counts, and noise between runs. The law and its competitors are
fitted to each; the regret of what they choose is what the TRUE loss there is above the true best. Beside it stand the
gain of random text, and how often the choice is recommended over it.
"""

import argparse
import resource
import time

import numpy as np
import pandas as pd

from cptlaw import fitting, laws
from cptlaw.planning.best_subset import BEST as SMALLEST
from cptlaw.planning.best_subset import best_subset, option
from cptlaw.selection import choose
from cptlaw.selection.pool import Pool

MEANS, SPREADS, TOKENS, SEEDS = (2.9, 3.3, 3.8, 4.3), (0.35, 0.6, 0.9), (49_152, 98_304), 3
POOL = (3.5, 0.75)
# The gradient of g vanishes at mean 3.6, spread 0.6, where its Hessian is negative definite and has no cross term.
BEST = (3.6, 0.6)
TRUTH = {"E": 2.2, "D_c": 0.24, "a0": 0.36 - 0.36 * np.log(0.6), "a1": -0.6, "b0": 0.36 * np.log(3.6) - 0.36, "b1": 0.1}
TRUTH["aD"] = 0.2


def recover(seeds: int, noise: float, name: str) -> pd.DataFrame:
    """One line a seed: the best mean and spread, its regret in nats, and whether it is recommended over random text."""
    truth, law = laws.get("perplexity", unit="log-perplexity"), laws.get(name, unit="log-perplexity")
    points = {f"m{m:g}s{s:g}": (m, s) for m in MEANS for s in SPREADS} | {"random": POOL}
    cells = pd.DataFrame(
        [(f"{n}-{i}", n, *at, d) for n, at in points.items() for i in range(SEEDS) for d in TOKENS],
        columns=["run", "subset", "ppl_mean", "ppl_std", "tokens"],
    ).assign(eval="domain")
    clean = truth.predict(TRUTH, {k: cells[k].to_numpy() for k in ("ppl_mean", "ppl_std", "tokens")})
    mean, spread = (
        axis.ravel() for axis in np.meshgrid(np.linspace(*MEANS[::3], 121), np.linspace(*SPREADS[::2], 121))
    )
    reachable = np.stack([mean, spread], -1)

    def true(point: tuple[float, float]) -> float:
        return float(truth.predict(TRUTH, {"ppl_mean": point[0], "ppl_std": point[1], "tokens": TOKENS[-1]}))

    lines = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        of_run = noise * rng.normal(size=cells["run"].nunique()).repeat(len(TOKENS))
        fit = fitting.fit(cells.assign(loss=clean + of_run), law, bootstrap=100, seed=seed)
        decision = best_subset(fit, tokens=TOKENS[-1], random=POOL, reachable=reachable)
        chosen = option(decision, SMALLEST)
        lines.append((seed, *chosen, true(chosen) - true(BEST), true(POOL) - true(chosen), decision.supported))
    return pd.DataFrame(lines, columns=["seed", "mean", "spread", "regret", "gain", "recommended"])


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
    parser.add_argument("--noise", type=float, default=0.01, help="standard deviation between runs, nats")
    parser.add_argument("--select", type=int, metavar="CHUNKS", help="time the builders instead")
    args = parser.parse_args()
    if args.select:
        return select(args.select)
    print(f"{args.seeds} tables a law, noise {args.noise:g} nats between runs; nats:")
    for name in ("perplexity", "perplexity_no_interaction", "perplexity_quadratic"):
        found = recover(args.seeds, args.noise, name)
        median, most = np.quantile(found["regret"], [0.5, 0.9])
        taken, of_random = found[found["recommended"]], found["regret"][0] + found["gain"][0]
        print(
            f"{name:28} regret {median:.2g} (median) {most:.2g} (90%), random text's {of_random:.2g};"
            f" recommended in {len(taken)}, better than random text in {(taken['gain'] > 0).sum()} of them",
            flush=True,
        )


if __name__ == "__main__":
    main()
