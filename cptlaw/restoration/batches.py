"""Batches of crops, each a pure function of (seed, step, row); and the patches that networks are tested on."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from cptlaw.errors import UserError
from cptlaw.restoration.degradations import degrade
from cptlaw.restoration.images import Picture

_KEPT = 2**28  # values of degraded images that are kept, as float16: half a GiB


class Pictures:
    """Images with their degradation types, degraded when they are first asked for.

    Attributes:
      kinds: the types, in the order of their labels.
    """

    def __init__(self, pictures: Sequence[Picture], kinds: Sequence[str], seed: int, draws: int = 3):
        """`draws` is how many versions there are of an image with one type. Raises UserError for a type without
        images."""
        self.kinds, self.seed, self.draws = tuple(kinds), seed, draws
        self.pictures = list(pictures)
        # Which images can have a type: those that come degraded have theirs, and the others any.
        self.of_kind = [[i for i, p in enumerate(self.pictures) if p.kind in ("", kind)] for kind in self.kinds]
        for kind, found in zip(self.kinds, self.of_kind):
            if not found:
                raise UserError(f"kinds: no image is of type {kind!r}; add some, or leave it out")
        largest = max(p.clean.size for p in self.pictures)
        self._degraded = functools.lru_cache(maxsize=max(8, _KEPT // largest))(self._make)

    def _make(self, index: int, label: int, draw: int) -> np.ndarray:
        picture = self.pictures[index]
        if picture.degraded is not None:
            return picture.degraded
        made = degrade(picture.clean, self.kinds[label], seed=self.seed, index=index, draw=draw)
        return made.astype(np.float16)

    def crop(self, rng: np.random.Generator, label: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """A random crop of a random image with this type, turned and mirrored: (degraded, clean), float32 (S, S, 3)."""
        index = int(rng.choice(self.of_kind[label]))
        clean, degraded = self.pictures[index].clean, self._degraded(index, label, int(rng.integers(self.draws)))
        y, x = (int(rng.integers(n - size + 1)) for n in clean.shape[:2])
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))

        def cut(image: np.ndarray) -> np.ndarray:
            piece = np.rot90(image[y : y + size, x : x + size], turns)
            return np.asarray(piece[:, ::-1] if mirrored else piece, np.float32)

        return cut(degraded), cut(clean)


@dataclasses.dataclass(frozen=True)
class Crops:
    """The batches of one run: a type, an image and a crop drawn evenly for every row.

    Attributes:
      shuffle_labels: a label is drawn by itself and says nothing of the degradation, as a control.
    """

    pictures: Pictures
    batch_size: int
    crop: int
    seed: int
    shuffle_labels: bool = False

    def __post_init__(self):
        for picture in self.pictures.pictures:
            if min(picture.clean.shape[:2]) < self.crop:
                raise UserError(f"crop {self.crop}: larger than {picture.name}, {picture.clean.shape[:2]} pixels")

    def batch(self, step: int, rows: slice | np.ndarray) -> dict[str, np.ndarray]:
        """degraded_BHWC, clean_BHWC float32, label_B int32."""
        made = [self._row(step, int(row)) for row in np.arange(self.batch_size)[rows]]
        degraded, clean, labels = zip(*made)
        return {
            "degraded_BHWC": np.stack(degraded),
            "clean_BHWC": np.stack(clean),
            "label_B": np.asarray(labels, np.int32),
        }

    def _row(self, step: int, row: int) -> tuple[np.ndarray, np.ndarray, int]:
        rng = np.random.default_rng([self.seed, step, row])
        label = int(rng.integers(len(self.pictures.kinds)))
        degraded, clean = self.pictures.crop(rng, label, self.crop)
        # Drawn for every run, so that the crops of a run with shuffled labels are those of the others.
        other = int(rng.integers(len(self.pictures.kinds)))
        return degraded, clean, other if self.shuffle_labels else label


@dataclasses.dataclass(frozen=True)
class Patches:
    """Fixed patches of held-out images: degraded and clean float32 (N, S, S, 3), labels and images int (N,)."""

    degraded: np.ndarray
    clean: np.ndarray
    labels: np.ndarray
    images: np.ndarray


def patches(pictures: Pictures, size: int, each: int, seed: int) -> Patches:
    """For every type `each` patches of every image that can have it, at places that are the same for all types."""
    degraded, clean, labels, images = [], [], [], []
    for label, of_kind in enumerate(pictures.of_kind):
        for index in of_kind:
            for number in range(each):
                picture = pictures.pictures[index]
                rng = np.random.default_rng([seed, index, number])
                y, x = (int(rng.integers(max(n - size, 0) + 1)) for n in picture.clean.shape[:2])
                made = pictures._degraded(index, label, number % pictures.draws)
                degraded.append(np.asarray(made[y : y + size, x : x + size], np.float32))
                clean.append(picture.clean[y : y + size, x : x + size])
                labels.append(label)
                images.append(index)
    return Patches(np.stack(degraded), np.stack(clean), np.array(labels), np.array(images))
