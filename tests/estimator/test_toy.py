"""The toy example of the paper's figure 2: eight classes in the plane, two per task.

Classifiers trained by gradient steps forget; the bottleneck does not.

Known values of the original code over 1,600 fresh points of all classes after each task: linear probe and MLP .25
every time; one head of 400 keys .25 / .50 / .75 / .99; twenty heads of 20 keys .25 / .50 / .75 / .997.
"""

import io
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from models import by_codes, codes_of, flat, placed
from PIL import Image

from pipeline import cli
from pipeline.config import Toy
from pipeline.stages import toy as stage
from pipeline.stages.toy import TASKS, draw_plane, learn_toy

SEEDS = (0, 1, 2)
every_seed = pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS[1:])])
BOTTLENECKS = {
    "A": {"n_heads": 1, "n_keys": 400, "n_selected": 1, "projection": "identity"},
    "B": {"n_heads": 20, "n_keys": 20, "n_selected": 1, "projection": "gaussian"},
}
LAST = {"A": 0.985, "B": 0.99}
"""Lower bound of the accuracy after the last task."""
OF_ONE_HEAD = [0.25, 0.5, 0.74, 0.86]
"""Accuracy of the regression with the four functions of a single head, which are too few for eight classes."""
SOLVERS = {
    "joint": {},
    "ridge": {},
    "counts": {},
    "sgd": {"learning_rate": 0.3, "batch_size": 100, "partial_fit_epochs": 20},
}
"""Settings, including epochs per task."""
SEPARATING = [
    (solver, bottleneck) for solver in SOLVERS for bottleneck in BOTTLENECKS if (solver, bottleneck) != ("ridge", "A")
]


def draw_toy(seed):
    """Return four tasks of 100 samples, with random classes of the task; 1,600 test points; uniform points for keys."""
    plane = draw_plane(Toy(seed=seed))
    return plane.tasks, (plane.X_test, plane.y_test), plane.key_rows


def accuracies(solver, bottleneck, seed, key_init="ema"):
    """Return the accuracy over all eight classes after each task; classes are not declared."""
    stages, (X_test, y_test), square = draw_toy(seed)
    shape = BOTTLENECKS[bottleneck] | {"key_dim": 2, "normalize": False, "key_init": key_init}
    model = placed(flat(**shape, **SOLVERS[solver], solver=solver, random_state=seed), square)
    found = []
    for X, y in stages:
        by_codes(model, "partial_fit", codes_of(model, X), y)
        found.append(model.score(X_test, y_test))
    return found


@every_seed
@pytest.mark.parametrize(("solver", "bottleneck"), SEPARATING)
def test_each_stage_adds_its_quarter_and_none_is_forgotten(solver, bottleneck, seed):
    found = accuracies(solver, bottleneck, seed)
    np.testing.assert_allclose(found[:3], [0.25, 0.5, 0.75], atol=0.01)
    assert found[3] >= LAST[bottleneck]


@every_seed
@pytest.mark.parametrize("key_init", ["ema", "kmeans", "ema-faithful"])
def test_regression_on_one_head_forgets_nothing_either(key_init, seed):
    np.testing.assert_array_less(np.array(OF_ONE_HEAD) - 0.02, accuracies("ridge", "A", seed, key_init))


@every_seed
@pytest.mark.parametrize(("solver", "bottleneck"), [pair for pair in SEPARATING if pair[0] != "sgd"])
@pytest.mark.parametrize("key_init", ["kmeans", "ema-faithful"])
def test_keys_placed_otherwise_reach_the_same(key_init, solver, bottleneck, seed):
    found = accuracies(solver, bottleneck, seed, key_init)
    np.testing.assert_allclose(found[:3], [0.25, 0.5, 0.75], atol=0.01)
    assert found[3] >= LAST[bottleneck]


@every_seed
@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_sgd_with_the_papers_keys_reaches_the_same(bottleneck, seed):
    found = accuracies("sgd", bottleneck, seed, "ema-faithful")
    np.testing.assert_allclose(found[:3], [0.25, 0.5, 0.75], atol=0.01)
    assert found[3] >= LAST[bottleneck]


