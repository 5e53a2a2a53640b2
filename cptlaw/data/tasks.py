"""Corpora as seqio Tasks (documents -> tokens), and mixtures of them for seqio's own users.

A Task is the definition of a corpus's tokens; `build` runs it once into a token store.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cptlaw.data.corpora import SPLITS, Corpus
from cptlaw.data.mixture import check_weights
from cptlaw.data.store import TokenStore
from cptlaw.data.vocabularies import Vocabulary, quiet_tensorflow, silent
from cptlaw.errors import UserError

# What reading a corpus refused: TensorFlow passes on a traceback as text, not the exception.
_refused: list[UserError] = []


def register_task(name: str, corpus: Corpus, vocabulary: Vocabulary, validation_share: float) -> Any:
    """Registers the corpus as the seqio Task `name` (or finds it registered) and returns it.

    Splits are "train" and "validation"; an example is one document, "targets" its int32 token ids with the end of
    document, "targets_pretokenized" its text. Reading with `shuffle=False` keeps the corpus's order.
    """
    quiet_tensorflow()
    import seqio
    import tensorflow as tf

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> Any:
        def batches() -> Iterator[list[str]]:
            # Handing documents over one by one would take longer than tokenising them.
            documents = corpus.split(split, validation_share)
            try:
                while batch := [document.text for document in itertools.islice(documents, 256)]:
                    yield batch
            except UserError as error:
                _refused.append(error)
                raise

        texts = tf.data.Dataset.from_generator(batches, output_signature=tf.TensorSpec((None,), tf.string)).unbatch()
        return texts.map(lambda text: {"targets": text})

    if name in seqio.TaskRegistry.names():
        return seqio.TaskRegistry.get(name)
    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=SPLITS),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={"targets": seqio.Feature(vocabulary.seqio(), add_eos=True)},
        metric_fns=[],
    )


def examples(task: Any, split: str) -> Iterator[tuple[np.ndarray, bytes]]:
    """Token ids (int32, with the end of document) and UTF-8 text of the task's documents, in the corpus's order."""
    import tensorflow as tf

    try:
        with silent():
            batches = iter(task.get_dataset(None, split, use_cached=False, shuffle=False).ragged_batch(256))
            batch = next(batches, None)
        while batch is not None:
            tokens = np.split(batch["targets"].values.numpy(), batch["targets"].row_splits.numpy()[1:-1])
            yield from zip(tokens, batch["targets_pretokenized"].numpy())
            batch = next(batches, None)
    except tf.errors.OpError:
        if _refused:
            raise _refused.pop() from None
        raise


def register_mixture(
    name: str, stores: Mapping[str, TokenStore], weights: Mapping[str, float], seq_len: int | None = None
) -> Any:
    """Registers a seqio Mixture of the stores' Tasks whose TOKEN shares are about `weights`, and returns it.

    seqio mixes examples, here documents: a corpus's rate is its weight over its mean document length (trimmed to
    `seq_len`, when the Mixture is to be read with that length). The share is then right in expectation, where
    `mixture.Schedule` is right in every window. Corpora of weight 0 are left out.
    """
    check_weights(weights, stores)
    quiet_tensorflow()
    import seqio

    rates = []
    for corpus, weight in weights.items():
        if weight > 0:
            lengths = np.diff(stores[corpus].offsets)
            mean = np.minimum(lengths, seq_len).mean() if seq_len else lengths.mean()
            rates.append((stores[corpus].ledger["task"], weight / mean))
    if name in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.remove(name)
    return seqio.MixtureRegistry.add(name, rates)
