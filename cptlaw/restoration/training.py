"""Training of one phase by the package's own loop: two AdamW in one step, an average of the weights, checkpoints."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cptlaw import fields
from cptlaw.fields import OneOf, Range, above, at_least, between
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.models.tree import shapes
from cptlaw.restoration import method, networks
from cptlaw.restoration.batches import Crops
from cptlaw.restoration.networks import Pair, Params
from cptlaw.schedules import DECAYS, Schedule
from cptlaw.training import loop
from cptlaw.training.checkpoints import Checkpoints
from cptlaw.training.loop import Member, Result
from cptlaw.training.metrics import Metrics, Point
from cptlaw.training.step import State, Sums, averaged


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of training.

    Attributes:
      kind: which loss (`method`).
      steps, batch_size, crop: how long, how many crops a step, and their side.
      peak, decay, final: the network's learning rate, which starts at `peak`, and how it falls to `final`.
      classifier_peak: the classifier's learning rate at the start; it falls as the network's does.
      weight_decay, classifier_weight_decay: of all weights, decoupled, as a share of the learning rate.
      clip: the largest global norm of the network's gradient; infinite clips nothing.
      ema: decay, a step, of an average of the weights (bias-corrected, so that the start has no part in it). 0: none.
      gamma: of the focal loss.
    """

    kind: Annotated[str, OneOf(method.PHASES)]
    steps: Annotated[int, at_least(1)]
    batch_size: Annotated[int, at_least(1)] = 32
    crop: Annotated[int, at_least(8)] = 128
    peak: Annotated[float, above(0)] = 3e-4
    decay: Annotated[str, OneOf(("constant", *DECAYS))] = "cosine"
    final: Annotated[float, at_least(0)] = 1e-6
    classifier_peak: Annotated[float, above(0)] = 1e-4
    weight_decay: Annotated[float, at_least(0)] = 0.0
    classifier_weight_decay: Annotated[float, at_least(0)] = 1e-4
    clip: Annotated[float, Range(low=0, open_low=True, infinite=True)] = float("inf")
    ema: Annotated[float, between(0, 1, open_high=True)] = 0.0
    gamma: Annotated[float, at_least(0)] = 2.0

    def __post_init__(self):
        fields.check(self, "phase")

    @property
    def schedule(self) -> Schedule:
        """The network's learning rates."""
        final = 0.0 if self.decay == "constant" else self.final
        return Schedule(self.peak, self.steps, kind=self.decay, final=final)

    def transform(self) -> optax.GradientTransformation:
        """The direction of the step, to be scaled by minus the network's learning rate."""
        network = optax.chain(
            optax.clip_by_global_norm(self.clip), optax.scale_by_adam(), optax.add_decayed_weights(self.weight_decay)
        )
        if self.kind not in method.WITH_CLASSIFIER:
            return optax.partition({"network": network}, _by_part)
        classifier = optax.set_to_zero()  # in the guided phase it is a frozen teacher
        if self.kind == "dcpt":
            classifier = optax.chain(
                optax.scale_by_adam(),
                optax.add_decayed_weights(self.classifier_weight_decay),
                optax.scale(self.classifier_peak / self.peak),
            )
        return optax.partition({"network": network, "classifier": classifier}, _by_part)


def _by_part(params: Params) -> Params:
    return {part: jax.tree.map(lambda _, part=part: part, tree) for part, tree in params.items()}


def init(pair: Pair, phase: Phase, seed: int) -> Params:
    """Random parameters of what the phase trains. The network's do not depend on whether there is a classifier."""
    return _make_init(pair, phase.kind in method.WITH_CLASSIFIER)(seed)


@functools.lru_cache(maxsize=8)
def _make_init(pair: Pair, classified: bool) -> Callable[[int], Params]:
    @jax.jit
    def start(seed: int) -> Params:
        keys = jax.random.split(jax.random.key(seed))
        params = {"network": networks.init(keys[0], pair.network)}
        if classified:
            params["classifier"] = networks.init(keys[1], pair.classifier)
        return params

    return start


def new_state(params: Params, phase: Phase) -> State:
    """The state at step 0, of a copy of the parameters, since steps donate their state."""
    params = jax.tree.map(jnp.copy, params)
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizer=phase.transform().init(params),
        average=jax.tree.map(jnp.copy, params) if phase.ema else None,
    )


def abstract_state(pair: Pair, phase: Phase, layout: Layout) -> State:
    """The shapes and shardings of the state."""
    return layout.abstract(jax.eval_shape(lambda: new_state(init(pair, phase, 0), phase)))


@functools.lru_cache(maxsize=32)
def _make_start(pair: Pair, phase: Phase, layout: Layout) -> Callable[[Params], State]:
    placed = jax.tree.map(lambda x: x.sharding, abstract_state(pair, phase, layout))
    return jax.jit(lambda params: new_state(params, phase), out_shardings=placed)


