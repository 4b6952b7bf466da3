"""The stage that shows the idea in the plane: eight classes, two at a time; who still knows the first ones?

Room: a stage; beside `report` the only place that draws.
Enters: the settings of the toy.
Leaves: accuracies after every stage (JSON), one figure of decision regions (PNG).
Must not know: caches, runs, paths beyond its arguments.

The problem is that of figure 2 of Träuble et al. (2023), "Discrete Key-Value Bottleneck", ICML: a linear probe and an
MLP take every stage as if there were no other; the bottleneck writes to the keys that a stage's samples touch.
"""

import argparse
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from sklearn.frozen import FrozenEstimator

from dkvb_estimator import DKVBClassifier, KeyEncoder
from pipeline import cli as console
from pipeline.config import Toy, load_params
from pipeline.evaluation import StreamProbe
from pipeline.io import replaced

__all__ = ["CENTRES", "STAGES", "Course", "Plane", "build_parser", "draw_plane", "learn_toy", "main"]

CENTRES = np.array(
    [(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75), (0.75, 0.5), (0.5, 0.75), (0.25, 0.5), (0.5, 0.25)]
)
STAGES = ((0, 4), (1, 5), (2, 6), (3, 7))
N_CLASSES, TEST_ROWS_A_CLASS, KEY_ROWS, GRID = 8, 200, 2000, 100

# One head whose keys lie in the plane, which can be drawn, and twenty small ones, as on real features: gaussian, since
# rotations of a plane would give all heads the same keys.
BOTTLENECKS: Mapping[str, Mapping[str, Any]] = {
    "dkvb": {"n_heads": 1, "n_keys": 400, "n_selected": 1, "projection": "identity"},
    "dkvb_20_heads": {"n_heads": 20, "n_keys": 20, "n_selected": 1, "projection": "gaussian"},
}
SGD = {"learning_rate": 0.3, "batch_size": 100, "partial_fit_epochs": 20}
PROBES: Mapping[str, Mapping[str, Any]] = {
    "linear_probe": {"hidden": None, "learning_rate": 0.01},
    "mlp": {"hidden": 32, "learning_rate": 0.001},
}
DRAWN = {"linear_probe": "linear probe", "mlp": "MLP, one hidden layer", "dkvb": "DKVB, one head"}


