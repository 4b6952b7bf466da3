"""The stages: manifest → extract → train → evaluate → report, run from a checkout by ``dvc repro``."""
