"""What all simulations share."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Recovery has much to say about so many crashes."""
    logger = logging.getLogger("dvidzarr")
    logger.disabled, before = True, logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.disabled = False
    logger.setLevel(before)
