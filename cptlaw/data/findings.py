"""What was found in a corpus while its token store was built: recorded in the ledger, and said once."""

from typing import Any

import numpy as np

from cptlaw.data import folders, near_duplicates
from cptlaw.data.corpora import Corpus
from cptlaw.data.store import TokenStore
from cptlaw.data.tokenise import Part
from cptlaw.data.vocabularies import Vocabulary


class Findings:
    """Collects over the parts of one split."""

    def __init__(self) -> None:
        self.documents = self.exact = self.specials = self.with_specials = 0
        self.near: near_duplicates.Found | None = None
        self.example: tuple[str, str] | None = None
        self._tokens: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []

    def add(self, part: Part, keep_tokens: bool) -> None:
        """Takes in a part; of a split that is to be compared with another, as many tokens as are compared are kept."""
        self.documents += part.lengths.size
        # A tokenizer may put one space in front of a document.
        self.exact += int(np.isin(part.counted_bytes - part.doc_bytes, (0, 1)).sum())
        self.specials += int(part.specials.sum())
        self.with_specials += int(np.count_nonzero(part.specials))
        if keep_tokens and sum(tokens.size for tokens in self._tokens) < near_duplicates.VALIDATION_TOKENS:
            self._tokens.append(part.tokens)
            self._lengths.append(part.lengths)

    def compare(self, train: TokenStore, vocabulary: Vocabulary) -> None:
        """Looks for the documents kept among those of the training store."""
        tokens, lengths = np.concatenate(self._tokens), np.concatenate(self._lengths)
        offsets = np.concatenate([[0], lengths.cumsum()])
        self.near = near_duplicates.find(train.tokens, train.offsets, tokens, offsets)
        if self.near.example:
            a, b = self.near.example
            heads = train.tokens[train.offsets[a] : train.offsets[a + 1]], tokens[offsets[b] : offsets[b + 1]]
            one, other = (" ".join(vocabulary.decode(ids[:40].tolist()).split())[:60] for ids in heads)
            self.example = one, other

    def facts(self, corpus: Corpus) -> dict[str, Any]:
        """Fields of the ledger: what was left out, and what was found."""
        facts: dict[str, Any] = {
            "dropped": dict(sorted(corpus.dropped.items())),
            "left_out_files": dict(sorted(corpus.left_out.items())),
            # Of so many documents the bytes of the tokens are the bytes of the text; of others they are shared out.
            "bytes_by_token": self.exact,
            "special_tokens_in_text": self.specials,
        }
        if self.near:
            facts["near_duplicates"] = self.near._asdict()
        return facts

    def in_words(self, name: str, split: str, corpus: Corpus) -> list[str]:
        """What somebody should know before they train on it: a line each, often none."""
        said = []
        if corpus.left_out and split == "train":
            said.append(f"files that are not read: {folders.in_words(corpus.left_out)}")
        bad = {k: n for k, n in corpus.dropped.items() if k not in ("duplicates", "blank documents")}
        if bad and split == "train":
            reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(bad.items()))
            said.append(f"{sum(bad.values()):,} rows are left out (on_bad_rows='skip'): {reasons}")
        if self.exact < self.documents:
            said.append(
                f"{self.documents - self.exact:,} of {self.documents:,} documents have other bytes than their tokens "
                "(this vocabulary changes text): chunks of scores share each document's true bytes out"
            )
        if self.specials:
            said.append(
                f"special tokens are written {self.specials:,} times in the text of {self.with_specials:,} documents; "
                "there they are text, not special"
            )
        if self.near and self.near.found:
            assert self.example
            near, (one, other) = self.near, self.example
            said.append(
                f"{near.found:,} of {near.validation_documents:,} documents compared are nearly the same as one of "
                f"{near.train_documents:,} in train, which lowers the loss; for example {other!r} and {one!r}: remove "
                "near-duplicates first"
            )
        return [f"corpus {name!r}, {split}: {line}" for line in said]