@functools.lru_cache(maxsize=32)
def make_step(pair: Pair, phase: Phase, layout: Layout) -> Callable[[State, Any, jax.Array], tuple[State, Sums]]:
    """The compiled step (state, batch, learning rate) -> (state, sums); the state is donated."""
    transform = phase.transform()

    def step(state: State, batch: dict[str, jax.Array], learning_rate: jax.Array) -> tuple[State, Sums]:
        loss, grads = jax.value_and_grad(method.loss)(state.params, pair, phase.kind, batch, phase.gamma)
        with jax.numpy_dtype_promotion("standard"):  # Optax raises decays to integer powers
            direction, moments = transform.update(grads, state.optimizer, state.params)
        params = jax.tree.map(lambda p, d: p - learning_rate * d, state.params, direction)
        count = jnp.float32(len(batch["label_B"]))
        done, average = state.step + 1, state.average
        if average is not None:
            average = averaged(average, params, done, phase.ema)
        sums = Sums(loss * count, count, optax.global_norm(grads["network"]))
        return State(step=done, params=params, optimizer=moments, average=average), sums

    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(pair, phase, layout))
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, layout.replicated))


def train(
    pair: Pair,
    phase: Phase,
    crops: Crops,
    params: Params,
    *,
    layout: Layout | None = None,
    checkpoints: Checkpoints | None = None,
    evaluate: Callable[[Point, Params], Any] = lambda point, params: None,
    log: Callable[[Metrics], Any] = lambda metrics: None,
    **options: Any,
) -> Result:
    """Trains one phase to its end, or what is left of it; `result.params` has `network`, and `classifier` if it has
    one.

    Args:
      params: what to start from where there is no checkpoint (`init`, or the result of another phase).
      evaluate, log, options: see `loop.run`. `Point.tokens` counts pixels of degraded crops.

    Raises ValueError when `params` are not those of the phase: all that it trains, and nothing else.
    """
    layout = layout or Layout(make_mesh(devices=jax.devices()[:1]), networks.RULES)
    abstract = abstract_state(pair, phase, layout)
    if shapes(params) != shapes(abstract.params):
        wanted, got = (" and ".join(sorted(parts)) for parts in (abstract.params, params))
        raise ValueError(f"params: phase {phase.kind} trains {wanted}; got {got}")
    same = dataclasses.replace(phase, steps=1)  # phases that differ in their length share a program
    member = Member(phase.schedule, crops, lambda: _make_start(pair, same, layout)(params), checkpoints)
    program = loop.Alone(member, layout, make_step(pair, same, layout), abstract)
    pixels = phase.batch_size * phase.crop**2
    work = phase.batch_size * networks.flops(pair, phase.crop)[phase.kind]
    (result,) = loop.run(
        [member],
        program,
        [loop.points(phase.schedule, pixels, work)],
        evaluate=loop.one_by_one(lambda _, point, params: evaluate(point, params), program),
        log=lambda _, metrics: log(metrics),
        **options,
    )
    return result


@functools.lru_cache(maxsize=8)
def _restorer(pair: Pair) -> Callable[[Params, jax.Array], jax.Array]:
    return jax.jit(lambda network, image: networks.restore(network, pair.network, image)[0])


@functools.lru_cache(maxsize=8)
def _last_tap(pair: Pair) -> Callable[[Params, jax.Array], jax.Array]:
    return jax.jit(lambda network, image: networks.features(network, pair.network, image)[0])


@functools.lru_cache(maxsize=8)
def _labeller(pair: Pair) -> Callable[[Params, jax.Array], jax.Array]:
    def label(params: Params, image: jax.Array) -> jax.Array:
        taps = networks.features(params["network"], pair.network, image)
        return networks.classify(params["classifier"], pair.classifier, taps).argmax(-1)

    return jax.jit(label)


def restored(pair: Pair, network: Params, images_NHWC: np.ndarray, batch: int = 16) -> np.ndarray:
    """The restored images (N, H, W, 3), not clipped."""
    return _in_batches(lambda x: _restorer(pair)(network, x), images_NHWC, batch)


def last_features(pair: Pair, network: Params, images_NHWC: np.ndarray, batch: int = 16) -> np.ndarray:
    """The finest tap of every image, flat: (N, H * W * C)."""
    taps = _in_batches(lambda x: _last_tap(pair)(network, x), images_NHWC, batch)
    return taps.reshape(len(taps), -1)


def labels(pair: Pair, params: Params, images_NHWC: np.ndarray, batch: int = 16) -> np.ndarray:
    """The type that the classifier names for every image (N,)."""
    return _in_batches(lambda x: _labeller(pair)(params, x), images_NHWC, batch)


def _in_batches(function: Callable[[jax.Array], jax.Array], images: np.ndarray, batch: int) -> np.ndarray:
    parts = []
    for first in range(0, len(images), batch):
        part = images[first : first + batch]
        whole = np.concatenate([part, np.repeat(part[-1:], batch - len(part), 0)])
        parts.append(np.asarray(function(jnp.asarray(whole)))[: len(part)])
    return np.concatenate(parts)
