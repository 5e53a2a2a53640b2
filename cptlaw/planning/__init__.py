"""Decisions from fitted laws, each with its interval, regret and reach: which mix, how many tokens, what next.

A module a question: `tradeoff`, `pareto` (and its inverse), `limited`, `budget`, `mixture`, `subset`, `experiments`
(what to run next, by what `knowledge` says of the runs there are), `design` (before the first run). `decision` is what
they all answer with, under the predictive distribution of the fits, or under their laws alone.
"""
