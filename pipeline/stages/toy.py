"""The example in the plane: eight classes, two at a time. Which method still recognises the first ones at the end?

Enters: the settings of the example.
Leaves: accuracies after every task (JSON), one figure of decision regions (PNG).
Must not know: caches, runs, paths beyond its arguments.

The problem is that of figure 2 of Träuble et al. (2023), "Discrete Key-Value Bottleneck", ICML: a linear probe and an
MLP learn every task as if it were the only one; the bottleneck writes only to the keys that a task's samples select.
"""

import argparse
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline import cli
from pipeline.config import Method, Toy, load_params
from pipeline.evaluation import GradientClassifier, encode, learn_codes, make_method, place_keys
from pipeline.io import replaced

__all__ = ["CENTRES", "TASKS", "Plane", "ToyResult", "build_parser", "draw_plane", "learn_toy", "main"]

CENTRES = np.array(
    [(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75), (0.75, 0.5), (0.5, 0.75), (0.25, 0.5), (0.5, 0.25)]
)
TASKS = ((0, 4), (1, 5), (2, 6), (3, 7))
N_CLASSES, TEST_ROWS_A_CLASS, KEY_ROWS, GRID = 8, 200, 2000, 100

# One head whose keys are in the plane, which can be drawn, and twenty small ones, as on real features: gaussian, since
# rotations of a plane would give all heads the same keys.
BOTTLENECKS: Mapping[str, Mapping[str, Any]] = {
    "dkvb": {"n_heads": 1, "n_keys": 400, "n_selected": 1, "projection": "identity"},
    "dkvb_20_heads": {"n_heads": 20, "n_keys": 20, "n_selected": 1, "projection": "gaussian"},
}
ENCODER = {"key_dim": 2, "normalize": False, "key_init": "ema"}
SGD: Mapping[str, Any] = {"learning_rate": 0.3, "batch_size": 100}
EPOCHS = {"joint": 1, "ridge": 1, "counts": 1, "sgd": 20}
GRADIENT_METHODS: Mapping[str, Mapping[str, Any]] = {
    "linear_probe": {"hidden": None, "learning_rate": 0.01},
    "mlp": {"hidden": 32, "learning_rate": 0.001},
}
DRAWN = {"linear_probe": "linear probe", "mlp": "MLP, one hidden layer", "dkvb": "DKVB, one head"}


