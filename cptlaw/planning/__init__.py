"""Decisions from fitted laws, each with its interval, regret and reach: which mix, how many tokens, what next.

A module a question, of the same name as its function; all of them answer with a `Decision`. No module here imports JAX
when it is imported; `mixture` does when it is asked.
"""

from cptlaw.planning.best_subset import best_subset
from cptlaw.planning.budget import budget
from cptlaw.planning.confirmation import confirmation
from cptlaw.planning.decision import Decision, DecisionError, Option
from cptlaw.planning.first_grid import first_grid
from cptlaw.planning.gate import gate
from cptlaw.planning.influence import leave_one_out
from cptlaw.planning.limited_data import limited_data
from cptlaw.planning.mixture import mixture
from cptlaw.planning.next_runs import next_runs
from cptlaw.planning.pareto import pareto
from cptlaw.planning.share_for_loss import share_for_loss
from cptlaw.planning.tradeoff import base_loss, measured_base, trade_off

__all__ = [
    "Decision",
    "DecisionError",
    "Option",
    "base_loss",
    "best_subset",
    "budget",
    "confirmation",
    "first_grid",
    "gate",
    "leave_one_out",
    "limited_data",
    "measured_base",
    "mixture",
    "next_runs",
    "pareto",
    "share_for_loss",
    "trade_off",
]
