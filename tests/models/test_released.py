"""Which authors' weights can be loaded."""

from __future__ import annotations

import subprocess
import sys

from lipsep.models.released import list_released


def test_what_can_be_loaded_does_not_depend_on_what_was_imported_before() -> None:
    code = "from lipsep.models.released import list_released; print(*list_released())"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert names == list_released() and {"dolphin", "bin_8", "rtfsnet_12"} <= set(names)
