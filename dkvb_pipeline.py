"""Call the pipeline of this checkout from any folder: ``python -m dkvb_pipeline VERB …`` or ``… stages STAGE …``.

The folder ``pipeline`` is not installed as a package, since a package of that name would collide with others. See
``docs/decisions/0031-how-the-pipeline-is-called-elsewhere.md``.
"""

import os
import runpy
import sys
from pathlib import Path


def main() -> None:
    """Run ``python -m pipeline`` or ``python -m pipeline.stages`` with the rest of the command line."""
    root = str(Path(__file__).resolve().parent)
    sys.path.insert(0, root)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    # Projects that were set up with earlier versions call stages.settings and stages.report.
    stages = len(sys.argv) > 1 and sys.argv[1].split(".")[0] == "stages"
    module = f"pipeline.{sys.argv.pop(1)}" if stages else "pipeline"
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
