import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data():
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("MANYMASK_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip("the shared data are not here")
    return folder