class _Head(Protocol):
    def predict(self, X: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Plane:
    """Rows of the toy.

    Attributes
    ----------
    stages : list of tuple of ndarray (n,2) float32, (n,) int64
        Training points and labels, in the order of the stages.
    X_test, y_test : ndarray (1600,2) float32, (1600,) int64
        Fresh points of all classes.
    key_rows : ndarray (2000,2) float32
        Uniform points of the unit square, without labels: where keys come from.
    """

    stages: list[tuple[np.ndarray, np.ndarray]]
    X_test: np.ndarray
    y_test: np.ndarray
    key_rows: np.ndarray


@dataclass(frozen=True)
class Course:
    """What one head did.

    Attributes
    ----------
    accuracy : list of float
        On test points of all eight classes after each stage: .25, .5, .75 and 1 where nothing is forgotten.
    regions : list of ndarray (100,100) int64
        Predicted class over the unit square after each stage, rows from below.
    keys : ndarray (j,2) float32 or None
        Of a head whose keys lie in the plane.
    used : list of ndarray (j,) bool
        Keys that learning had touched after each stage; pruning at the end drops the others.
    """

    accuracy: list[float]
    regions: list[np.ndarray]
    keys: np.ndarray | None
    used: list[np.ndarray]


def draw_plane(toy: Toy) -> Plane:
    """Draw the points of a seed; each sample's class is a fair coin between the two of its stage.

    Examples
    --------
    >>> plane = draw_plane(Toy())
    >>> [sorted(set(y.tolist())) for _, y in plane.stages]
    [[0, 4], [1, 5], [2, 6], [3, 7]]
    """
    rng = np.random.default_rng(toy.seed)
    labels = [rng.choice(pair, size=toy.samples_per_stage) for pair in STAGES]

    def around(y: np.ndarray) -> np.ndarray:
        return (CENTRES[y] + toy.spread * rng.standard_normal((len(y), 2))).astype(np.float32)

    stages = [(around(y), y) for y in labels]
    y_test = np.repeat(np.arange(N_CLASSES), TEST_ROWS_A_CLASS)
    return Plane(stages, around(y_test), y_test, rng.random((KEY_ROWS, 2)).astype(np.float32))


def learn_toy(toy: Toy, plane: Plane) -> dict[str, Course]:
    """Let every head learn the four stages one after another.

    Returns
    -------
    dict of str to Course
        Linear probe, MLP, and both bottlenecks; classes are not announced to the latter.
    """
    courses = {}
    for name, kind in PROBES.items():
        probe = StreamProbe(
            N_CLASSES,
            **kind,
            standardise=False,
            epochs=toy.steps,
            min_steps=1,
            batch_size=toy.samples_per_stage,
            random_state=toy.seed,
        )
        courses[name] = _learn(probe, plane, StreamProbe.partial_fit)
    for name, kind in BOTTLENECKS.items():
        encoder = KeyEncoder(**kind, key_dim=2, normalize=False, key_init="ema", random_state=toy.seed)
        steps = SGD if toy.solver == "sgd" else None
        frozen = FrozenEstimator(encoder.fit(plane.key_rows))
        model = DKVBClassifier(frozen, solver=toy.solver, solver_params=steps)
        courses[name] = _learn(model, plane, DKVBClassifier.partial_fit)
    return courses


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of this stage."""
    return console.stage_parser(
        "toy",
        "Show the idea in the plane.",
        {
            "--metrics": "JSON file to write: accuracy after every stage",
            "--figure": "PNG file to write: decision regions",
        },
    )


def main(args: argparse.Namespace) -> None:
    """Learn the toy and write the files that the arguments name."""
    toy = load_params(args.params).toy
    plane = draw_plane(toy)
    courses = learn_toy(toy, plane)
    console.write_json(args.metrics, _metrics(courses))
    with replaced(args.figure) as neighbour:
        _draw(neighbour, plane, courses)
    finals = ", ".join(f"{name} {course.accuracy[-1]:.3f}" for name, course in courses.items())
    console.say("toy", f"final accuracy: {finals} → {args.figure}")


def _learn(head: Any, plane: Plane, learn: Any) -> Course:
    accuracy, regions, used = [], [], []
    for X, y in plane.stages:
        learn(head, X, y)
        accuracy.append(round(float((head.predict(plane.X_test) == plane.y_test).mean()), 6))
        regions.append(_regions(head))
        if _lies_in_the_plane(head):
            used.append(copy.copy(head.key_counts_[0] > 0))
    return Course(accuracy, regions, head.encoder_.keys_[0] if used else None, used)


def _lies_in_the_plane(head: Any) -> bool:
    return isinstance(head, DKVBClassifier) and head.encoder_.projection == "identity"


def _regions(head: _Head) -> np.ndarray:
    ticks = (np.arange(GRID) + 0.5) / GRID
    points = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2).astype(np.float32)
    return head.predict(points).reshape(GRID, GRID)


def _metrics(courses: Mapping[str, Course]) -> dict[str, dict[str, float]]:
    """Return head → final accuracy, the accuracy after each stage, and the share of keys that pruning keeps."""
    metrics = {}
    for name, course in courses.items():
        numbers = {"final_accuracy": course.accuracy[-1]}
        numbers |= {f"accuracy_after_stage_{i}": share for i, share in enumerate(course.accuracy, start=1)}
        if course.used:
            numbers["keys_kept_by_pruning"] = round(float(course.used[-1].mean()), 6)
        metrics[name] = numbers
    return metrics


def _draw(path: Path, plane: Plane, courses: Mapping[str, Course]) -> None:
    """Draw heads (rows) after each stage (columns): regions, the stage's points, keys and those pruned."""
    # Imported here: everything else of this stage works without a drawing library, and none of it waits for one.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.2, 8.9), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(len(DRAWN), len(STAGES), sharex=True, sharey=True)
    for name, row in zip(DRAWN, panels):
        for stage, panel in enumerate(row):
            _draw_panel(panel, plane.stages[stage], courses[name], stage)
        row[0].set_ylabel(DRAWN[name], fontsize=12)
    for panel, classes in zip(panels[0], STAGES):
        panel.set_title("learning classes " + " and ".join(map(str, classes)), fontsize=12)
    legend = panels[-1, -1].get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    # Without the library's version inside, the same settings give the same bytes.
    canvas.print_png(path, metadata={"Software": None})


def _draw_panel(panel: Any, rows: tuple[np.ndarray, np.ndarray], course: Course, stage: int) -> None:
    from matplotlib.colors import ListedColormap

    colours = ["#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb", "#e69f00"]
    X, y = rows
    shown = {"cmap": ListedColormap(colours), "vmin": -0.5, "vmax": N_CLASSES - 0.5}
    panel.imshow(course.regions[stage], origin="lower", extent=(0, 1, 0, 1), alpha=0.55, **shown)
    panel.scatter(*X.T, c=y, s=14, edgecolors="black", linewidths=0.5, label="this stage's samples", **shown, zorder=3)
    for label, centre in enumerate(CENTRES):
        panel.annotate(str(label), (centre[0], centre[1] + 0.115), ha="center", va="center", fontsize=9)
    if course.keys is not None:
        last = stage == len(STAGES) - 1
        used = course.used[stage]
        free = ("#b00020", 3.2, "keys never used, pruned at the end") if last else ("#777777", 1.4, "")
        for chosen, (shade, width, name) in ((used, ("#111111", 3.6, "keys in use")), (~used, free)):
            panel.plot(*course.keys[chosen].T, ".", color=shade, markersize=width, label=name, zorder=2)
    share = f"{100 * course.accuracy[stage]:.0f}% of all eight"
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2.5}
    panel.text(0.03, 0.03, share, transform=panel.transAxes, fontsize=10, bbox=box, zorder=4)
    panel.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])


if __name__ == "__main__":
    raise SystemExit(console.run(main, build_parser()))
