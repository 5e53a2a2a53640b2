"""Where a run without a checkpoint of its own starts."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cptlaw.models import transformer
from cptlaw.models.sharding import Layout
from cptlaw.models.transformer import Params
from cptlaw.models.tree import shapes
from cptlaw.training.checkpoints import Place, check_same, load_state
from cptlaw.training.step import Optimizer, State, make_init, make_start


def first_state(
    cfg: transformer.Config,
    optimizer: Optimizer,
    layout: Layout,
    *,
    resume: Callable[[State], State] | None = None,
    weights: Callable[[Params], Params] | None = None,
    seed: int = 0,
) -> State:
    """The state before a run's first step: that of `resume`, else `weights` with a new optimizer, else random ones.

    Args:
      resume: given the abstract state, a whole state to go on from, such as `checkpoints.load_state` of another run.
      weights: given the abstract parameters, those to start from; they are copied.
      seed: of the random initialisation.

    Raises CheckpointError naming each weight that would stay at its initial value, or has no place in the model.
    """
    start, abstract = make_start(cfg, optimizer, layout)
    if resume is not None:
        return resume(abstract)
    if weights is None:
        return start(make_init(cfg, layout, optimizer.mup_base)(seed))
    params = weights(abstract.params)
    check_same("the weights to start from", abstract.params, shapes(params))
    return start(params)


def next_phase(directory: Place, abstract: State) -> State:
    """The newest state in another run's checkpoints, its optimizer's moments kept, at step 0 of a new schedule.

    An average of weights begins anew, as the schedule does.
    """
    state = load_state(directory, abstract)
    average = None if state.average is None else jax.tree.map(jnp.copy, state.params)
    return dataclasses.replace(state, step=jnp.zeros((), jnp.int32), average=average)
