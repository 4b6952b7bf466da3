"""The stage that writes one page about all results.

Enters: all that earlier stages measured, and the settings file.
Leaves: one HTML file without external references, byte for byte the same for the same input.
Must not know: how results were measured, models, caches, paths beyond its arguments.
"""

import argparse
import shlex
import shutil
import sys
from pathlib import Path

from pipeline import cli
from pipeline.config import load_params
from pipeline.io import counted, replaced
from pipeline.report import FOLDERS, build_page, read_receipts, read_run, read_search, read_toy

__all__ = ["build_parser", "main", "opener"]

SHOWN = ("runs", "baselines", "searches")
"""Tables of the settings file that the page shows results of."""


def main(arguments: argparse.Namespace) -> None:
    """Read every run of the settings file, write the page and print its path; raise ValueError for a damaged file."""
    params, folders = load_params(arguments.params), {name: getattr(arguments, name) for name in FOLDERS}
    runs = [read_run(name, settings.model_dump(mode="json"), folders) for name, settings in params.runs.items()]
    page = build_page(
        runs,
        searches=[read_search(name, folders) for name in params.searches],
        toy=read_toy(folders),
        receipts=read_receipts(arguments.receipts),
        params=arguments.params.name,
        empty_tables=[table for table in SHOWN if not getattr(params, table)],
    )
    with replaced(arguments.output) as neighbour:  # a reader must never load half a page
        neighbour.write_text(page, encoding="utf-8", newline="\n")
    cli.say("report", f"{counted(len(runs), 'run')} → {arguments.output}")
    page_path, params_path = arguments.output, arguments.params
    print(f"{page_path}: open it with `{opener(page_path)}`; to change a run, edit {params_path} and run `dvc repro`")


def opener(path: Path) -> str:
    """Return the command that opens a page in the browser of this machine.

    Without ``xdg-open`` it is Python's own, which needs the whole address: on some systems a relative path opens
    nothing.
    """
    if sys.platform == "win32":
        return f'start "" "{path}"'
    if command := "open" if sys.platform == "darwin" else shutil.which("xdg-open") and "xdg-open":
        return f"{command} {shlex.quote(str(path))}"
    return f"python -m webbrowser {path.absolute().as_uri()}"


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line: folders, the settings file and the page."""
    parser = argparse.ArgumentParser("python -m pipeline.stages.report", description="Write one page about all runs.")
    for folder in FOLDERS:
        option, text = f"--{folder.replace('_', '-')}", f"folder of {folder.replace('_', ' ')}"
        parser.add_argument(option, type=Path, default=Path(folder), help=text)
    parser.add_argument("--receipts", type=Path, default=Path("forgotten/receipts"), help="folder of receipts")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings file")
    parser.add_argument("--output", type=Path, default=Path("report/index.html"), help="the page to write")
    return cli.guarded(parser, ("--params", "--receipts", *FOLDERS), ("--output",))


if __name__ == "__main__":
    raise SystemExit(cli.run(main, build_parser()))
