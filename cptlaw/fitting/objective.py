"""What a fit minimises: a weighted SUM over rows (never a mean), of a residual of log loss or of loss."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cptlaw.errors import UserError

SCALE_STEPS = 60
NAMES = {
    "huber": "sum of Huber(delta) of log predicted - log observed (Hoffmann et al. 2022; D-CPT)",
    "huber_scale": "Huber likelihood of that residual, scale fitted, delta in its units (Besiroglu et al. 2024)",
    "squared": "half the sum of squared residuals of log loss",
    "squared_loss": "half the sum of squared residuals of loss",
    "asymmetric": "sum of absolute residuals of loss, over-prediction weighted 10x",
}
OVER_PREDICTION = 10.0
KINK = 1e-9  # width of the quadratic that replaces the kink of the absolute value, nats


class Terms(NamedTuple):
    """Per row, times its weight: rho, its slope and curvature in the residual, and slope / residual."""

    value: jax.Array
    slope: jax.Array
    curvature: jax.Array
    secant: jax.Array


@dataclass(frozen=True)
class Objective:
    """A named objective. `delta` is the Huber threshold (log loss; standardised for "huber_scale")."""

    name: str = "huber"
    delta: float = 1e-3

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UserError(f"no objective {self.name!r}; there are {', '.join(NAMES)}")
        if not self.delta > 0:
            raise UserError(f"objective {self.name}: delta must be positive, not {self.delta}")

    @property
    def in_log(self) -> bool:
        """Whether residuals are of log loss."""
        return self.name in ("huber", "huber_scale", "squared")

    def stages(self) -> tuple[float, ...]:
        """Thresholds to solve for in turn: a wide quadratic first finds the basin that a near-absolute value hides."""
        if self.name == "huber":
            return (*(d for d in (3e-2,) if d > 3 * self.delta), self.delta)
        if self.name == "asymmetric":
            return (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-7, KINK)
        if self.name == "huber_scale":
            return (*(d for d in (1.0, 0.1, 0.01) if d > 3 * self.delta), self.delta)
        return (self.delta,)

    def terms(self, residual: jax.Array, weight: jax.Array, delta: Any) -> Terms:
        """Values and derivatives of the summands at `residual` (rows,)."""
        if self.name.startswith("squared"):
            return Terms(0.5 * weight * residual**2, weight * residual, weight, weight)
        if self.name == "asymmetric":
            side = weight * jnp.where(residual > 0, OVER_PREDICTION, 1.0)
            value, slope, curvature, secant = _huber(residual, delta)
            return Terms(side * value / delta, side * slope / delta, side * curvature / delta, side * secant / delta)
        if self.name == "huber":
            value, slope, curvature, secant = _huber(residual, delta)
            return Terms(weight * value, weight * slope, weight * curvature, weight * secant)
        scale = _scale(residual, weight, delta)
        value, slope, curvature, secant = _huber(residual / scale, delta)
        normaliser = jnp.log(scale) + jnp.log(
            jnp.sqrt(2 * jnp.pi) * jax.scipy.special.erf(delta / jnp.sqrt(2.0)) + 2 * jnp.exp(-0.5 * delta**2) / delta
        )
        return Terms(
            weight * (value + normaliser),
            weight * slope / scale,
            weight * curvature / scale**2,
            weight * secant / scale**2,
        )


def _huber(residual: jax.Array, delta: Any) -> Terms:
    size = jnp.abs(residual)
    inside = size <= delta
    return Terms(
        jnp.where(inside, 0.5 * residual**2, delta * (size - 0.5 * delta)),
        jnp.clip(residual, -delta, delta),
        inside.astype(residual.dtype),
        jnp.where(inside, 1.0, delta / jnp.where(inside, 1.0, size)),
    )


def _scale(residual: jax.Array, weight: jax.Array, delta: Any) -> jax.Array:
    """The scale that maximises the Huber likelihood: sum w slope(z) z = sum w, z = residual / scale, by bisection."""
    residual = jax.lax.stop_gradient(residual)  # at the maximum the derivative by the scale is zero
    total = jnp.sum(weight)
    high = jnp.log(jnp.sqrt(jnp.sum(weight * residual**2) / total) + 1e-12)  # an upper bound: Huber's slope <= z

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        z = residual / jnp.exp(middle)
        too_small = jnp.sum(weight * jnp.clip(z, -delta, delta) * z) > total
        return jnp.where(too_small, middle, low), jnp.where(too_small, high, middle)

    low, high = jax.lax.fori_loop(0, SCALE_STEPS, halve, (jnp.log(1e-12) + 0 * high, high))
    return jnp.exp(0.5 * (low + high))
