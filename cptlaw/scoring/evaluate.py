"""Loss of a model on one corpus: sums and counts by document."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import numpy as np

from cptlaw.errors import UserError
from cptlaw.models import transformer
from cptlaw.models.sharding import Layout, make_mesh


@dataclasses.dataclass(frozen=True)
class Scores:
    """Sums over one corpus, by document: float64 `nats_by_document`, int64 `tokens_by_document` (documents,).

    `bytes` is None when the caller gave no sizes.
    """

    nats_by_document: np.ndarray
    tokens_by_document: np.ndarray
    bytes: int | None = None

    @property
    def nats(self) -> float:
        return math.fsum(self.nats_by_document)

    @property
    def tokens(self) -> int:
        return int(self.tokens_by_document.sum())

    @property
    def documents(self) -> int:
        """Documents with at least one scored token."""
        return int(np.count_nonzero(self.tokens_by_document))

    @property
    def loss(self) -> float:
        """Nats per token, every token weighing the same."""
        return self.nats / self.tokens

    @property
    def loss_se(self) -> float:
        """Standard error of `loss` over documents as clusters (tokens of a document are not independent).

        The linearised ratio estimator: G / (G - 1) sum_d (nats_d - loss tokens_d)^2 / tokens^2; NaN for G = 1.
        """
        G = self.documents
        if G < 2:
            return math.nan
        residual = self.nats_by_document - self.loss * self.tokens_by_document
        return math.sqrt(G / (G - 1) * math.fsum(residual**2)) / self.tokens


class Evaluator:
    """Scores corpora under one architecture; compiled once for each batch shape, shared by all evaluators."""

    def __init__(self, cfg: transformer.Config, layout: Layout | None = None):
        self.layout = layout or Layout(make_mesh())
        self._token_nll = make_token_nll(cfg, self.layout)

    def score(
        self,
        params: transformer.Params,
        batches: Iterable[Mapping[str, np.ndarray]],
        document_bytes: np.ndarray | None = None,
    ) -> Scores:
        """Scores one corpus.

        Args:
          params: as of `transformer.init`.
          batches: all of one shape: tokens_BT, targets_BT, segments_BT, positions_BT, mask_BT, and documents_BT, the
            target's document; every process gives the same, whole batches.
          document_bytes: size of every document, to count the bytes of those scored.

        Sums are taken in float64 on the host, from float32 losses by token: 4 bytes a token is little to fetch, and
        the result then does not depend on the order or shape of batches, or on the devices. A batch is fetched
        while the next is computed.
        """

        def launched(batch: Mapping[str, np.ndarray]) -> jax.Array:
            size = len(batch["mask_BT"])
            rows = self.layout.rows(size)
            mine = {name: batch[name][rows] for name in _INPUTS}
            return self._token_nll(params, self.layout.put(mine, size))

        parts = [_by_document(nll_BT, batch) for nll_BT, batch in _fetched(launched, batches)]
        return _scores(parts, document_bytes)


def score_runs(
    cfg: transformer.Config,
    params: transformer.Params,
    runs: Iterable[int],
    batches: Iterable[Mapping[str, np.ndarray]],
    document_bytes: np.ndarray | None = None,
) -> dict[int, Scores]:
    """`Evaluator.score` of several runs in one program.

    Args:
      params: of all, stacked along an axis R that the mesh axis `runs` splits (see `training.together`).
      runs: places on that axis; the scores of others are not made.
      batches, document_bytes: as of `Evaluator.score`.
    """
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    token_nll, everywhere = make_token_nll_of_runs(cfg, mesh), jax.NamedSharding(mesh, jax.P())
    parts: dict[int, list[_Part]] = {run: [] for run in runs}

    def launched(batch: Mapping[str, np.ndarray]) -> jax.Array:
        return token_nll(params, jax.device_put({name: batch[name] for name in _INPUTS}, everywhere))

    for nll_RBT, batch in _fetched(launched, batches):
        for run, of_run in parts.items():
            of_run.append(_by_document(nll_RBT[run], batch))
    return {run: _scores(of_run, document_bytes) for run, of_run in parts.items()}


def _fetched(
    launched: Callable[[Mapping[str, np.ndarray]], jax.Array], batches: Iterable[Mapping[str, np.ndarray]]
) -> Iterator[tuple[np.ndarray, Mapping[str, np.ndarray]]]:
    """What is computed of each batch, on the host, and the batch: fetched while the next is computed."""
    waiting: tuple[jax.Array, Mapping[str, np.ndarray]] | None = None
    for batch in batches:
        computed = launched(batch)
        if waiting:
            yield np.asarray(waiting[0]), waiting[1]
        waiting = computed, batch
    if waiting:
        yield np.asarray(waiting[0]), waiting[1]


def _scores(parts: list["_Part"], document_bytes: np.ndarray | None) -> Scores:
    if not sum(part[0].size for part in parts):
        raise UserError("nothing to score: no token of the evaluation batches has a target in its document")
    documents, nats, tokens = (np.concatenate(arrays) for arrays in zip(*parts))
    nats, tokens = np.bincount(documents, nats), np.bincount(documents, tokens).astype(np.int64)
    scored = None if document_bytes is None else int(document_bytes[: tokens.size][tokens > 0].sum())
    return Scores(nats, tokens, scored)


_INPUTS = ("tokens_BT", "targets_BT", "segments_BT", "positions_BT")
_Part = tuple[np.ndarray, np.ndarray, np.ndarray]  # document ids, their nats, their tokens


@functools.lru_cache(maxsize=64)
def make_token_nll(cfg: transformer.Config, layout: Layout) -> Callable[..., jax.Array]:
    """The compiled (params, batch) -> nll_BT, float32, on every device."""

    def token_nll(params: transformer.Params, batch: dict[str, jax.Array]) -> jax.Array:
        # As in the training step: attention kernels divide themselves over the mesh.
        with jax.sharding.use_abstract_mesh(layout.mesh.abstract_mesh):
            return transformer.token_nll(params, cfg, batch)

    return jax.jit(token_nll, out_shardings=layout.replicated)


@functools.lru_cache(maxsize=16)
def make_token_nll_of_runs(cfg: transformer.Config, mesh: jax.sharding.Mesh) -> Callable[..., jax.Array]:
    """The compiled (params of R runs, batch) -> nll_RBT, float32, split over the runs."""
    in_turn = mesh.devices.flat[0].platform == "cpu"  # as in `training.together.make_steps`

    def token_nll(params: transformer.Params, batch: dict[str, jax.Array]) -> jax.Array:
        def one(params: transformer.Params) -> jax.Array:
            return transformer.token_nll(params, cfg, batch)

        return jax.lax.map(one, params) if in_turn else jax.vmap(one)(params)

    runs = jax.P("runs")
    return jax.jit(jax.shard_map(token_nll, mesh=mesh, in_specs=(runs, jax.P()), out_specs=runs, check_vma=False))


def _by_document(nll_BT: np.ndarray, batch: Mapping[str, np.ndarray]) -> _Part:
    scored = batch["mask_BT"] > 0
    documents, inverse = np.unique(batch["documents_BT"][scored], return_inverse=True)
    nats = np.bincount(inverse, nll_BT[scored].astype(np.float64), documents.size)
    return documents, nats, np.bincount(inverse, minlength=documents.size)
