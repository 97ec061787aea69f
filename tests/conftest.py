"""What all tests share: hypothesis profiles, a clean environment, the test data beside the checkout."""

import inspect
import os
import random
import signal
import socket
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings

SHARED = Path(__file__).resolve().parents[2] / "shared"

# Settings and rights of the person who runs the tests must not change what they see.
for name in [name for name in os.environ if name.startswith("DVIDZARR_") or name == "DVID_ADMIN_TOKEN"]:
    del os.environ[name]

# Programs that are started inherit an ignored SIGINT, of a shell that runs the tests in its background, say: then no
# Ctrl-C would reach them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A loaded machine is slow, its disk above all: that is no fault of a test. Time limits are there to end what hangs.
_PATIENCE_S = 120.0
_DEFAULT = inspect.signature(httpx.get).parameters["timeout"].default
if isinstance(_DEFAULT, httpx.Timeout):
    _DEFAULT.connect = _DEFAULT.read = _DEFAULT.write = _DEFAULT.pool = _PATIENCE_S

# What CI says of a commit is no matter of chance.
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
_CALM = settings(deadline=None, print_blob=True, derandomize=False, suppress_health_check=_SLOW)
settings.register_profile("dev", _CALM, max_examples=50, stateful_step_count=30)
settings.register_profile(
    "ci", _CALM, max_examples=200, stateful_step_count=75, derandomize=True, database=None
)
settings.register_profile("nightly", _CALM, max_examples=1000, stateful_step_count=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real test volumes; skips where it is not there."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("the test data ../shared/data is not beside this checkout")
    return folder


@pytest.fixture
def free_port() -> int:
    """TCP port on 127.0.0.1 that was free a moment ago, and that no system gives to who asks for just any."""
    chance = random.SystemRandom()
    while True:
        with socket.socket() as probe, suppress(OSError):
            port = chance.randrange(12_000, 32_000)
            probe.bind(("127.0.0.1", port))
            return port
