"""The k-nearest-neighbour probe: how well features tell degradation types apart before anything has learned to.

A random network scores well above chance in it, and so do raw pixels: always show the two beside each other.
"""

from collections.abc import Mapping

import numpy as np

from cptlaw.errors import UserError


def accuracy(
    features_NF: np.ndarray, labels_N: np.ndarray, groups_N: np.ndarray, *, k: int = 5, splits: int = 5, seed: int = 0
) -> float:
    """The share of test rows whose type most of their `k` nearest rows have, by Euclidean distance; mean over splits.

    Args:
      features_NF: flat features.
      labels_N: types, integers from 0.
      groups_N: the image that a row is of. Two thirds of the images are looked up in, the others asked: patches of one
        image are much alike, so that a split by patch would ask what it has seen.

    Raises UserError for fewer than three images.
    """
    groups = np.unique(groups_N)
    if len(groups) < 3:
        raise UserError(f"probe: {len(groups)} images; it needs three, two to look up in and one to ask")
    scores = []
    for split in range(splits):
        order = np.random.default_rng([seed, split]).permutation(groups)
        known = np.isin(groups_N, order[: max(2, round(len(groups) * 2 / 3))])
        x, y = (features_NF[mask].astype(np.float64) for mask in (known, ~known))
        distance = (y**2).sum(1)[:, None] - 2 * y @ x.T + (x**2).sum(1)
        near = labels_N[known][np.argsort(distance, 1, kind="stable")[:, :k]]
        votes = (near[:, :, None] == np.arange(labels_N.max() + 1)).sum(1)
        scores.append(float((votes.argmax(1) == labels_N[~known]).mean()))
    return float(np.mean(scores))


def table(
    features: Mapping[str, np.ndarray], images_NHWC: np.ndarray, labels_N: np.ndarray, groups_N: np.ndarray
) -> dict[str, float]:
    """The accuracy of each kind of features, of the raw pixels, of six numbers (the mean and deviation of each
    channel), and of chance."""
    pixels = images_NHWC.reshape(len(images_NHWC), -1)
    moments = np.concatenate([images_NHWC.mean((1, 2)), images_NHWC.std((1, 2))], 1)
    every = {**features, "raw pixels": pixels, "means and deviations": moments}
    scores = {name: accuracy(values, labels_N, groups_N) for name, values in every.items()}
    return {**scores, "chance": 1 / (int(labels_N.max()) + 1)}
