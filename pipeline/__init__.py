"""From images to a report: manifest → extract (or import_cache) → baselines → run, search → report."""
