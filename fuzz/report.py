"""``python -m fuzz.report RECORD... --output docs/reliability.md``: report the attempts to break the project.

Enters: lines of JSON that tests (DKVB_RELIABILITY), ``python -m fuzz`` and ``python -m fuzz.sanitize`` (``--record``)
wrote. Leaves: a page. Must not know: how the attempts were made.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from benchmarks.pages import fill, table

CORPUS = Path(__file__).parent / "corpus"
TITLES = {
    "faults": "Faults",
    "caches": "Damaged files",
    "attacks": "Malicious files",
    "concurrency": "Concurrency",
}
HOW = """# Reliability

This page lists the attempts to break this project and their outcomes. These commands write the whole page. The number
of fuzzing inputs depends on the machine. The numbers of tests do not, except for how far a killed run had come.

```
rm -f reliability.jsonl fuzz/records.jsonl
export DKVB_RELIABILITY=reliability.jsonl DKVB_KILLS=20
pytest -n 0 -m "slow or not slow" \\
  tests/io/test_{io_faults,concurrency}.py tests/extraction/test_extract_faults.py \\
  tests/stages/test_killed_repro.py tests/estimator/test_{attacks,bad_input}.py
for target in cache model params manifest kernel; do
  python -m fuzz $target --seconds 600 --record fuzz/records.jsonl
done
python -m fuzz.sanitize --record reliability.jsonl
python -m fuzz.report fuzz/records.jsonl reliability.jsonl --output docs/reliability.md
```

"Error" and "refused" are the intended outcomes for damaged and forged files. "Same" and "equal" mean that the changed
byte has no meaning and everything is read unchanged, or that a scratch file was made again. "Taken for none" means that
a damaged scratch file was ignored and made again. "Stopped" means that HDF5 crashed or hung, in the separate process in
which the test reads. "From what was kept" means that a run did not repeat finished work. "Refused by DVC" concerns a
file that DVC writes in place (see SECURITY.md).

<!-- attempts -->
<!-- end -->
"""


def read(paths: list[str]) -> list[dict[str, Any]]:
    """Return the records of all files, in order."""
    return [json.loads(line) for path in paths for line in Path(path).read_text(encoding="utf-8").splitlines()]


def tested(records: list[dict[str, Any]], group: str) -> str:
    """Return the table of one group of tests, which must have been recorded."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        if record["kind"] == "test" and record["group"] == group:
            found[record["tried"]].update(record["outcomes"])
    if not found:
        raise ValueError(f"the records have no test of {group!r}; expected those of all commands. Run them.")
    rows = [
        [tried, f"{sum(outcomes.values()):,}", ", ".join(f"{n:,} × {what}" for what, n in outcomes.most_common())]
        for tried, outcomes in found.items()
    ]
    return table(["tried", "times", "what happened"], rows)


def bad_inputs(records: list[dict[str, Any]]) -> str:
    """Return the number of wrong inputs by exception."""
    kinds: Counter[str] = Counter()
    for record in records:
        if record["kind"] == "test" and record["group"] == "bad input":
            kinds.update(record["outcomes"])
    said = ", ".join(f"{n} × `{kind}`" for kind, n in kinds.most_common())
    return (
        f"{sum(kinds.values())} wrong inputs to estimator, pipeline and files. Each raises an exception whose message "
        f"says what is wrong, what is expected and what to do: {said}. The list is `tests/support/bad_inputs.py`."
    )


def fuzzed(records: list[dict[str, Any]]) -> str:
    """Return the table of all fuzzing; runs of the same target are added up."""
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


def attempts(records: list[dict[str, Any]]) -> str:
    """Return everything that the page says about the attempts."""
    parts = [f"## {title}\n\n{tested(records, group)}" for group, title in TITLES.items()]
    fuzzing = (
        "The Python side is fuzzed with atheris, guided by coverage. The kernel's inner loops are compiled, so its "
        "shapes and numbers are drawn at random. A target stops at its first finding. Each finding is resolved by "
        "a fix or by a more exact promise. Its input is kept, and every run of the tests tries it again "
        "(`tests/kernel/test_fuzz.py`). The kept inputs include those of shorter runs, which are not counted here."
    )
    kernel = "Of the builds for several instruction sets, those that the machine can run solve random problems."
    parts += [f"## Bad input\n\n{bad_inputs(records)}", f"## Fuzzing\n\n{fuzzing}\n\n{fuzzed(records)}"]
    return "\n\n".join([*parts, f"## The kernel\n\n{kernel}\n\n{sanitized(records)}"])


def main() -> None:
    """Read the records and write the page, with the stamp of ``benchmarks.stale``."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.report", description="Write the page on reliability.")
    parser.add_argument("records", nargs="+")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    Path(arguments.output).write_text(HOW, encoding="utf-8")
    fill(Path(arguments.output), {"attempts": attempts(read(arguments.records))})


if __name__ == "__main__":
    main()
