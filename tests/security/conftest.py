"""Nothing of the attack suite runs in this process, so it needs a sandbox that holds."""

import shutil

import pytest


@pytest.fixture(scope="session", autouse=True)
def bubblewrap() -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed (apt-get install bubblewrap)")
