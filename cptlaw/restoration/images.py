"""Where images come from, and which of them are trained on: a whole image is in one split, never parts of it in both.

`packages` are photographs inside installed Python packages, whose files are opened where they are. Their licences:
scikit-image's astronaut and rocket are in the public domain, chelsea, coffee, camera, brick, grass and gravel CC0, its
motorcycle is of the Middlebury stereo data; scikit-learn's china and flower are CC BY 2.0; matplotlib's portrait of
Grace Hopper is in the public domain.
"""

import dataclasses
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np

from cptlaw import fields
from cptlaw.errors import UserError
from cptlaw.fields import ConfigError, OneOf, at_least, between
from cptlaw.lfs import refuse_pointer
from cptlaw.paths import local

# (package, file in it, group): images of one group are of one scene, and stay together.
PACKAGES = (
    ("skimage", "data/astronaut.png", "astronaut"),
    ("skimage", "data/chelsea.png", "chelsea"),
    ("skimage", "data/coffee.png", "coffee"),
    ("skimage", "data/rocket.jpg", "rocket"),
    ("skimage", "data/motorcycle_left.png", "motorcycle"),
    ("skimage", "data/motorcycle_right.png", "motorcycle"),
    ("skimage", "data/camera.png", "camera"),
    ("skimage", "data/brick.png", "brick"),
    ("skimage", "data/grass.png", "grass"),
    ("skimage", "data/gravel.png", "gravel"),
    ("sklearn", "datasets/images/china.jpg", "china"),
    ("sklearn", "datasets/images/flower.jpg", "flower"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "grace_hopper"),
)
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


