"""Laws with known parameters, and how a test poses a fit of a table."""

from cptlaw import laws
from cptlaw.fitting import estimate
from cptlaw.fitting.rows import collect

TRUTH = {"E": 1.4, "A": 0.45, "alpha": 0.35, "B": 0.12, "beta": 0.4, "eta": 1.4, "C": 0.8, "gamma": 0.5, "eps": 0.12}
CHINCHILLA = {"E": 1.7, "A": 0.5, "alpha": 0.35, "B": 1.2, "beta": 0.37}
ASKED = {"params": 6e9, "tokens": 20e9}


def pose(table, law, objective):
    made = laws.for_table(law, table)
    rows = collect(table, made, tuple(table["eval"].unique()))
    return estimate.pose(rows, made, objective, {}), rows
