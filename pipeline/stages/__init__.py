"""The stages that dvc.yaml runs, one module each: ``python -m pipeline.stages.NAME``."""
