"""Tell ``docs/reliability.md`` what was tried: a line of JSON a test, into the file that DKVB_RELIABILITY names."""

import json
import os
from collections import Counter
from pathlib import Path


def note(group, tried, outcomes):
    """Note how often each thing happened; without a file to write to, nothing."""
    if target := os.environ.get("DKVB_RELIABILITY"):
        line = {"kind": "test", "group": group, "tried": tried, "outcomes": dict(Counter(outcomes))}
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
