"""Chosen parts of a token store: as a store of its own, as text, and as a seqio Task."""

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from cptlaw import atomic
from cptlaw.data.store import StoreError, TokenStore, Writer, read_ledger, verify
from cptlaw.data.vocabularies import Vocabulary, quiet_tensorflow
from cptlaw.paths import local

COLUMNS = ("document", "begin", "end")


def read_list(path: str | os.PathLike[str]) -> pd.DataFrame:
    """A subset's list (Parquet): document, and the tokens [begin, end) of it that were chosen.

    Raises:
      StoreError: no such file, or not such a list.
    """
    try:
        spans = pd.read_parquet(local(path))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read as a subset's list ({error}); make it with `cptlaw select`") from None
    missing = [name for name in COLUMNS if name not in spans]
    if missing:
        raise StoreError(f"{path}: no column {', '.join(missing)}; a subset's list has {', '.join(COLUMNS)}")
    return spans


def digest(store: TokenStore, spans: pd.DataFrame) -> str:
    """SHA-256 of which tokens were chosen."""
    return hashlib.sha256(np.stack(_places(store, spans)).tobytes()).hexdigest()


def write_store(store: TokenStore, spans: pd.DataFrame, directory: str | os.PathLike[str], name: str) -> TokenStore:
    """The spans as a train store called `name`, or the one that is there already; each span is a document of it.

    Args:
      spans: as of `read_list`.

    Raises:
      StoreError: spans outside the store, or `directory` holds another subset.
    """
    directory = local(directory)
    begin, end = _places(store, spans)
    made_from = {"tokens_sha256": store.ledger["tokens_sha256"], "spans_sha256": digest(store, spans)}
    ledger = read_ledger(directory)
    if ledger is not None:
        if ledger.get("made_from") != made_from:
            raise StoreError(f"{directory}: holds another subset; choose another directory or delete this one")
        verify(directory)
        return TokenStore.open(directory)
    lengths = np.diff(store.offsets)[spans["document"]]
    size = np.rint(store.doc_bytes[spans["document"]] * ((end - begin) / lengths)).astype(int)
    with Writer(directory, store.ledger["vocabulary"]["size"]) as writer:
        for a, b, text_bytes in zip(begin, end, size):
            writer.add(store.tokens[a:b], text_bytes)
        kept = ("source", "licence", "attribution", "vocabulary")
        facts: dict[str, Any] = {key: store.ledger[key] for key in kept if key in store.ledger}
        return writer.finish(name, "train", {**facts, "made_from": made_from})


def write_text(store: TokenStore, spans: pd.DataFrame, vocabulary: Vocabulary, path: str | os.PathLike[str]) -> None:
    """The spans' text as JSON lines, atomically: a corpus that any study can read."""
    begin, end = _places(store, spans)
    with atomic.replacing(path) as temporary, temporary.open("w") as file:
        for document, a, b in zip(spans["document"], begin, end):
            source = f"{store.name}/{store.split}:{document}:{a - store.offsets[document]}"
            file.write(json.dumps({"text": vocabulary.decode(store.tokens[a:b].tolist()), "source": source}) + "\n")


def register_task(name: str, directory: str | os.PathLike[str], vocabulary: Vocabulary) -> Any:
    """Registers a store's documents, tokenised already, as the seqio Task `name` with the one split "train".

    An example has "targets", int32 token ids; the end of document is in them where the document's end was chosen.
    """
    quiet_tensorflow()
    import seqio
    import tensorflow as tf

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> Any:
        store = TokenStore.open(directory)

        def documents() -> Iterator[dict[str, np.ndarray]]:
            for a, b in zip(store.offsets[:-1], store.offsets[1:]):
                yield {"targets": store.tokens[a:b].astype(np.int32)}

        return tf.data.Dataset.from_generator(documents, output_signature={"targets": tf.TensorSpec((None,), tf.int32)})

    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=("train",)),
        preprocessors=[],
        output_features={"targets": seqio.Feature(vocabulary.seqio(), add_eos=False)},
        metric_fns=[],
    )


def _places(store: TokenStore, spans: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Where in the store's tokens the spans begin and end."""
    document, begin, end = (spans[name].to_numpy(np.int64) for name in COLUMNS)
    inside = (document >= 0) & (document < len(store.doc_bytes))
    lengths = np.diff(store.offsets)[np.where(inside, document, 0)]
    bad = ~(inside & (begin >= 0) & (begin < end) & (end <= lengths))
    if bad.any():
        row = int(bad.argmax())
        raise StoreError(
            f"the subset's row {row} (document {document[row]}, tokens {begin[row]} to {end[row]}) is not in "
            f"{store!r}; it was chosen from another corpus"
        )
    return store.offsets[document] + begin, store.offsets[document] + end