class ImageError(UserError):
    """Images that are not there or not readable."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """One clean image, with its degraded twin where it was filmed and not made.

    Attributes:
      name, group: where it is from, and the scene that it is of.
      clean: float32 (H, W, 3), values in [0, 1].
      degraded: its twin, of the degradation `kind`; None, to be made.
    """

    name: str
    group: str
    clean: np.ndarray
    degraded: np.ndarray | None = None
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class Source:
    """Which images, and how they are split.

    Attributes:
      kind: packages (see the module); folder, of clean images, degraded here; pairs, a folder that holds
        TYPE/degraded/NAME and TYPE/clean/NAME for each degradation type; tfds, a builder of TensorFlow Datasets.
      path: the folder, or the builder's name (`div2k/bicubic_x2`).
      feature, tfds_split: of a builder: which feature is the clean image (`hr`), and of which split.
      held_out: names of the groups that are tested on; a group is a file's name without suffix.
      held_out_share: where `held_out` is empty, about how many of the groups are; their names' hashes decide.
      side: the longest side in pixels; larger images are averaged down by a whole factor. 0 leaves them.
      most: how many images are read; 0 for all.
    """

    kind: Annotated[str, OneOf(("packages", "folder", "pairs", "tfds"))] = "packages"
    path: str = ""
    feature: str = "image"
    tfds_split: str = "train"
    held_out: tuple[str, ...] = ("coffee", "china")
    held_out_share: Annotated[float, between(0, 1, open_low=True, open_high=True)] = 0.1
    side: Annotated[int, at_least(0)] = 0
    most: Annotated[int, at_least(0)] = 0

    def __post_init__(self):
        fields.check(self, "images")
        if (self.kind == "packages") == bool(self.path):
            raise ConfigError("images.path", f"kind {self.kind} {'takes none' if self.path else 'needs one'}")
        if self.kind in ("folder", "pairs") and not local(self.path).is_dir():
            raise ConfigError("images.path", f"{self.path}: no such folder")

    def read(self) -> list[Picture]:
        """All images, in an order that does not depend on the file system.

        Raises ImageError for a missing package, a file that is no image, twins of different sizes, or no images.
        """
        reader = {"packages": _packages, "folder": _folder, "pairs": _pairs, "tfds": _tfds}[self.kind]
        pictures: list[Picture] = []
        for picture in reader(self):
            if self.most and len(pictures) == self.most:
                break
            pictures.append(_shrunk(picture, self.side))
        if not pictures:
            raise ImageError(f"images.path {self.path}: no images ({', '.join(SUFFIXES)}) in it")
        return pictures

    def split(self, pictures: list[Picture]) -> tuple[list[Picture], list[Picture]]:
        """(trained on, held out), by group. Raises ConfigError when one of the two would be empty."""
        groups = sorted({picture.group for picture in pictures}, key=lambda g: hashlib.sha256(g.encode()).hexdigest())
        if unknown := sorted(set(self.held_out) - set(groups)):
            raise ConfigError("images.held_out", f"no image {unknown[0]!r}; there are {', '.join(sorted(groups)[:20])}")
        held = set(self.held_out) or set(groups[: max(1, round(self.held_out_share * len(groups)))])
        if len(held) == len(groups):
            raise ConfigError("images.held_out", "every image would be held out; leave some to train on")
        return [p for p in pictures if p.group not in held], [p for p in pictures if p.group in held]


def open_image(path: Path) -> np.ndarray:
    """float32 (H, W, 3) in [0, 1]; grey images are repeated, alpha is dropped. Raises ImageError."""
    from PIL import Image, UnidentifiedImageError

    refuse_pointer(path, ImageError)
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"), np.float32) / 255
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: no readable image ({error}); replace or remove it") from None


def _packages(source: Source) -> Iterator[Picture]:
    for package, file, group in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ImageError(
                f"{package} is not installed, whose photographs are used: pip install 'cptlaw[restoration]'"
            )
        if package == "matplotlib":  # its data may lie elsewhere
            import matplotlib

            path = Path(matplotlib.get_data_path()).parent / file
        else:
            path = Path(spec.origin).parent / file
        yield Picture(f"{package}/{Path(file).name}", group, open_image(path))


def _folder(source: Source) -> Iterator[Picture]:
    for path in _files(local(source.path)):
        yield Picture(str(path), path.stem, open_image(path))


def _pairs(source: Source) -> Iterator[Picture]:
    root = local(source.path)
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        clean = {path.stem: path for path in _files(folder / "clean")}
        for path in _files(folder / "degraded"):
            if path.stem not in clean:
                raise ImageError(f"{path}: no image of this name in {folder / 'clean'}; add it, or remove this one")
            pair = open_image(path), open_image(clean[path.stem])
            if pair[0].shape != pair[1].shape:
                raise ImageError(f"{path}: {pair[0].shape[:2]} pixels, and its clean twin {pair[1].shape[:2]}")
            yield Picture(str(path), path.stem, pair[1], pair[0], folder.name)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ImageError(f"{folder}: no such folder; pairs are TYPE/degraded/NAME and TYPE/clean/NAME")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _tfds(source: Source) -> Iterator[Picture]:
    from cptlaw.data.vocabularies import quiet_tensorflow

    quiet_tensorflow()
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise ImageError("images.kind tfds: pip install 'cptlaw[train]'") from None
    try:
        rows = tfds.as_numpy(tfds.load(source.path, split=source.tfds_split, shuffle_files=False))
    except Exception as error:  # a builder may raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ImageError(
            f"tfds:{source.path}: cannot be read ({reason}); prepare it first with `tfds build`"
        ) from error
    for number, row in enumerate(rows):
        if source.feature not in row or np.ndim(row[source.feature]) != 3:
            raise ImageError(
                f"tfds:{source.path}: feature {source.feature!r} is no image; it has {', '.join(sorted(row))}"
            )
        image = np.asarray(row[source.feature], np.float32) / 255
        yield Picture(f"tfds:{source.path}:{number}", str(number), np.repeat(image, 3 // image.shape[-1], -1))


def _shrunk(picture: Picture, side: int) -> Picture:
    factor = -(-max(picture.clean.shape[:2]) // side) if side else 1
    if factor == 1:
        return picture

    def shrink(x: np.ndarray) -> np.ndarray:
        H, W = (n // factor for n in x.shape[:2])
        return x[: H * factor, : W * factor].reshape(H, factor, W, factor, 3).mean((1, 3))

    degraded = None if picture.degraded is None else shrink(picture.degraded)
    return dataclasses.replace(picture, clean=shrink(picture.clean), degraded=degraded)
