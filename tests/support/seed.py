"""The seed of everything random in the suite: the same in every run, unless ``KDNS_TEST_SEED`` says which, or ``random``.

``make fuzz`` and ``make soak`` take another one each time.
"""

from __future__ import annotations

import os
import random

_ASKED = os.environ.get("KDNS_TEST_SEED", "1")

IS_RANDOM = _ASKED == "random"
SEED = random.randrange(1, 1 << 30) if IS_RANDOM else int(_ASKED)