class _Method(Protocol):
    def predict(self, X: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Plane:
    """The points of the example.

    Attributes
    ----------
    tasks : list of tuple of ndarray of shape (n, 2), float32, and ndarray of shape (n,), int64
        Training points and their labels, in the order of the tasks.
    X_test : ndarray of shape (1600, 2), float32
        Test points of all classes.
    y_test : ndarray of shape (1600,), int64
        Their labels.
    key_rows : ndarray of shape (2000, 2), float32
        Uniform points of the unit square, without labels, on which keys are placed.
    """

    tasks: list[tuple[np.ndarray, np.ndarray]]
    X_test: np.ndarray
    y_test: np.ndarray
    key_rows: np.ndarray


@dataclass(frozen=True)
class ToyResult:
    """The results of one method.

    Attributes
    ----------
    accuracy : list of float
        On test points of all eight classes after each task: .25, .5, .75 and 1 where nothing is forgotten.
    regions : list of ndarray of shape (100, 100), int64
        Predicted class over the unit square after each task, rows from below.
    keys : ndarray of shape (j, 2), float32, or None
        Keys of a method whose keys are in the plane.
    used : list of ndarray of shape (j,), bool
        Whether each key was in use after each task; pruning at the end drops the others.
    """

    accuracy: list[float]
    regions: list[np.ndarray]
    keys: np.ndarray | None
    used: list[np.ndarray]


def draw_plane(toy: Toy) -> Plane:
    """Draw the points of a seed; each sample's class is a fair coin between the two of its task.

    Examples
    --------
    >>> plane = draw_plane(Toy())
    >>> [sorted(set(y.tolist())) for _, y in plane.tasks]
    [[0, 4], [1, 5], [2, 6], [3, 7]]
    """
    rng = np.random.default_rng(toy.seed)
    labels = [rng.choice(pair, size=toy.samples_per_task) for pair in TASKS]

    def around(y: np.ndarray) -> np.ndarray:
        return (CENTRES[y] + toy.spread * rng.standard_normal((len(y), 2))).astype(np.float32)

    tasks = [(around(y), y) for y in labels]
    y_test = np.repeat(np.arange(N_CLASSES), TEST_ROWS_A_CLASS)
    return Plane(tasks, around(y_test), y_test, rng.random((KEY_ROWS, 2)).astype(np.float32))


def learn_toy(toy: Toy, plane: Plane) -> dict[str, ToyResult]:
    """Let every method learn the four tasks one after another.

    Returns
    -------
    dict of str to ToyResult
        Linear probe, MLP and both bottlenecks. The bottlenecks do not know the classes in advance.
    """
    results = {}
    for name, kind in GRADIENT_METHODS.items():
        method = GradientClassifier(
            N_CLASSES,
            **kind,
            epochs=toy.steps,
            min_steps=1,
            batch_size=toy.samples_per_task,
            random_state=toy.seed,
        )
        results[name] = _learn(method, plane, GradientClassifier.partial_fit)
    for name, kind in BOTTLENECKS.items():
        encoder = {**kind, **ENCODER, "random_state": toy.seed}
        settings: Method = {"solver": toy.solver, "solver_params": dict(SGD), "encoder": encoder}
        model = place_keys(make_method(settings), plane.key_rows)
        results[name] = _learn(model, plane, _teach)
    return results


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of this stage."""
    return cli.stage_parser(
        "toy",
        "Draw the example in the plane.",
        {
            "--metrics": "JSON file to write: accuracy after every task",
            "--figure": "PNG file to write: decision regions",
        },
        table="toy",
    )


def main(args: argparse.Namespace) -> None:
    """Learn the example and write the files that the arguments name."""
    toy = load_params(args.params).toy or Toy()
    plane = draw_plane(toy)
    results = learn_toy(toy, plane)
    cli.write_json(args.metrics, _metrics(results))
    with replaced(args.figure) as neighbour:
        _draw(neighbour, plane, results)
    finals = ", ".join(f"{name} {result.accuracy[-1]:.3f}" for name, result in results.items())
    cli.say("toy", f"final accuracy: {finals} → {args.figure}")


def _teach(model: Any, X: np.ndarray, y: np.ndarray) -> None:
    learn_codes(model, encode(model, X), y, epochs=EPOCHS[model.solver])


def _learn(method: Any, plane: Plane, learn: Any) -> ToyResult:
    accuracy, regions, used = [], [], []
    for X, y in plane.tasks:
        learn(method, X, y)
        accuracy.append(round(float((method.predict(plane.X_test) == plane.y_test).mean()), 6))
        regions.append(_regions(method))
        if _lies_in_the_plane(method):
            used.append(copy.copy(method.key_counts_[0] > 0))
    return ToyResult(accuracy, regions, method.encoder_.keys_[0] if used else None, used)


def _lies_in_the_plane(method: Any) -> bool:
    return hasattr(method, "encoder_") and method.encoder_.projection == "identity"


def _regions(method: _Method) -> np.ndarray:
    ticks = (np.arange(GRID) + 0.5) / GRID
    points = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2).astype(np.float32)
    return method.predict(points).reshape(GRID, GRID)


def _metrics(results: Mapping[str, ToyResult]) -> dict[str, dict[str, float]]:
    """Return method → final accuracy, the accuracy after each task, and the share of keys that pruning keeps."""
    metrics = {}
    for name, result in results.items():
        numbers = {"final_accuracy": result.accuracy[-1]}
        numbers |= {f"accuracy_after_task_{i}": share for i, share in enumerate(result.accuracy, start=1)}
        if result.used:
            numbers["keys_kept_by_pruning"] = round(float(result.used[-1].mean()), 6)
        metrics[name] = numbers
    return metrics


def _draw(path: Path, plane: Plane, results: Mapping[str, ToyResult]) -> None:
    """Draw methods (rows) after each task (columns): regions, the task's points, keys and those pruned."""
    # Imported here: everything else in this module works without matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.2, 8.9), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(len(DRAWN), len(TASKS), sharex=True, sharey=True)
    for name, row in zip(DRAWN, panels):
        for task, panel in enumerate(row):
            _draw_panel(panel, plane.tasks[task], results[name], task)
        row[0].set_ylabel(DRAWN[name], fontsize=12)
    for panel, classes in zip(panels[0], TASKS):
        panel.set_title("learning classes " + " and ".join(map(str, classes)), fontsize=12)
    legend = panels[-1, -1].get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    # Without the library's version in the file, the same settings give the same bytes.
    canvas.print_png(path, metadata={"Software": None})


def _draw_panel(panel: Any, rows: tuple[np.ndarray, np.ndarray], result: ToyResult, task: int) -> None:
    from matplotlib.colors import ListedColormap

    colours = ["#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb", "#e69f00"]
    X, y = rows
    shown = {"cmap": ListedColormap(colours), "vmin": -0.5, "vmax": N_CLASSES - 0.5}
    panel.imshow(result.regions[task], origin="lower", extent=(0, 1, 0, 1), alpha=0.55, **shown)
    panel.scatter(*X.T, c=y, s=14, edgecolors="black", linewidths=0.5, label="samples of this task", **shown, zorder=3)
    for label, centre in enumerate(CENTRES):
        panel.annotate(str(label), (centre[0], centre[1] + 0.115), ha="center", va="center", fontsize=9)
    if result.keys is not None:
        last = task == len(TASKS) - 1
        used = result.used[task]
        free = ("#b00020", 3.2, "unused keys, pruned at the end") if last else ("#777777", 1.4, "")
        for chosen, (shade, width, name) in ((used, ("#111111", 3.6, "keys in use")), (~used, free)):
            panel.plot(*result.keys[chosen].T, ".", color=shade, markersize=width, label=name, zorder=2)
    share = f"accuracy {100 * result.accuracy[task]:.0f}%"
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2.5}
    panel.text(0.03, 0.03, share, transform=panel.transAxes, fontsize=10, bbox=box, zorder=4)
    panel.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])


if __name__ == "__main__":
    raise SystemExit(cli.run(main, build_parser()))
