"""Whether noise between runs depends on the mix: slopes learned at one size of cpt8, judged at the other, beside none.

    python -m benchmarks.noise_by_mix                 # seconds

Nats of log-likelihood of the variances between repeats (data order, base model alike) at the other size that the slopes
gain over one variance for all mixes; the level is that of the size judged in both.
"""

import numpy as np
import pandas as pd

from cptlaw import runs, tables
from cptlaw.planning import noise

SIZES = (26784, 98624)


def gain(learned: noise.ByMix, rows: pd.DataFrame, corpus: str) -> float:
    """Nats over one variance."""
    shares = [f"w_{name}" for name in runs.corpora(rows)]
    groups = np.log(rows["loss"]).groupby([rows[name] for name in ("tokens", "base", *shares)])
    freedom = groups.size() - 1
    variance, freedom = groups.var(ddof=1)[freedom > 0], freedom[freedom > 0].to_numpy(float)
    at, found = variance.index.to_frame(index=False), []
    for scale in (learned.relative(at[f"w_{corpus}"].to_numpy(), at["tokens"].to_numpy()) ** 2, np.ones(len(at))):
        level = float(np.sum(freedom * variance / scale) / freedom.sum())
        found.append(float(-0.5 * np.sum(freedom * (np.log(level * scale) + variance / (level * scale)))))
    return found[0] - found[1]


def main() -> None:
    rows = tables.load("cpt8")
    rows = rows[(rows["tokens"] > 0) & (rows["tokens"] < 1e6) & (rows["lr"] > 0)]
    for one, other in (SIZES, SIZES[::-1]):
        for corpus in sorted(rows["eval"].unique()):
            own = rows[rows["eval"] == corpus]
            learned = noise.by_mix(own[own["params"] == one], corpus)
            if learned.freedom:
                nats = gain(learned, own[own["params"] == other], corpus)
                print(f"{corpus}, {one} to {other}: variance as share^{learned.share:.2f} tokens^{learned.tokens:.2f} "
                      f"({learned.freedom} degrees of freedom), gain {nats:.1f} nats")  # fmt: skip


if __name__ == "__main__":
    main()
