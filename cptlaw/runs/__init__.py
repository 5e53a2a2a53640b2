"""The runs table: one row is one evaluation of one run.

| column | meaning |
|---|---|
| `run` | id of the training run; its checkpoints share it |
| `params`, `tokens` | non-embedding parameters; CPT tokens seen, all corpora together; counts, not billions |
| `w_<corpus>` | token share of each training corpus; a row's shares sum to 1 |
| `eval`, `loss` | the corpus evaluated; its loss in nats per token |
| `ema` | optional; above 0: the loss is that of an average of weights with this decay a step |
| `status` | optional; a row that is not "ok" records a failed run and may lack a loss |

Other known columns are in `OPTIONAL`; a law names those it needs. `tokens == 0` is the base model before CPT.
The mixture ratio r is never stored: it is `w_<eval>` (`ratio`).
"""

from cptlaw.runs.conditions import select
from cptlaw.runs.contract import (
    ACTUAL,
    OPTIONAL,
    PREFIXES,
    REQUIRED,
    SHARE_TOLERANCE,
    TEXT,
    TableError,
    corpora,
    finished,
    missing,
    ratio,
)
from cptlaw.runs.derived import (
    COEFFICIENTS,
    DOMAIN,
    at_size,
    bases,
    bits_per_byte,
    by_domain,
    cheapest,
    learnability,
    of_mixes,
    rebased,
    thin,
)
from cptlaw.runs.doubts import check
from cptlaw.runs.equivalent import equivalent_sizes, sized_by_base, undertrained
from cptlaw.runs.headers import plain
from cptlaw.runs.reading import read, read_columns
from cptlaw.runs.trackers import read_runs
from cptlaw.runs.writing import FORMATS, append, digest, lines, write

__all__ = [
    "ACTUAL",
    "COEFFICIENTS",
    "DOMAIN",
    "FORMATS",
    "OPTIONAL",
    "PREFIXES",
    "REQUIRED",
    "SHARE_TOLERANCE",
    "TEXT",
    "TableError",
    "append",
    "at_size",
    "bases",
    "bits_per_byte",
    "by_domain",
    "cheapest",
    "check",
    "corpora",
    "digest",
    "equivalent_sizes",
    "finished",
    "learnability",
    "lines",
    "missing",
    "of_mixes",
    "plain",
    "ratio",
    "read",
    "read_columns",
    "read_runs",
    "rebased",
    "select",
    "sized_by_base",
    "thin",
    "undertrained",
    "write",
]
