"""Longer runs of the tiny study, and conditions to train them under."""

import dataclasses

from cptlaw.execution.run import Conditions


def longer(runs, steps):
    """The same runs with that many steps of 64 tokens, evaluated early and at the end."""
    return [
        dataclasses.replace(r, phase=dataclasses.replace(r.phase, tokens=64 * steps), eval_tokens=(640, 64 * steps))
        for r in runs
    ]


def telling(seen, **changes):
    """Conditions that write down how many tokens are done."""
    return Conditions(progress=lambda runs, run, tokens: seen.append(tokens), **changes)


def stopping(seen):
    """Conditions that ask to stop after two reports of progress."""
    return telling(seen, should_stop=lambda: len(seen) > 2)
