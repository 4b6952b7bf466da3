"""``python -m fuzz.report RECORD... --output docs/reliability.md``: what was tried to break this, and what happened.

Enters: lines of JSON that tests (DKVB_RELIABILITY), ``python -m fuzz`` and ``python -m fuzz.sanitize`` (``--record``)
wrote. Leaves: a page. Must not know: how anything was tried.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
TITLES = {
    "faults": "Faults",
    "caches": "Damaged files",
    "attacks": "Files made to do harm",
    "concurrency": "Several at once",
}
HOW = """# Reliability

What was tried to break this project, and what happened. The page is made by these commands, and nothing in it is
written by hand. Counts of fuzzing depend on the machine; those of tests do not, except for what a killed run had done
by then.

```
export DKVB_RELIABILITY=reliability.jsonl DKVB_KILLS=20
pytest -n 0 -m "slow or not slow" \\
  tests/io/test_{io_faults,concurrency}.py tests/extraction/test_extract_faults.py \\
  tests/stages/test_killed_repro.py tests/estimator/test_{attacks,bad_input}.py
for target in cache model params manifest kernel; do
  python -m fuzz $target --seconds 900 --record fuzz/records.jsonl
done
python -m fuzz.sanitize --record reliability.jsonl
python -m fuzz.report fuzz/records.jsonl reliability.jsonl --output docs/reliability.md
```

"Error" and "refused" are what is wanted of damaged and of forged files. "Same" and "equal" are a byte that means
nothing: everything that is read is as it was; or a file of scratch that is made again, as one is that is "taken for
none". "Stopped" is HDF5 crashing or not ending, in a process of its own that the test reads in. "From what was kept" is
a run that did not do again what was finished; "refused by DVC" is a file that DVC writes in place (see SECURITY.md).
"""


def read(paths: list[str]) -> list[dict[str, Any]]:
    """Return the records of all files, in order."""
    return [json.loads(line) for path in paths for line in Path(path).read_text(encoding="utf-8").splitlines()]


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def tested(records: list[dict[str, Any]], group: str) -> str:
    """Return the table of one group of tests."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        if record["kind"] == "test" and record["group"] == group:
            found[record["tried"]].update(record["outcomes"])
    rows = [
        [tried, f"{sum(outcomes.values()):,}", ", ".join(f"{n:,} × {what}" for what, n in outcomes.most_common())]
        for tried, outcomes in found.items()
    ]
    return table(["tried", "times", "what happened"], rows)


def bad_inputs(records: list[dict[str, Any]]) -> str:
    """Return how many wrong inputs ended in which exception."""
    kinds: Counter[str] = Counter()
    for record in records:
        if record["kind"] == "test" and record["group"] == "bad input":
            kinds.update(record["outcomes"])
    said = ", ".join(f"{n} × `{kind}`" for kind, n in kinds.most_common())
    return (
        f"{sum(kinds.values())} wrong inputs over estimator, pipeline and files, each with its exception and a message "
        f"that says what came, what is expected and what to do: {said}. The list is `tests/support/bad_inputs.py`.\n"
    )


def fuzzed(records: list[dict[str, Any]]) -> str:
    """Return the table of all fuzzing, runs of one target added up."""
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    unbroken: Counter[str] = Counter()
    for record in records:
        if record["kind"] == "fuzz":
            target, n_findings = record["target"], len(record["findings"])
            row = {"executions": record["executions"], "stops": record["stops"], "findings": n_findings}
            totals[target].update(row)
            unbroken[target] = max(unbroken[target], 0 if n_findings else record["seconds"])
    rows = [
        [
            target,
            *(f"{total[name]:,}" for name in ("executions", "stops", "findings")),
            f"{unbroken[target]:,}",
            ", ".join(f"`{path.name}`" for path in sorted((CORPUS / target).glob("*"))) or "–",
        ]
        for target, total in totals.items()
    ]
    head = ["target", "inputs executed", "stops in HDF5", "findings", "longest run without one, seconds"]
    return table([*head, "kept in `fuzz/corpus`"], rows)


def sanitized(records: list[dict[str, Any]]) -> str:
    """Return the table of the kernel's builds."""
    rows = [
        [record["build"], f"{record['problems']:,}", "clean" if record["code"] == 0 else record["said"][:200]]
        for record in records
        if record["kind"] == "sanitizer"
    ]
    return table(["build", "problems", "AddressSanitizer and UndefinedBehaviorSanitizer"], rows)


def page(records: list[dict[str, Any]]) -> str:
    """Return the whole page."""
    parts = [HOW, *(f"## {title}\n\n{tested(records, group)}" for group, title in TITLES.items())]
    fuzzing = (
        "Coverage-guided by atheris, for the Python side; the kernel's inner loops are compiled, so its shapes and "
        "numbers are drawn rather than guided. A target stops at its first finding. Each finding is settled by mending "
        "what was wrong or by stating the promise more exactly, and its input is kept and tried in every run of the "
        "tests (`tests/kernel/test_fuzz.py`); kept are those of shorter runs too, which are not counted here."
    )
    parts += [f"## Bad input\n\n{bad_inputs(records)}", f"## Fuzzing\n\n{fuzzing}\n\n{fuzzed(records)}"]
    return "\n".join([*parts, f"## The kernel\n\n{sanitized(records)}"])


def main() -> None:
    """Read records, write the page."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.report", description="Write the page on reliability.")
    parser.add_argument("records", nargs="+")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    Path(arguments.output).write_text(page(read(arguments.records)), encoding="utf-8")


if __name__ == "__main__":
    main()
