"""Decisions from fitted laws, each with its interval, regret and reach: which mix, how many tokens, what next.

A module a question: `tradeoff`, `pareto` (and its inverse), `limited`, `budget`, `mixture`, `subset`, `experiments`
(what to run next), `design` (before the first run). `decision` is what they all answer with.
"""
