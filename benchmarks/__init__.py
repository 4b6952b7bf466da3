"""One script per claim: a ratio measured in one run, or an accuracy with its spread."""
