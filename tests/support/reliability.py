"""Record attempts for ``docs/reliability.md``: one line of JSON per test, in the file that DKVB_RELIABILITY names."""

import json
import os
from collections import Counter
from pathlib import Path

TARGET = os.environ.get("DKVB_RELIABILITY")
FILE = Path(TARGET).resolve() if TARGET else None
"""Found before any test changes the current folder."""


def note(group, tried, outcomes):
    """Record how often each outcome occurred; do nothing without a file to write to."""
    if FILE is not None:
        line = {"kind": "test", "group": group, "tried": tried, "outcomes": dict(Counter(outcomes))}
        with FILE.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
