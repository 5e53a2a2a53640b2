"""The units that several rooms name, and numbers as people write them."""

import re

PERPLEXITY = ("perplexity", "log-perplexity", "bits-per-byte")  # of a chunk's score, and of its mean and spread

_POWERS = {"k": 3, "m": 6, "b": 9, "g": 9, "t": 12, "%": -2}
_WRITTEN = re.compile(r"([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([kmbgt%])", re.IGNORECASE)


def number(text: str) -> float:
    """The number that a text is: 7e9, 7B, 2.1B, 160M, 512k, 30%, in either case.

    Raises:
      ValueError: it is no number.
    """
    text = text.strip()
    if (written := _WRITTEN.fullmatch(text)) is None:
        return float(text)
    digits, power = written[1].lower().replace("_", ""), _POWERS[written[2].lower()]
    if "e" in digits:
        return float(digits) * 10.0**power
    return float(f"{digits}e{power}")  # exact, which 2.3 * 1e9 is not always
