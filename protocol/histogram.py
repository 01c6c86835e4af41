"""Latency counts in buckets that grow by a tenth, so that many processes can add up one distribution in a Redis hash.

Fields of that hash: `requests`, `errors`, and `l<bucket>` per latency bucket.
"""

from math import ceil, log

GROWTH = 1.1
SMALLEST_US = 10


def bucket(microseconds: float) -> int:
    return max(0, ceil(log(max(microseconds, SMALLEST_US) / SMALLEST_US, GROWTH)))


def upper_us(bucket: int) -> float:
    return SMALLEST_US * GROWTH**bucket


def percentile_ms(counts: dict[int, int], share: float) -> float | None:
    """The latency (ms) that `share` (0..1) of the requests did not exceed, to within a tenth; None without requests."""
    total = sum(counts.values())
    seen = 0
    for number in sorted(counts):
        seen += counts[number]
        if seen >= share * total:
            return upper_us(number) / 1000
    return None
