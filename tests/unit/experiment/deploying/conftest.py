"""Fixtures of tests of deployments."""

import logging

import pytest


@pytest.fixture
def log():
    """The library's log, which is left as it was."""
    log = logging.getLogger("fedrecon")
    before = log.handlers[:], log.level, log.propagate
    yield log
    for handler in [handler for handler in log.handlers if handler not in before[0]]:
        log.removeHandler(handler)
        handler.close()
    log.setLevel(before[1])
    log.propagate = before[2]
