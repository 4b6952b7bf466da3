"""The stages that dvc.yaml runs, one module each: ``python -m pipeline.stages.NAME``."""

import os

# After a product, threads of OpenBLAS wait for the next one in a loop of 2**26 cycles. While another process uses a
# core, many products of small batches then take more than twice as long as with 2**4 cycles, the least that OpenBLAS
# accepts; if all cores are free, nothing is lost. OpenBLAS reads this when NumPy is imported, which happens later.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
