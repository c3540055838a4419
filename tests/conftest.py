"""What a background job of a shell ignores, its children ignore too: tests that send signals need them heard, wherever the suite is started."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)

# how long an example takes is the machine's affair: no test asserts a time
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def pictures_are_kept_elsewhere(tmp_path_factory):
    """Pictures that tests decode are not kept among the user's own, unless a test names a cache."""
    from nearfar.data import pixel_store

    folder = tmp_path_factory.mktemp("cache")
    pixel_store.cache_folder = lambda: Path(os.environ.get("NEARFAR_CACHE", folder))
