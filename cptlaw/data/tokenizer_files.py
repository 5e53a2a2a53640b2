"""Files of tokenizers: SentencePiece models and tokenizer.json, and what stands beside them in a model's folder."""

import hashlib
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cptlaw.errors import UserError
from cptlaw.lfs import refuse_pointer

# Tokenizers whose class begins a document with a token of its own unless add_bos_token says otherwise.
_BEGIN_BY_CLASS = ("LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "GemmaTokenizer", "GemmaTokenizerFast")

# How text is divided before its pieces are merged, in Llama 3 (as in cl100k) and in Qwen. GPT-2's is built in.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_KNOWN_SPLITS = (_LLAMA3, _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"))
# In all three a piece ends between a letter or digit and a space with a letter after it; none looks further back.
_BEFORE_WORD = re.compile(r"(?<=[^\W_])(?= [A-Za-z])")
_BEFORE_LINE = re.compile(r"(?=\n)")


class VocabularyError(UserError):
    """A vocabulary of an impossible kind or size."""


@lru_cache(maxsize=2)
def sentencepiece(path: Path, content: str) -> Any:
    """The SentencePiece model of a file; `content` is its `digest`, so that another file is read anew."""
    import sentencepiece as library

    refuse_pointer(path, VocabularyError)
    try:
        return library.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise VocabularyError(f"vocabulary: {path} is not a SentencePiece model ({error})") from None


@lru_cache(maxsize=2)
def tokenizer(path: Path, content: str) -> Any:
    """The tokenizer of a tokenizer.json, which takes documents whole and takes no text for a special token.

    `content` is the file's `digest`.

    Truncation, padding and dropout that the file stores are those of somebody's training or inference: they would cut
    documents, fill them up, or give other tokens every time.
    """
    # Documents are tokenised in several processes already.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import tokenizers
    except ImportError:
        raise VocabularyError("tokenizer.json needs the package tokenizers: pip install 'cptlaw[tokenizers]'") from None
    refuse_pointer(path, VocabularyError)
    try:
        made = tokenizers.Tokenizer.from_file(str(path))
        if stored := stored_settings(path):
            given = json.loads(path.read_bytes())
            for name in stored:
                (given["model"] if name == "dropout" else given)[name] = None
            made = tokenizers.Tokenizer.from_str(json.dumps(given))
    except Exception as error:  # the package raises this class itself
        raise VocabularyError(f"vocabulary: {path} is not a tokenizer.json ({error})") from None
    made.encode_special_tokens = True
    return made


def stored_settings(path: Path) -> list[str]:
    """Which of truncation, padding and dropout a tokenizer.json stores. Raises VocabularyError for another file."""
    try:
        given = json.loads(path.read_bytes())
        model = given.get("model") or {}
        dropout = ["dropout"] if model.get("dropout") else []
        return [name for name in ("truncation", "padding") if given.get(name)] + dropout
    except (ValueError, AttributeError, RecursionError) as error:
        raise VocabularyError(f"vocabulary: {path} is not a tokenizer.json ({error})") from None


def digest(path: Path) -> str:
    """SHA-256 of a file, by which tokenizers are remembered."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def affixes(made: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that a tokenizer puts in front of a text, and those after it."""
    body, whole = made.encode("x", add_special_tokens=False).ids, made.encode("x").ids
    for begin in range(len(whole) - len(body) + 1):
        if body and whole[begin : begin + len(body)] == body:
            return tuple(whole[:begin]), tuple(whole[begin + len(body) :])
    return tuple(made.encode("").ids), ()


class Beside:
    """What the files beside a tokenizer say of it: tokenizer_config.json, or else special_tokens_map.json."""

    def __init__(self, path: Path):
        self.file = path.with_name("tokenizer_config.json")
        self.given = self._read(self.file)
        self.map = self._read(path.with_name("special_tokens_map.json"))

    def token(self, name: str) -> str:
        """A special token's text, such as eos_token's; empty where none is named."""
        for given in (self.given, self.map):
            value = given.get(name)
            text = value.get("content") if isinstance(value, dict) else value
            if text is not None:
                if not isinstance(text, str):
                    raise VocabularyError(f"vocabulary: {self.file}: {name} is {value!r}; give the text of a token")
                return text
        return ""

    def begins(self) -> bool | None:
        """Whether documents begin with bos_token; None where the files do not say."""
        flag = self.given.get("add_bos_token")
        if flag is None and self.given.get("tokenizer_class") in _BEGIN_BY_CLASS:
            return True
        if flag is not None and not isinstance(flag, bool):
            raise VocabularyError(f"vocabulary: {self.file}: add_bos_token is {flag!r}; give true or false")
        return flag

    @staticmethod
    def _read(file: Path) -> dict[str, Any]:
        if not file.exists():
            return {}
        refuse_pointer(file, VocabularyError)
        try:
            given = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise VocabularyError(f"vocabulary: {file}: not readable as JSON ({error}); fetch it again") from None
        if not isinstance(given, dict):
            raise VocabularyError(f"vocabulary: {file}: expected an object with fields; fetch it again")
        return given


def sentencepiece_bytes(model: Any, size: int) -> np.ndarray:
    """UTF-8 bytes of every piece: (size,) int64."""
    return np.array([
        0 if model.is_control(i) or model.is_unknown(i) or model.is_unused(i)
        else 1 if model.is_byte(i)
        else len(model.id_to_piece(i).replace("▁", " ").encode())
        for i in range(size)
    ], np.int64)  # fmt: skip


def tokenizer_bytes(made: Any, size: int) -> np.ndarray:
    """UTF-8 bytes of every token of a tokenizer.json: (size,) int64."""
    described = json.loads(made.to_str())
    # Byte-level tokens have a character a byte; others are text, "▁" for a space, and <0x0A> for a byte.
    byte_level = any('"ByteLevel"' in json.dumps(described[part]) for part in ("decoder", "pre_tokenizer"))
    prefix = described["model"].get("continuing_subword_prefix") or ""
    suffix = described["model"].get("end_of_word_suffix") or ""
    sizes = np.zeros(size, np.int64)
    for token, i in made.get_vocab(with_added_tokens=False).items():
        text = re.sub(r"<0x[0-9A-F]{2}>", " ", token.removeprefix(prefix).removesuffix(suffix)).replace("▁", " ")
        sizes[i] = len(token) if byte_level else len(text.encode())
    for i, token in made.get_added_tokens_decoder().items():
        sizes[i] = 0 if token.special else len(token.content.encode())
    return sizes


def sentencepiece_cut(path: Path, model: Any) -> tuple[re.Pattern[str] | None, int]:
    """Where a text can be cut so that its parts have the tokens of the whole, and how many each later part adds.

    Merges never go over a newline where no piece but itself holds one and nothing is normalised. A dummy prefix is put
    in front of every part: some tokens before the newline with which a later part begins.
    """
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        return None, 0
    messages: Any = sentencepiece_model_pb2  # its classes are made at run time
    proto = messages.ModelProto.FromString(path.read_bytes())
    normal = proto.normalizer_spec
    newline = model.piece_to_id("\n")
    known = not model.is_unknown(newline) or model.is_byte(model.piece_to_id("<0x0A>"))
    exact = (
        proto.trainer_spec.model_type == messages.TrainerSpec.BPE
        and not normal.precompiled_charsmap
        and not normal.remove_extra_whitespaces
        and normal.escape_whitespaces
        and not proto.trainer_spec.treat_whitespace_as_suffix
        and known
        and not any("\n" in piece.piece and piece.piece != "\n" for piece in proto.pieces)
    )
    return (_BEFORE_LINE, len(model.encode("\n")) - 1) if exact else (None, 0)


def tokenizer_cut(made: Any) -> re.Pattern[str] | None:
    """Where a text can be cut so that its parts have the tokens of the whole, with a byte-level BPE; else None."""
    described = json.loads(made.to_str())
    split = described["pre_tokenizer"] or {}
    parts = split.get("pretokenizers", [split])
    last = parts[-1]
    built_in = len(parts) == 1 and last.get("use_regex")
    given = (
        len(parts) == 2
        and parts[0].get("type") == "Split"
        and parts[0].get("behavior") == "Isolated"
        and not parts[0].get("invert")
        and parts[0].get("pattern", {}).get("Regex") in _KNOWN_SPLITS
        and not last.get("use_regex")
        and not last.get("add_prefix_space")
    )
    added = [token for token in made.get_added_tokens_decoder().values() if not token.special]
    exact = (
        described["model"]["type"] == "BPE"
        and last.get("type") == "ByteLevel"
        and (built_in or given)
        and (described["normalizer"] is None or described["normalizer"]["type"] == "NFC")
        and not any(" " in token.content or token.lstrip or token.rstrip for token in added)
    )
    return _BEFORE_WORD if exact else None
