"""What all tests share: hypothesis profiles, a clean environment, the test data beside the checkout."""

import os
import signal
import socket
from pathlib import Path

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

# A loaded machine is slow: that is no fault of a test.
_CALM = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", _CALM, max_examples=50, stateful_step_count=30)
settings.register_profile("ci", _CALM, max_examples=200, stateful_step_count=75)
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
    """TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
