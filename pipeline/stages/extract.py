"""The stage that embeds images with a frozen backbone.

Enters: a manifest and the settings of one ``embeddings`` entry. Leaves: a cache, its card, seconds. Must not know: how
images become embeddings, labels' meaning, estimators.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from pipeline import cli
from pipeline.cache import describe_cache, file_sha256
from pipeline.config import load_params
from pipeline.data import Manifest, read_manifest
from pipeline.extraction import Computed, Job, add_blocks, extract, make_job
from pipeline.io import check_files, helpers, share_of_threads
from pipeline.suppression import read_suppression

__all__ = ["build_parser", "main"]


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{name} is {text!r}; expected a whole number, 1 or more. Correct it, or unset it.")
    return int(text)


def _helping(args: argparse.Namespace) -> list[str]:
    """Return the command of a process that helps this one."""
    options = {"params": args.params, "manifest": args.manifest, "output": args.output}
    options |= {"card": args.card, "timings": args.timings}
    command = [
        sys.executable,
        "-m",
        "pipeline.stages.extract",
        args.name,
        "--store-only",
        "--parent",
        str(os.getpid()),
    ]
    return command + [part for name, value in options.items() for part in (f"--{name}", value)]


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of this stage."""
    parser = cli.stage_parser(
        "extract",
        "Embed the images of a manifest with a frozen backbone. Environment variables: DKVB_DEVICE, DKVB_WORKERS, "
        "DKVB_PROCESSES and DKVB_SCRATCH. Kinds of devices differ in the last bits of results.",
        {
            "--manifest": "manifest to read",
            "--output": "cache to write (.h5)",
            "--card": "JSON file to write: the origin of the cache, and its sha256",
            "--timings": "JSON file to write: seconds",
        },
        table="embeddings",
    )
    parser.add_argument(
        "--store-only",
        action="store_true",
        help="only help another process with the same options, which writes the files",
    )
    parser.add_argument("--parent", type=int, help="process that started this helper; the helper ends with it")
    return parser


def main(args: argparse.Namespace) -> None:
    """Extract the entry that the arguments name and write the files that they name."""
    start = time.perf_counter()
    settings = load_params(args.params).embedding(args.name)
    job = make_job(read_manifest(args.manifest), settings)
    _refuse_forgotten(job.manifest)
    check_files([job.weights], [args.output, args.card, args.timings])
    if "-nc" in job.record.license.lower():
        cli.say(f"extract {args.name}", f"the weights of {job.record.id} are licensed {job.record.license}")
    device, number = os.environ.get("DKVB_DEVICE", "auto"), _number("DKVB_PROCESSES", 1)
    workers = _number("DKVB_WORKERS", share_of_threads(number))
    scratch = os.environ.get("DKVB_SCRATCH", ".scratch")
    if args.store_only:
        embedded = add_blocks(job, args.output, scratch, parent=args.parent, device=device, workers=workers)
        cli.say(
            f"extract {args.name}", f"{embedded:,} images added to the store, for the process that writes the cache"
        )
        return
    with helpers(_helping(args), number, device, workers):
        computed = extract(job, args.output, scratch, device=device, workers=workers)
    _report(args, job, computed, time.perf_counter() - start)


def _refuse_forgotten(manifest: Manifest) -> None:
    suppression = read_suppression()
    pairs = zip(manifest.sample_ids, manifest.digests, strict=True) if suppression.hashes else ()
    forgotten = next((sample_id for sample_id, digest in pairs if digest in suppression), None)
    if forgotten is not None:
        raise ValueError(
            f"image {forgotten} of manifest {manifest.dataset} was forgotten; expected a manifest without it. Run "
            "`dvc repro` to list the images again."
        )


def _report(args: argparse.Namespace, job: Job, computed: Computed, seconds: float) -> None:
    card = describe_cache(args.output) | {"file_sha256": file_sha256(args.output)}
    if job.manifest.skipped:
        card["skipped_images"] = list(job.manifest.skipped)
    cli.write_json(args.card, card)
    cli.write_json(args.timings, {"seconds": round(seconds, 3), "images": computed.images})
    known = len(job.manifest.sample_ids) - computed.images
    note = f" ({known:,} already known)" if known else ""
    rate = f", {computed.images / seconds:.0f} images/s" if computed.images else ""
    if len(computed.blocks) > 1:
        *most, last = map(str, computed.blocks)
        rate += f", {len(computed.blocks)} processes computed {', '.join(most)} and {last} blocks"
    cli.say(f"extract {args.name}", f"{computed.images:,} images{note}{rate} → {args.output}")


if __name__ == "__main__":
    raise SystemExit(cli.run(main, build_parser()))
