"""Latency buckets: small, addable, and true to within a tenth."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from protocol.histogram import GROWTH, SMALLEST_US, bucket, percentile_ms, upper_us


@given(st.floats(SMALLEST_US, 1e9))
def test_a_latency_is_within_a_tenth_of_its_buckets_end(microseconds):
    end = upper_us(bucket(microseconds))
    assert microseconds <= end * 1.0001
    assert end <= microseconds * GROWTH * 1.0001


@given(st.lists(st.floats(SMALLEST_US, 1e8), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_that_of_the_latencies_to_within_a_tenth(latencies, share):
    counts = Counter(bucket(latency) for latency in latencies)
    ordered = sorted(latencies)
    exact = next(value for n, value in enumerate(ordered, 1) if n >= share * len(ordered)) / 1000
    assert exact * 0.999 <= percentile_ms(counts, share) <= exact * GROWTH * 1.001


def test_without_requests_there_is_no_percentile():
    assert percentile_ms({}, 0.5) is None


def test_what_is_too_quick_to_tell_falls_into_the_first_bucket():
    assert bucket(0) == bucket(SMALLEST_US) == 0
