"""Random networks keep every promise; thousands of them with ``make fuzz``."""

import pytest

from fuzz.architectures import check_all


@pytest.mark.slow
def test_a_few_random_networks():
    assert check_all(range(20, 22)) == ""


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, 12, 3))
def test_random_networks(first):
    assert check_all(range(first, first + 3)) == ""
