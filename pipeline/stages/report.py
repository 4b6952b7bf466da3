"""The stage that turns measured numbers into one page.

Room: a stage.
Enters: all that earlier stages measured, and the settings file.
Leaves: one HTML file without a single outside reference, byte for byte the same for the same input.
Must not know: how anything was measured, models, caches themselves, where files lie (arguments say so).
"""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from itertools import chain
from pathlib import Path
from string import Template

from pipeline import cli as console
from pipeline import report
from pipeline.config import load_params
from pipeline.io import replaced
from pipeline.report import (
    Folders,
    Markup,
    RunResult,
    SearchResult,
    Toy,
    block,
    element,
    facts,
    findings,
    flat,
    named,
    number_cell,
    ordered,
    read_run,
    read_searches,
    read_toy,
    sections,
    table,
    th,
)

__all__ = ["build_page", "build_parser", "main"]

FOLDERS = tuple(field.name for field in fields(Folders))
SHOWN = ("runs", "baselines", "searches")
"""Tables of the settings file that the page shows results of."""
BLOCKS = (
    sections.tiles,
    sections.curve_block,
    sections.matrix_block,
    sections.metrics_block,
    findings.cost_block,
    findings.prequential_block,
    sections.confusion_block,
    findings.class_block,
    findings.trust_block,
    findings.novelty_block,
    findings.audit_block,
)


def _run_section(run: RunResult, params: str) -> Markup:
    backbone, tasks = run.card.get("backbone", {}), run.matrices["task_classes"]
    weights_license = backbone.get("license", backbone.get("licence", "license unknown"))
    network = f"{backbone.get('id', 'an unnamed network')} ({weights_license})"
    kind = str(run.settings.get("stream", {}).get("kind", "")).replace("_", "-")
    source = f"{run.card.get('dataset', '–')} through {network}, frozen; {kind} stream"
    settings = block("Settings", facts(flat(run.settings)), kind="block card")
    return element(
        "section",
        element("p", f"Run {run.name}", class_="eyebrow"),
        element("h2", sections.headline(run.metrics, len(set(chain.from_iterable(tasks))), len(tasks))),
        element("p", source, class_="note"),
        *(part(run) for part in BLOCKS),
        element("div", sections.keys_block(run), settings, class_="pair"),
        sections.provenance_block(run),
        sections.reproduce_block(run, params),
        id=f"run-{run.name}",
        class_="run",
    )


def _overview(runs: Sequence[RunResult]) -> Markup:
    heads = ordered({head for run in runs for head in run.metrics})
    rows = []
    for run in runs:
        finals = (run.metrics.get(head, {}).get("final_accuracy") for head in heads)
        solver = run.settings.get("method", {}).get("solver", "default")
        kind = str(run.settings.get("stream", {}).get("kind", "–")).replace("_", "-")
        words = (solver, kind, run.card.get("dataset", "–"), run.card.get("backbone", {}).get("id", "–"))
        cells = [*(number_cell(value, "share") for value in finals), *(element("td", word) for word in words)]
        rows.append([th(element("a", run.name, href=f"#run-{run.name}"), scope="row"), *cells])
    titles = [th("run"), *(th(named(head, short=True), kind="number") for head in heads)]
    titles += [th(word) for word in ("solver", "stream", "dataset", "backbone")]
    drawn = table(titles, rows, kind="sortable", caption="Final accuracy of all runs")
    return element("section", element("h2", "Final accuracy of all runs", class_="quiet"), drawn, class_="overview")


def _missing_section(tables: Sequence[str], params: str) -> Markup:
    said = f"{params} has no entries under {', '.join(tables)}, so the page shows none. Add entries and run dvc repro."
    return element("section", element("h2", "Not in this report", class_="quiet"), element("p", said, class_="note"))


def build_page(
    runs: Sequence[RunResult],
    *,
    searches: Sequence[SearchResult] = (),
    toy: Toy | None = None,
    params: str = "params.yaml",
    missing: Sequence[str] = (),
) -> str:
    """Write the whole page as text.

    Parameters
    ----------
    runs : sequence of RunResult
        In the order of the page.
    searches : sequence of SearchResult
        Shown after the runs.
    toy : Toy, optional
        Shown before them.
    params : str
        The settings file's name, as the reader would type it.
    missing : sequence of str
        Tables of the settings file without an entry, which the page names.

    Returns
    -------
    str
        A complete HTML document; the same for the same input.
    """
    texts = (
        Path(report.__file__).with_name(name).read_text(encoding="utf-8") for name in ("template.html", "style.css")
    )
    template, style = texts
    overview = _overview(runs) if runs else Markup("")
    parts = [_missing_section(missing, params)] if missing else []
    parts += [findings.toy_section(toy)] if toy else []
    parts += [_run_section(run, params) for run in runs]
    parts += [findings.search_section(search) for search in searches]
    return Template(template).substitute(style=style.strip(), overview=overview, runs="\n".join(parts))


def main(arguments: argparse.Namespace) -> None:
    """Read every run of the settings file, write the page, and say where it is.

    Parameters
    ----------
    arguments : argparse.Namespace
        What `build_parser` describes.

    Raises
    ------
    FileNotFoundError, ValueError
        As `pipeline.measured.read_run`.
    """
    folders = Folders(**{key: getattr(arguments, key) for key in FOLDERS})
    params = load_params(arguments.params)
    runs = [read_run(name, settings.model_dump(mode="json"), folders) for name, settings in params.runs.items()]
    searches, toy = read_searches(params.searches, folders), read_toy(folders)
    missing = [table for table in SHOWN if not getattr(params, table)]
    page = build_page(runs, searches=searches, toy=toy, params=arguments.params.name, missing=missing)
    with replaced(arguments.output) as neighbour:  # whoever has the page open must never meet half of it
        neighbour.write_text(page, encoding="utf-8", newline="\n")
    console.say("report", f"{len(runs)} runs → {arguments.output}")
    print(f"{arguments.output}: open it in a browser; to change a run, edit {arguments.params} and `dvc repro`")


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line: folders, the settings file and the page."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.stages.report", description="Write one page about all runs."
    )
    for folder in FOLDERS:
        parser.add_argument(f"--{folder}", type=Path, default=Path(folder), help=f"folder of {folder}")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings file")
    parser.add_argument("--output", type=Path, default=Path("report/index.html"), help="the page to write")
    return console.guarded(parser, ("--params", *FOLDERS), ("--output",))


if __name__ == "__main__":
    raise SystemExit(console.run(main, build_parser()))
