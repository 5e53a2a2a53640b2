"""Corpora as seqio Tasks (documents -> tokens) and Mixtures of them, for seqio's own users (T5X and others).

A Task's examples are exactly the documents of the corpus's token store (the tests hold the two together), so a model
trained elsewhere on the Task can be scored and continued here on the store. `build.register` registers the Tasks of a
prepared directory.

Caching on a cluster. seqio's own script runs any Task once through Apache Beam (install `apache-beam` beside seqio) and
writes TFRecords that every later reader shuffles and shards freely:

    seqio_cache_tasks --module_import=my_tasks --tasks='cptlaw.*' --output_cache_dir=gs://BUCKET/cache \\
        --pipeline_options=--runner=DataflowRunner,--project=PROJECT,--region=REGION,--temp_location=gs://BUCKET/tmp

where `my_tasks.py` calls `build.register(...)` and readers call `seqio.add_global_cache_dirs(["gs://BUCKET/cache"])`.
There Beam divides a Task by the shards of its source, and a corpus here is one shard, because duplicates are removed
over all of it: one machine reads. Token stores of many files are built by many machines with `launch.prepare --runner`.
seqio's caching is for a builder of hundreds of gigabytes that is taken as it is, without that check; there a Task reads
the builder's own files, with a vocabulary of ours:

    seqio.TaskRegistry.add(
        "c4_en",
        source=seqio.TfdsDataSource("c4/en:3.1.0"),
        preprocessors=[
            functools.partial(seqio.preprocessors.rekey, key_map={"targets": "text"}),
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos,
        ],
        output_features={"targets": seqio.Feature(build.load_vocabulary(directory).seqio(), add_eos=True)},
    )
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cptlaw.data.corpora import SPLITS, Corpus
from cptlaw.data.mixture import check_weights
from cptlaw.data.store import TokenStore
from cptlaw.data.vocabularies import Vocabulary, quiet_seqio


def register_task(name: str, corpus: Corpus, vocabulary: Vocabulary, validation_share: float) -> Any:
    """Registers the corpus as the seqio Task `name` (or finds it registered) and returns it.

    Splits are "train" and "validation"; an example is one document, "targets" its int32 token ids with the end of
    document, "targets_pretokenized" its text. Reading with `shuffle=False` keeps the corpus's order.
    """
    seqio = quiet_seqio()
    import tensorflow as tf

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> Any:
        def batches() -> Iterator[list[str]]:
            # Handing documents over one by one would take longer than tokenising them.
            documents = corpus.split(split, validation_share)
            while batch := [document.text for document in itertools.islice(documents, 256)]:
                yield batch

        texts = tf.data.Dataset.from_generator(batches, output_signature=tf.TensorSpec((None,), tf.string)).unbatch()
        return texts.map(lambda text: {"targets": text})

    if name in seqio.TaskRegistry.names():
        return seqio.TaskRegistry.get(name)
    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=SPLITS),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos,
        ],
        output_features={"targets": seqio.Feature(vocabulary.seqio(), add_eos=True)},
        metric_fns=[],
    )


def register_mixture(
    name: str, stores: Mapping[str, TokenStore], weights: Mapping[str, float], seq_len: int | None = None
) -> Any:
    """Registers a seqio Mixture of the stores' Tasks whose TOKEN shares are about `weights`, and returns it.

    seqio mixes examples, here documents: a corpus's rate is its weight over its mean document length (trimmed to
    `seq_len`, when the Mixture is to be read with that length). The share is then right in expectation, where
    `mixture.Mixture` is right in every window. Corpora of weight 0 are left out.
    """
    check_weights(weights, stores)
    seqio = quiet_seqio()

    rates = []
    for corpus, weight in weights.items():
        if weight > 0:
            lengths = np.diff(stores[corpus].offsets)
            mean = np.minimum(lengths, seq_len).mean() if seq_len else lengths.mean()
            rates.append((stores[corpus].ledger["task"], weight / mean))
    if name in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.remove(name)
    return seqio.MixtureRegistry.add(name, rates)
