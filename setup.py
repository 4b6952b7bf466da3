"""Build the kernel of nearest keys, once for each instruction set; without a compiler the package installs as well.

Everything else stands in pyproject.toml, which cannot say that flags depend on the processor.
"""

import platform

from setuptools import Extension, setup

LEVELS = {"": [], "_v3": ["-march=x86-64-v3"], "_v4": ["-march=x86-64-v4"]}
ON_X86 = platform.machine() in ("x86_64", "AMD64", "i686")

setup(
    ext_modules=[
        Extension(
            f"dkvb_estimator._kernel{suffix}",
            ["dkvb_estimator/_nearest.cpp"],
            depends=[f"dkvb_estimator/_{name}.h" for name in ("arrange", "boxes", "product", "scan", "vectors")],
            extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", "-Wno-psabi", *flags],
            extra_link_args=["-pthread"],
            optional=True,
        )
        for suffix, flags in LEVELS.items()
        if ON_X86 or not flags
    ]
)
