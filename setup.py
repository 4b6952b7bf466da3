"""Build the nearest-key kernel, once for each instruction set; the package also installs without a compiler.

Everything else is in pyproject.toml. It cannot express that flags depend on the processor, nor that a wheel has fewer
extras than the checkout: a wheel contains the estimator alone, so extras for other parts would only install their
requirements.
"""

import platform
import re
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel

EXTRAS_OF_THE_WHEEL = {"dask"}

HEADERS = ("arrange", "boxes", "divide", "grid", "product", "scan", "vectors")
LEVELS = {"": [], "_v3": ["-march=x86-64-v3"], "_v4": ["-march=x86-64-v4"]}
ON_X86 = platform.machine() in ("x86_64", "AMD64", "i686")


class Wheel(bdist_wheel):
    """A wheel with the extras of its own content; an installation from source keeps all of them."""

    def run(self) -> None:
        """Build the wheel."""
        self.offered = EXTRAS_OF_THE_WHEEL
        self.distribution.py_modules = []  # dkvb_pipeline looks for the folder beside it
        super().run()

    def egg2dist(self, egginfo_path: str, distinfo_path: str) -> None:
        """Write the metadata, which tools ask for without a wheel too."""
        super().egg2dist(egginfo_path, distinfo_path)
        if hasattr(self, "offered"):
            path = Path(distinfo_path, "METADATA")
            head, blank, body = path.read_text(encoding="utf-8").partition("\n\n")
            lines = [line for line in head.split("\n") if set(extras_of(line)) <= self.offered]
            path.write_text("\n".join(lines) + blank + body, encoding="utf-8")


def extras_of(line: str) -> list[str]:
    """Return the extra that a line of metadata offers, or that it belongs to."""
    return re.findall(r"""(?:^Provides-Extra: |extra == ["'])([\w-]+)""", line)


setup(
    cmdclass={"bdist_wheel": Wheel},
    options={"build_ext": {"parallel": True}},  # one process per core
    ext_modules=[
        Extension(
            f"dkvb_estimator._kernel._kernel{suffix}",
            ["dkvb_estimator/_kernel/nearest.cpp"],
            depends=[f"dkvb_estimator/_kernel/{name}.h" for name in HEADERS],
            extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", "-Wno-psabi", *flags],
            extra_link_args=["-pthread"],
            optional=True,
        )
        for suffix, flags in LEVELS.items()
        if ON_X86 or not flags
    ],
)
