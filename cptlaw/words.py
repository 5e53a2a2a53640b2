"""Numbers in words, as answers, warnings and reports say them."""


def percent(share: float) -> str:
    """A share in words: 7.5%, 72%."""
    digits = 1 if 0 < 100 * min(share, 1 - share) < 10 else 0
    text = f"{100 * share:.{digits}f}"
    return (text.removesuffix(".0")) + "%"


def spread(low: float, high: float) -> str:
    """An interval of shares in words, with a decimal where it is narrow."""
    if high - low < 0.02:
        return f"{100 * low:.1f}% to {100 * high:.1f}%"
    return f"{percent(low)} to {percent(high)}"


def count(value: float) -> str:
    """A count in words: 160M, 1.5B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def nats(loss: float, digits: int = 3) -> str:
    """A loss in words. A law far outside its rows can say anything; no token costs 100 nats."""
    return f"{loss:.{digits}f}" if loss < 100 else "over 100"