def layer(n_in, n_out, generator):
    """Return weights and bias of one layer for all seeds (s, in, out), drawn like torch does."""
    shapes, bound = [(len(SEEDS), n_in, n_out), (len(SEEDS), 1, n_out)], n_in**-0.5
    return [torch.empty(shape).uniform_(-bound, bound, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.slow
@pytest.mark.parametrize(("widths", "learning_rate"), [((2, 8), 0.01), ((2, 32, 8), 0.001)], ids=["probe", "mlp"])
def test_a_gradient_head_keeps_the_last_stage_alone(widths, learning_rate):
    """Adam with 1,000 full-batch steps per task on unscaled points, like ``GradientClassifier`` without a scale."""
    toys = [draw_toy(seed) for seed in SEEDS]
    generator = torch.Generator().manual_seed(0)
    layers = [layer(*pair, generator) for pair in pairwise(widths)]

    def logits(rows):
        for weight, bias in layers[:-1]:
            rows = torch.relu(rows @ weight + bias)
        return rows @ layers[-1][0] + layers[-1][1]

    X_test = torch.from_numpy(np.stack([test[0] for _, test, _ in toys]))
    for number in range(len(TASKS)):
        X, y = (torch.from_numpy(np.stack([stages[number][part] for stages, *_ in toys])) for part in (0, 1))
        optimiser = torch.optim.Adam([part for pair in layers for part in pair], lr=learning_rate)
        for _ in range(1000):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(logits(X).flatten(0, 1), y.flatten(), reduction="sum").div(100).backward()
            optimiser.step()
        assert (logits(X).argmax(dim=2) == y).float().mean() > 0.99
        accuracy = (logits(X_test).argmax(dim=2).numpy() == toys[0][1][1]).mean(axis=1)
        np.testing.assert_array_less(accuracy, 0.27)
        np.testing.assert_array_less(0.24, accuracy)


# The DVC stage, with fewer points and steps than by default.

QUICK = Toy(samples_per_task=40, steps=150)


@pytest.fixture(scope="module")
def results():
    return learn_toy(QUICK, draw_plane(QUICK))


def test_the_stage_shows_who_forgets(results):
    assert list(results) == ["linear_probe", "mlp", "dkvb", "dkvb_20_heads"]
    for name in ("linear_probe", "mlp"):
        assert max(results[name].accuracy) < 0.4
    for name in ("dkvb", "dkvb_20_heads"):
        np.testing.assert_allclose(results[name].accuracy, [0.25, 0.5, 0.75, 1.0], atol=0.03)


def test_keys_in_use_never_fall_out_of_use(results):
    used = results["dkvb"].used
    assert len(used) == 4
    assert all((before <= after).all() for before, after in pairwise(used))
    assert results["dkvb"].keys.shape == (400, 2)
    assert results["dkvb_20_heads"].keys is None


def test_regions_are_rows_from_below(results):
    last = results["dkvb"].regions[-1]
    assert last.shape == (100, 100)
    assert [last[25, 25], last[25, 75], last[75, 75], last[75, 25]] == [0, 1, 2, 3]


@pytest.mark.slow
def test_the_stage_writes_numbers_and_one_figure_of_twelve_panels_with_the_same_bytes_again(tmp_path, capsys):
    (tmp_path / "params.yaml").write_text(
        json.dumps({"datasets": {}, "embeddings": {}, "runs": {}, "toy": {"samples_per_task": 20, "steps": 20}})
    )
    written = []
    for name in ("a", "b"):
        argv = ["toy", "--params", str(tmp_path / "params.yaml"), "--metrics", str(tmp_path / name / "toy.json")]
        argv += ["--figure", str(tmp_path / name / "figures" / "toy.png")]
        assert cli.run(stage.main, stage.build_parser(), argv) == 0
        written.append([path.read_bytes() for path in sorted((tmp_path / name).rglob("toy.*"))])
    assert written[0] == written[1]
    metrics = json.loads((tmp_path / "a" / "toy.json").read_text())
    assert metrics["dkvb"]["accuracy_after_task_4"] == metrics["dkvb"]["final_accuracy"] > 0.9
    assert 0 < metrics["dkvb"]["keys_kept_by_pruning"] < 1
    with Image.open(tmp_path / "a" / "figures" / "toy.png") as picture:
        assert picture.size == (1344, 1068)
    assert "[toy] final accuracy: linear_probe" in capsys.readouterr().err


def test_the_figure_has_a_panel_a_head_and_stage(results, monkeypatch):
    drawn = []
    monkeypatch.setattr(stage, "_draw_panel", lambda panel, rows, result, number: drawn.append((id(result), number)))
    plane = draw_plane(QUICK)
    stage._draw(io.BytesIO(), plane, results)
    assert drawn == [(id(results[name]), number) for name in ("linear_probe", "mlp", "dkvb") for number in range(4)]
