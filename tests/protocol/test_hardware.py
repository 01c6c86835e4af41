"""Hardware classes: the largest tier not above a card's memory."""

import pytest

from protocol.hardware import CLASSES, CUDA_TIERS_GIB, GIB, KINDS, hardware_class


@pytest.mark.parametrize(
    ("kind", "gib", "expected"),
    [
        ("cpu", 64, "cpu"),
        ("opencl", 8, "opencl"),
        ("cuda", 8, "cuda-8g"),
        ("cuda", 23.6, "cuda-24g"),  # sold as 24 GB
        ("cuda", 11, "cuda-8g"),
        ("cuda", 79.2, "cuda-80g"),
        ("cuda", 139.8, "cuda-140g"),
        ("cuda", 1000, "cuda-180g"),
        ("cuda", 2, "cuda-4g"),
    ],
)
def test_the_class_of_a_device(kind, gib, expected):
    assert hardware_class(kind, int(gib * GIB)) == expected


def test_unknown_memory_is_the_smallest_tier():
    assert hardware_class("cuda", None) == "cuda-4g"


def test_every_class_is_listed():
    every = {hardware_class(kind, tier * GIB) for kind in KINDS for tier in CUDA_TIERS_GIB}
    assert every == set(CLASSES)
