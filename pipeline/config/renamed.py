"""Former names of settings: an error for an old file gives the new name instead of the nearest one.

Enters: tables as they were read. Leaves: nothing, or an error. Must not know: records, values.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["refuse_old_names"]

TABLES = {"rivals": "baselines"}
SETTINGS = {
    "embeddings": {"tap": "layer"},
    "streams": {"classes_per_stage": "classes_per_task", "n_stages": "n_tasks"},
    "baselines": {"heads": "methods"},
    "runs": {"rivals": "baselines", "epochs_per_stage": "epochs_per_task", "estimator": "method"},
    "searches": {"estimator": "method"},
}
BACKBONE = {"crop_ratio": "crop_pct", "fixed_side": "fixed_input_size", "licence": "license"}
ENCODER = (
    "n_heads",
    "n_keys",
    "key_dim",
    "n_selected",
    "normalize",
    "projection",
    "density",
    "key_init",
    "random_state",
)
"""Settings of a method's encoder."""
STEPS = ("learning_rate", "batch_size", "label_smoothing", "clip_norm", "max_iter")
"""Settings of gradient steps."""


def refuse_old_names(tree: Mapping[str, Any]) -> None:
    """Raise ValueError for the first table or setting that has been renamed."""
    for old, new in TABLES.items():
        if old in tree:
            raise ValueError(f"{old} is now {new}; expected the new name. Rename the table.")
    if "folders" in tree:
        raise ValueError(
            "folders is now part of datasets; expected its entries there. Move each to datasets and add kind: folder."
        )
    for table, names in SETTINGS.items():
        for entry, settings in _mappings(tree.get(table)):
            _refuse(f"{table}.{entry}", settings, names)
            if settings.get("key_rows") == "first_stage":
                raise ValueError(
                    f"{table}.{entry}.key_rows: first_stage is now first_task; expected the new name. Rename it."
                )
            _refuse_flat_method(f"{table}.{entry}.method", settings.get("method"))
            if isinstance(backbone := settings.get("backbone"), Mapping):
                _refuse(f"{table}.{entry}.backbone", backbone, BACKBONE)
    if isinstance(toy := tree.get("toy"), Mapping):
        _refuse("toy", toy, {"samples_per_stage": "samples_per_task"})


def _mappings(table: Any) -> list[tuple[str, Mapping[str, Any]]]:
    return [item for item in table.items() if isinstance(item[1], Mapping)] if isinstance(table, Mapping) else []


def _refuse(place: str, settings: Mapping[str, Any], names: Mapping[str, str]) -> None:
    for old, new in names.items():
        if old in settings:
            raise ValueError(f"{place}.{old} is now {new}; expected the new name. Rename the setting.")


def _refuse_flat_method(place: str, method: Any) -> None:
    for name in method if isinstance(method, Mapping) else ():
        if name in ENCODER:
            raise ValueError(
                f"{place}.{name} is now a setting of the encoder; expected it under {place}.encoder. Move it there."
            )
        if name in STEPS:
            raise ValueError(
                f"{place}.{name} is now a setting of gradient steps; expected it under {place}.solver_params. "
                "Move it there."
            )
