"""Where the original files of MNIST and Fashion-MNIST lie, for tests of the real path."""

import os
from pathlib import Path

TEST_DATA = Path(
    os.environ.get("ROWRNN_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data"
)
