"""From a recipe's raw files to documents. Deterministic: the same members give the same documents in the same order."""

import ast
import csv
import gzip
import html
import io
import json
import re
from collections.abc import Iterable, Iterator

import numpy as np

from cptlaw.data.documents import Document

Members = Iterable[tuple[str, bytes]]


def wikipedia_leads(members: Members) -> Iterator[Document]:
    """One lead section a document."""
    for _, content in members:
        for article in json.loads(content).values():
            if article["extract"].strip():
                yield Document(article["extract"].strip(), article["title"])


def python_source(members: Members) -> Iterator[Document]:
    """Source files in pieces of about 2,000 characters (at most 8,000), cut at blank lines between definitions.

    Whole files (17 kB on average) would leave too few validation documents for a standard error. Pieces of one file can
    fall on both sides of the split. Generated tables and files under 500 characters are left out.
    """
    for name, content in members:
        text = _python(name, content)
        if text is None:
            continue
        piece: list[str] = []
        size = number = 0
        lines = text.splitlines(keepends=True)
        for line, following in zip(lines, [*lines[1:], ""]):
            piece.append(line)
            size += len(line)
            definition_next = not line.strip() and re.match(r"\S|    (@|(async )?def |class )", following)
            if size >= (2000 if definition_next else 8000):
                yield Document("".join(piece).rstrip() + "\n", f"{name}#{number}")
                piece, size, number = [], 0, number + 1
        if size:
            yield Document("".join(piece).rstrip() + "\n", f"{name}#{number}")


def docstring_prose(members: Members) -> Iterator[Document]:
    """Paragraphs of prose from docstrings, comments and the language reference that `help()` shows."""
    for name, content in members:
        if name == "pydoc_data/topics.py":
            # A module of one dictionary: topic -> text.
            for node in ast.walk(ast.parse(content)):
                if isinstance(node, ast.Dict):
                    for topic, text in ast.literal_eval(node).items():
                        yield from _prose(text, f"{name}#{topic}")
            continue
        source = _python(name, content)
        if source is None:
            continue
        documented = ast.AsyncFunctionDef | ast.FunctionDef | ast.ClassDef | ast.Module
        strings = [
            ast.get_docstring(node) or "" for node in ast.walk(ast.parse(source)) if isinstance(node, documented)
        ]
        comments = re.findall(r"(?:^[ \t]*#(?!!).*\n)+", source, re.MULTILINE)
        strings += [re.sub(r"^[ \t]*# ?", "", comment, flags=re.MULTILINE) for comment in comments]
        yield from _prose("\n\n".join(strings), name)


def phenotypes(members: Members) -> Iterator[Document]:
    """One ontology term a document: name, definition, comment, synonyms."""
    for _, content in members:
        for stanza in content.decode().split("\n\n[Term]\n")[1:]:
            fields: dict[str, list[str]] = {}
            for line in stanza.split("\n\n")[0].splitlines():
                field, _, value = line.partition(": ")
                fields.setdefault(field, []).append(value)
            if "is_obsolete" in fields or "name" not in fields:
                continue
            parts = [f"{fields['name'][0]}."]
            parts += [_quoted(value) for value in fields.get("def", [])]
            parts += [value.replace('\\"', '"').replace("\\n", " ") for value in fields.get("comment", [])]
            names = [_quoted(value) for value in fields.get("synonym", [])]
            if names:
                parts.append(f"Also called: {'; '.join(names)}.")
            yield Document("\n".join(parts), fields["id"][0])


def wikitext(members: Members) -> Iterator[Document]:
    """One section a document, its heading first; WikiText's ` @-@ ` marks undone."""
    for name, content in members:
        text = re.sub(r" @([-,.])@ ", r"\1", gzip.decompress(content).decode())
        heading = "the beginning"
        for block in re.split(r"(?m)^(?= =.*= \n)", text):
            heading = block.partition("\n")[0].strip(" =") or heading
            if len(block) >= 200:
                yield Document(re.sub(r"(?m)^ | $", "", block).strip(), f"{name}#{heading}")


def smiles(members: Members) -> Iterator[Document]:
    """Fifty molecules a document, one a line."""
    for name, content in members:
        molecules = [row["SMILES"] for row in csv.DictReader(io.StringIO(gzip.decompress(content).decode()))]
        for begin in range(0, len(molecules), 50):
            yield Document("\n".join(molecules[begin : begin + 50]), f"{name}#{begin}")


def licences(members: Members) -> Iterator[Document]:
    """One licence text a document, without its YAML header, near-duplicates removed."""
    documents = []
    for name, content in members:
        text = re.sub(r"\A---\n.*?\n---\n", "", content.decode(), flags=re.DOTALL).strip()
        if len(text) >= 500:
            documents.append(Document(text, name))
    keep = distinct([document.text for document in documents])
    yield from (documents[i] for i in keep)


