"""The stages: manifest (or folder) → extract (or adopt) → train, rivals, search → evaluate → report, and the toy beside
them, run from a checkout by ``dvc repro``.
"""