def api_docs(members: Members) -> Iterator[Document]:
    """One documentation string a document, HTML removed, short ones left out."""
    for name, content in members:
        todo: list[tuple[str, object]] = [("", json.loads(gzip.decompress(content)))]
        while todo:
            path, value = todo.pop()
            if not isinstance(value, dict):
                continue
            text = value.get("documentation")
            if isinstance(text, str):
                text = html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"</?(p|li|ul|ol|note|dl|dd|dt)>", "\n", text)))
                text = re.sub(r"\s*\n\s*", "\n", text).strip()
                if len(text) >= 200:
                    yield Document(text, f"{name}#{path}")
            todo += [(f"{path}/{field}", child) for field, child in sorted(value.items(), reverse=True)]


def scripture(members: Members) -> Iterator[Document]:
    """Paragraphs of a `pythonbible` module's text, joined to documents of about 2,000 characters.

    Brackets around the words that the translators added are undone.
    """
    for name, content in members:
        strings = [
            node.value
            for node in ast.walk(ast.parse(content))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        piece: list[str] = []
        number = 0
        for paragraph in re.sub(r"\[([^][]*)\]", r"\1", max(strings, key=len)).split("\n"):
            piece += [paragraph.strip()] if paragraph.strip() else []
            if sum(map(len, piece)) >= 2000:
                yield Document("\n".join(piece), f"{name}#{number}")
                piece, number = [], number + 1
        if piece:
            yield Document("\n".join(piece), f"{name}#{number}")


def icon_paths(members: Members) -> Iterator[Document]:
    """The path data of one icon a document; icons with a licence of their own are left out."""
    for name, content in members:
        for call in ast.walk(ast.parse(content)):
            if not isinstance(call, ast.Call):
                continue
            fields = {word.arg: word.value for word in call.keywords}
            svg, licence = fields.get("svg"), fields.get("license")
            if not isinstance(svg, ast.Constant) or not (isinstance(licence, ast.Constant) and licence.value is None):
                continue
            text = "\n".join(re.findall(r' d="([^"]*)"', str(svg.value)))
            if len(text) >= 200:
                yield Document(text, f"{name}#{ast.literal_eval(fields['slug'])}")


def distinct(texts: list[str], similarity: float = 0.7, seed: int = 0) -> list[int]:
    """Indices of texts that are no near-duplicate of one kept before.

    MinHash of five-word shingles, 128 hashes in 32 bands of 4 (Broder 1997; Leskovec et al., Mining of Massive
    Datasets, ch. 3): pairs that share a band are compared by their share of equal hashes, which estimates the Jaccard
    index.

    Args:
      texts: in the order in which they are preferred.
      similarity: estimated Jaccard index from which a text is a near-duplicate.
    """
    rng = np.random.default_rng(seed)
    a = rng.integers(1, 2**64, 128, np.uint64) | np.uint64(1)
    b = rng.integers(0, 2**64, 128, np.uint64)
    signatures = np.empty((len(texts), 128), np.uint32)
    buckets: dict[tuple[int, bytes], list[int]] = {}
    kept = []
    word_hash: dict[str, int] = {}
    for i, text in enumerate(texts):
        ids = [word_hash.setdefault(word, len(word_hash)) for word in re.findall(r"\w+", text.lower())]
        words = np.array(ids or [0], np.uint64)
        shingles = np.zeros(max(1, len(words) - 4), np.uint64)
        for offset in range(min(5, len(words))):
            shingles = shingles * np.uint64(0x100000001B3) + words[offset : offset + len(shingles)]
        hashes = np.unique(shingles * np.uint64(0x9E3779B97F4A7C15))
        signatures[i] = ((hashes[:, None] * a + b) >> np.uint64(32)).min(0)
        bands = [(band, signatures[i, 4 * band : 4 * band + 4].tobytes()) for band in range(32)]
        rivals = sorted({j for band in bands for j in buckets.get(band, ())})
        if not rivals or (signatures[rivals] == signatures[i]).mean(1).max() < similarity:
            kept.append(i)
            for band in bands:
                buckets.setdefault(band, []).append(i)
    return kept


def _python(name: str, content: bytes) -> str | None:
    """A source file's text, or None for what is generated, tiny, or not UTF-8."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    generated = re.search(r"(?i)\bgenerated (by|from)\b|auto-?generated", text[:400])
    return None if generated or len(text) < 500 or name.startswith("pydoc_data/") else text.replace("\r\n", "\n")


def _prose(text: str, source: str) -> Iterator[Document]:
    """Paragraphs that read as sentences, those of one source joined to documents of about 1,000 characters."""
    piece: list[str] = []
    number = 0
    for paragraph in re.split(r"\n[ \t]*\n", text):
        joined = " ".join(paragraph.split())
        letters = sum(character.isalpha() or character == " " for character in joined)
        if len(joined) < 80 or letters < 0.9 * len(joined) or ">>>" in joined:
            continue
        piece.append(joined)
        if sum(map(len, piece)) >= 1000:
            yield Document("\n".join(piece), f"{source}#{number}")
            piece, number = [], number + 1
    if piece:
        yield Document("\n".join(piece), f"{source}#{number}")


def _quoted(value: str) -> str:
    """The text of an OBO field such as `"text" EXACT []`."""
    match = re.match(r'"((?:[^"\\]|\\.)*)"', value)
    return match[1].replace('\\"', '"').replace("\\n", " ") if match else value
