import csv
import html
import io
import json
import pickle
import random
import re
import shutil
from argparse import Namespace
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import yaml
from markupsafe import escape
from PIL import Image

from pipeline.config import load_params
from pipeline.report import labels, read_run
from pipeline.report import page as pages
from pipeline.report.figures import Figures, gather
from pipeline.stages import report

ROOT = Path(__file__).parents[2]
FOLDERS = ("metrics", "matrices", "curves", "prequential", "confidence", "key_usage", "timings", "cards")
TASKS = [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"], ["8", "9"]]
# method → accuracy right after learning, share of it kept per later task, spread over orders.
COURSES = {
    "dkvb": (0.965, 0.968, 0.012),
    "nearest_class_mean": (0.95, 0.958, 0.015),
    "linear_probe": (0.99, 0.12, 0.03),
    "mlp": (0.992, 0.06, 0.035),
}
EXTRA = {"streaming_lda": (0.975, 0.985, 0.006), "random_projection_ridge_2000": (0.972, 0.98, 0.008)}
METHOD = {"solver": "counts", "encoder": {"n_heads": 256, "n_keys": 512, "key_dim": 14, "random_state": 0}}
PARAMS = {
    "datasets": {
        "digits": {"kind": "digits", "test_fraction": 0.3, "seed": 0},
        "photos": {"kind": "photos", "n_crops": 2000, "seed": 0},
    },
    "embeddings": {
        name: {
            "dataset": name,
            "backbone": "efficientnet_lite0",
            "layer": "avgpool",
            "image_side": 96,
            "compute_dtype": "float32",
            "storage_dtype": "float16",
        }
        for name in ("digits", "photos")
    },
    "baselines": {"digits": {"embeddings": "digits", "keys": "photos", "stream": "by_class"}},
    "streams": {
        "by_class": {
            "kind": "class_incremental",
            "classes_per_task": 2,
            "order_seeds": [0, 1, 2],
            "batch_rows": 128,
        }
    },
    "runs": {},
    "searches": {
        "sizes": {
            "embeddings": "digits",
            "keys": "photos",
            "method": {"solver": "ridge"},
            "grid": {"encoder__n_heads": [64, 128, 256], "encoder__n_keys": [64, 128, 256]},
        }
    },
}


def run_settings(solver="counts", keys="photos"):
    method = METHOD | {"solver": solver}
    return {
        "embeddings": "digits",
        "keys": keys,
        "key_rows": "all",
        "stream": "by_class",
        "epochs_per_task": 1,
        "baselines": None if keys == "digits" else "digits",
        "method": method,
    }


def course_matrix(course, rng):
    """Return one method's accuracy on the classes of each task after each task; zero before they are learned."""
    start, kept, _ = course
    return [
        [
            round(min(1.0, max(0.0, start * kept ** (i - j) + rng.uniform(-0.02, 0.008))), 6) if j <= i else 0.0
            for j in range(5)
        ]
        for i in range(5)
    ]


def confusion(course, rng):
    """Return confusion counts; a method that forgets predicts the last two classes."""
    rows = []
    for true in range(10):
        right = round(54 * course[0] * course[1] ** (4 - true // 2))
        row = [0] * 10
        row[true] = right
        for _ in range(54 - right):
            row[rng.choice((8, 9)) if course[1] < 0.5 else rng.randrange(10)] += 1
        rows.append(row)
    return rows


def confidence(rng):
    """Return the calibration of an underconfident method before and after a temperature, and three novelty scores."""
    kinds = {}
    for kind, lift, temperature in (("plain", 0.3, 1.0), ("calibrated", 0.02, 0.19)):
        bins = [[share / 10, min(1.0, share / 10 + lift), 60] for share in range(3, 10)]
        numbers = {"expected_calibration_error": lift, "brier_score": 0.2, "negative_log_likelihood": 0.4}
        kinds[kind] = numbers | {"bins": bins, "temperature": temperature}
    scores = {}
    for name, power in (("score_samples", 0.9), ("max_softmax", 0.4)):
        noticed = [round((step / 20) ** power, 6) for step in range(21)]
        scores[name] = {"auroc": 1 / (1 + power), "fpr_at_95_tpr": rng.uniform(0.2, 0.6), "noticed": noticed}
    return {"calibration": kinds, "novelty": {"dkvb": scores, "streaming_lda": {"mahalanobis": scores["max_softmax"]}}}


def key_usage(rng):
    overlap = [[1.0 if i == j else round(0.1 + 0.3 * ((i * j) % 7) / 7, 6) for j in range(10)] for i in range(10)]
    busiest = [{"head": 3 * i, "key": 7 * i + 1, "served": {str(j): 40.0 - j for j in range(i + 1)}} for i in range(8)]
    return {
        "classes": [str(i) for i in range(10)],
        "used_share": [round(rng.uniform(0.1, 0.3), 6) for _ in range(256)],
        "classes_per_key": [0.0, 0.4, 0.3, 0.2, 0.1, *[0.0] * 6],
        "overlap": overlap,
        "own_share": [round(rng.uniform(0.05, 0.2), 6) for _ in range(10)],
        "busiest": busiest,
    }


def card(dataset, splits):
    return {
        "file_sha256": "5f2c" * 16,
        "fingerprint": "a91b" * 16,
        "dataset": dataset,
        "class_names": [str(i) for i in range(10)] if dataset == "digits" else [],
        "backbone": {
            "id": "efficientnet_lite0",
            "library": "timm",
            "model": "tf_efficientnet_lite0",
            "licence": "Apache-2.0",
            "weights_sha256": "57934424" * 8,
            "paper": "Tan & Le 2019, arXiv 1905.11946",
        },
        "preprocessing": {
            "image_side": 96,
            "interpolation": "bicubic",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        "layer": "avgpool",
        "compute_dtype": "float32",
        "storage_dtype": "float16",
        "manifest_sha256": "c0ffee12" * 8,
        "n_features": 1280,
        "splits": splits,
        "max_rounding_error": 0.0019,
    }


def metrics_of(matrices):
    last, diagonal = matrices[-1], [row[i] for i, row in enumerate(matrices)]
    lost = [max(row[j] for row in matrices[j:4]) - last[j] for j in range(4)]
    first = [diagonal[j] - last[j] for j in range(4)]
    return {
        "final_accuracy": round(sum(last) / 5, 6),
        "average_incremental_accuracy": round(
            sum(sum(row[: i + 1]) / (i + 1) for i, row in enumerate(matrices)) / 5, 6
        ),
        "forgetting_best": round(sum(lost) / 4, 6),
        "forgetting_first": round(sum(first) / 4, 6),
        "backward_transfer": round(-sum(first) / 4, 6),
        "real_forgetting": round(sum(first) / 4 - 0.03, 6),
        "label_growth": 0.03,
        "learning_accuracy": round(sum(diagonal) / 5, 6),
        "accuracy_std_over_orders": 0.004321,
    }


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_run(folder, name, courses, settings):
    rng = random.Random(name)
    PARAMS["runs"][name] = settings
    matrices = {method: course_matrix(course, rng) for method, course in courses.items()}
    metrics = {method: metrics_of(matrix) for method, matrix in matrices.items()}
    counts = {method: confusion(course, rng) for method, course in courses.items()}
    write_json(folder / "metrics" / f"{name}.json", metrics)
    of_class = {method: [row[i] / 54 for i, row in enumerate(table)] for method, table in counts.items()}
    maps = {"task_classes": TASKS, "class_names": [str(i) for i in range(10)], "methods": matrices}
    write_json(folder / "matrices" / f"{name}.json", maps | {"confusion": counts, "class_accuracy": of_class})
    write_json(folder / "confidence" / f"{name}.json", confidence(rng))
    write_json(folder / "key_usage" / f"{name}.json", key_usage(rng))
    own = {"dkvb": {"keys": 3.5, "encode": 0.4, "fit": 0.6, "predict_1000": 0.31}}
    write_json(folder / "timings" / "run" / f"{name}.json", own)
    write_rows(
        folder / "prequential" / f"{name}.csv",
        ["method", "samples_seen", "accuracy"],
        [[method, 128 * i, round(course[0] * i / 12, 6)] for method, course in courses.items() for i in range(1, 11)],
    )
    training = {"n_samples": 1257, "n_classes": 10, "accuracy": metrics["dkvb"]["final_accuracy"]}
    training |= {"unused_keys": 0.0312, "quantisation_error": 0.417233, "used_keys_after_training": 0.6875}
    training |= {"key_fingerprint": "3e8d" * 16}
    write_json(folder / "metrics" / f"train_{name}.json", training)
    columns = ["method", "order_seed", "task", "samples_seen", "classes_seen", "seen_accuracy", "all_accuracy"]
    rows = []
    for method, matrix in matrices.items():
        for seed in range(3):
            for i, row in enumerate(matrix):
                seen = sum(row[: i + 1]) / (i + 1) + courses[method][2] * (seed - 1) * i / 2
                rows.append([method, seed, i + 1, 251 * (i + 1), 2 * (i + 1), round(seen, 6), seen])
    write_rows(folder / "curves" / f"{name}.csv", columns, rows)


def write_rows(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([columns, *rows])


def write_search(folder):
    """Write a search over nine settings of two parameters, one of which failed."""
    rows, rank = [], 0
    for n_heads in (64, 128, 256):
        for n_keys in (64, 128, 256):
            rank += 1
            failed = (n_heads, n_keys) == (256, 256)
            score = ["", ""] if failed else [0.9 - 0.01 * rank, 0.004]
            rows.append([rank, *score, n_heads, n_keys, 1.25, "out of memory" if failed else ""])
    columns = ["rank", "mean_score", "std_score", "encoder__n_heads", "encoder__n_keys", "fit_seconds", "error"]
    write_rows(folder / "searches" / "sizes.csv", columns, rows)
    best = {"best_params": {"encoder": {"n_heads": 64, "n_keys": 64}}, "best_score": 0.89}
    write_json(
        folder / "searches" / "sizes.json", best | {"heat_map": {"x": "encoder__n_heads", "y": "encoder__n_keys"}}
    )


def write_toy(folder):
    stages = {f"accuracy_after_task_{i}": 0.25 * i for i in range(1, 5)}
    flat = {f"accuracy_after_task_{i}": 0.25 for i in range(1, 5)}
    toy = {"dkvb": {"final_accuracy": 1.0, **stages, "keys_kept_by_pruning": 0.23}}
    write_json(folder / "metrics" / "toy.json", toy | {"linear_probe": {"final_accuracy": 0.25, **flat}})
    picture = io.BytesIO()
    Image.effect_noise((1344, 1068), 50).convert("RGB").resize((336, 267)).save(picture, "PNG")
    (folder / "figures").mkdir()
    (folder / "figures" / "toy.png").write_bytes(picture.getvalue())


def write_receipt(folder, time="2026-03-01T10:00:00+00:00", **changes):
    """Write the receipt of one deletion, as `python -m pipeline forget` does."""
    gap = {"measured": True, "bits_of_values": 0, "largest_difference_of_scores": 0.0, "n_rows_compared": 1252}
    receipt = {
        "format": "dkvb-deletion-receipt",
        "version": 1,
        "time": time,
        "kind": "samples",
        "reason": "a private reason",
        "n_samples": {"digits": 5, "photos": 1},
        "n_copies": 1,
        "n_rows_of_store": 6,
        "keyed_hashes_sha256": "0e0e" * 16,
        "files": [
            {"path": "c/digits.h5", "what": "cache, 5 rows", "sha256_before": "ab" * 32, "sha256_after": "cd" * 32},
            {"path": "models/sgd.npz", "what": "model, deleted", "sha256_before": "ef" * 32, "sha256_after": None},
        ],
        "models": [
            {"path": "models/joint.npz", "run": "joint", "how": "forgot exactly", "gap": gap},
            {"path": "models/sgd.npz", "run": "sgd", "how": "trained again", "why": "solver sgd <forgets> inexactly"},
        ],
        "what_saw_them": ["results were measured with these samples"],
        "not_reached": [
            {"what": "objects of DVC's cache", "files": ["a", "b"], "command": "dvc repro && dvc gc --workspace"},
            {"what": "a backbone that was trained on the images", "command": "none"},
        ],
        "versions": {"dkvb": "0"},
    }  # fmt: skip
    write_json(folder / f"{time[:10]}.json", receipt | changes)


def write_inputs(folder):
    """Write two runs like the earlier stages: one with the expected methods, one with more."""
    PARAMS["runs"] = {}
    write_run(folder, "digits", COURSES, run_settings())
    write_run(folder, "digits_sgd", COURSES | EXTRA, run_settings("sgd", keys="digits"))
    path = folder / "metrics" / "digits_sgd.json"
    metrics = json.loads(path.read_text())
    metrics["joint_linear_probe"] = {"final_accuracy": 0.941, "accuracy_std_over_orders": 0.001}
    for i, found in enumerate(metrics.values()):
        found["state_bytes"] = 1_048_576 * (i + 1)
    write_json(path, metrics)
    write_receipt(folder / "forgotten" / "receipts")
    write_search(folder)
    write_toy(folder)
    baselines = {
        method: {"choose": 0.0, "fit": 2.0, "predict_1000": 0.05} for method in (COURSES | EXTRA) if method != "dkvb"
    }
    write_json(folder / "timings" / "baselines" / "digits.json", baselines)
    write_json(folder / "cards" / "digits.json", card("digits", {"train": 1257, "test": 540}))
    write_json(folder / "cards" / "photos.json", card("photos", {"train": 2000}))
    # JSON is valid YAML, so the settings file can be written the same way.
    write_json(folder / "params.yaml", PARAMS)
    return Namespace(
        **{name: folder / name for name in report.FOLDERS},
        receipts=folder / "forgotten" / "receipts",
        params=folder / "params.yaml",
        output=folder / "report" / "index.html",
    )


def written_page(arguments):
    report.main(arguments)
    return arguments.output.read_text(encoding="utf-8")


class DrawnOnce(Figures):
    """Draws the same figure at the same position of a page once for all tests, since drawing takes most of the time."""

    drawn: ClassVar = {}


def drawn_once(draw):
    def look_up(figures, *given):
        key = draw.__name__, figures.n_drawn, pickle.dumps(given)
        if key not in figures.drawn:
            figures.drawn[key] = draw(figures, *given), figures.n_drawn
        drawn, figures.n_drawn = figures.drawn[key]
        return drawn

    return look_up


for name in [name for name in vars(Figures) if not name.startswith("_")]:
    setattr(DrawnOnce, name, drawn_once(getattr(Figures, name)))


@pytest.fixture(scope="module", autouse=True)
def figures_drawn_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "Figures", DrawnOnce)
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder of inputs, written once and copied for each test, because the figure of noise takes a while."""
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def page(written, tmp_path_factory):
    """The page of these inputs, in a separate folder, so that copies of the inputs do not contain it."""
    return written_page(Namespace(**vars(written) | {"output": tmp_path_factory.mktemp("page") / "index.html"}))


@pytest.fixture
def inputs(written, tmp_path):
    folder = written.params.parent
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return Namespace(**{name: tmp_path / path.relative_to(folder) for name, path in vars(written).items()})


class _Outline(HTMLParser):
    """Collects unclosed tags, and everything in the page that could make a browser fetch something."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.fetched = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        for name, value in attrs:
            outside = not (value or "").startswith(("#", "data:"))
            if name in ("src", "href", "srcset", "data", "action", "poster") and outside:
                self.fetched.append(value)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)


def test_page_is_well_formed_and_fetches_nothing(page):
    outline = _Outline()
    outline.feed(page)
    assert (outline.open, outline.wrong, outline.fetched) == ([], [], [])
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page


def test_same_input_gives_the_same_bytes(page, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "Figures", Figures)  # draws everything again
    inputs.output = tmp_path / "elsewhere" / "index.html"
    assert written_page(inputs) == page
    assert str(tmp_path) not in page


def test_every_run_has_its_section_and_a_link_to_it(page):
    for name in ("digits", "digits_sgd"):
        assert f'id="run-{name}"' in page
        assert f'href="#run-{name}"' in page


def test_page_names_numbers_keys_provenance_and_settings(page, written):
    metrics = json.loads((written.metrics / "digits.json").read_text())
    for found in metrics.values():
        assert f"{100 * found['final_accuracy']:.1f}%" in page
    facts = ["57934424" * 8, "c0ffee12" * 8, "a91b" * 16, "Apache-2.0", "bicubic", "3e8d" * 16, "0.4172"]
    for fact in [*facts, "stream.order_seeds", "method.encoder.n_keys"]:
        assert fact in page, fact


def test_every_target_of_dvc_repro_is_a_stage(inputs):
    for folder in FOLDERS:
        shutil.rmtree(getattr(inputs, folder))
    page = html.unescape(written_page(inputs))
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    found = [words.split() for words in re.findall(r"dvc repro((?: [\w@-]+)*)", page)]
    assert {"run", "baselines", "extract"} <= {word for words in found for word in words} <= set(stages)
    assert [] in found


def test_printed_experiments_change_one_run_of_the_shipped_settings(inputs, tmp_path):
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import apply_overrides

    shutil.copy(ROOT / "params.yaml", inputs.params)
    commands = re.findall("dvc exp run -S '(.*)'", html.unescape(written_page(inputs)))
    before = load_params(inputs.params).runs
    assert len(commands) == len(before) > 1
    for name, command in zip(before, commands):
        shutil.copy(ROOT / "params.yaml", inputs.params)
        ((path, overrides),) = to_path_overrides([command]).items()
        apply_overrides(tmp_path / path, overrides)
        after = load_params(inputs.params).runs
        assert [other for other in after if after[other] != before[other]] == [name]
        assert after[name].method["encoder"] == {**before[name].method["encoder"], "random_state": 1}


def test_methods_and_metrics_beyond_the_expected_ones_are_shown(inputs):
    def add(metrics):
        metrics["brand_new_head"] = {"final_accuracy": 0.5, "quiet_score": 0.123456}

    changed(inputs.metrics / "digits.json", add)
    page = written_page(inputs)
    for word in ("streaming LDA", "random-projection ridge 2,000", "brand new head", "quiet score", "0.1235"):
        assert word in page, word


def test_text_from_outside_is_escaped(inputs):
    evil = "<img src=x onerror=alert(1)>&\"'"

    def spoil(content):
        content["class_names"][0] = evil
        content["backbone"]["licence"] = evil

    changed(inputs.cards / "digits.json", spoil)
    changed(inputs.matrices / "digits.json", lambda found: found["task_classes"][0].append(evil))
    changed(inputs.metrics / "digits.json", lambda found: found.update({evil: {evil: 0.5}}))
    page = written_page(inputs)
    assert "<img src=x" not in page
    assert str(escape(evil)) in page


def test_numbers_that_are_missing_are_dashes_and_never_best(inputs):
    def blank(metrics):
        metrics["dkvb"] |= {"final_accuracy": None, "average_incremental_accuracy": float("nan")}
        del metrics["mlp"]["forgetting_first"]

    changed(inputs.metrics / "digits.json", blank)
    page = written_page(inputs)
    assert "the accuracy of DKVB was not measured" in page
    assert ">nan<" not in page.lower()
    assert ">None<" not in page


def test_a_method_that_was_measured_only_at_the_end_has_one_point(inputs):
    with (inputs.curves / "digits.csv").open("a") as file:
        file.write("joint_linear_probe,0,5,1257,10,0.94,0.94\n")
    assert "joint linear probe 94%" in written_page(inputs)


def test_a_mean_over_one_order_is_called_by_what_it_is(page, inputs):
    assert page.count("mean of 3 orders of classes") == 3
    lines = (inputs.curves / "digits.csv").read_text().splitlines(keepends=True)
    (inputs.curves / "digits.csv").write_text("".join([lines[0], *(line for line in lines if ",0," in line[:30])]))
    page = written_page(inputs)
    assert "Final accuracy, in one order of classes, and seconds to learn the stream." in page
    assert "Test accuracy on all classes seen so far, in one order of classes." in page
    assert "±" not in page[: page.index("<details")]


def test_the_glossary_explains_every_method_and_metric(page):
    terms = [term.lower() for term in re.findall("<dt>(.*?)</dt>", page[page.index('id="words"') :])]
    names = [name.lower() for name, *_ in (*labels.METHODS.values(), *labels.METRICS.values())]
    assert not [name for name in names if not name.startswith(tuple(terms))]


def test_best_of_a_column_knows_which_way_is_better():
    run = {
        "dkvb": {"final_accuracy": 0.9, "forgetting_best": 0.1},
        "mlp": {"final_accuracy": 0.2, "forgetting_best": 0.9},
    }
    bound = {"joint_linear_probe": {"final_accuracy": 0.99}}
    assert pages.best_of("final_accuracy", run | bound) == 0.9
    assert pages.best_of("forgetting_best", run | bound) == 0.1
    assert pages.best_of("accuracy_std_over_orders", run) is None


@pytest.mark.parametrize(
    ("own", "other", "words"),
    [
        (0.859, 0.807, "DKVB has an accuracy of 85.9%, 5.2 points above the best baseline, nearest class mean (80.7%)"),
        (0.807, 0.859, "DKVB has an accuracy of 80.7%, 5.2 points below the best baseline, nearest class mean (85.9%)"),
        (0.8591, 0.8589, "DKVB has an accuracy of 85.9%, level with the best baseline, nearest class mean (85.9%)"),
    ],
)
def test_headline_says_above_below_or_level(own, other, words):
    metrics = {
        "dkvb": {"final_accuracy": own},
        "mlp": {"final_accuracy": 0.3},
        "nearest_class_mean": {"final_accuracy": other},
        "joint_linear_probe": {"final_accuracy": 0.99},  # an upper bound, not a baseline
    }
    assert pages.headline(metrics, TASKS) == [f"After 10 classes in 5 tasks, {words}."]


def test_headline_says_what_each_method_lost():
    metrics = {
        "dkvb": {"final_accuracy": 0.9, "forgetting_first": -0.01},
        "linear_probe": {"final_accuracy": 0.2, "forgetting_first": 0.95},
    }
    assert pages.headline(metrics, TASKS[:2])[1] == (
        "DKVB lost nothing of what it had learned; the linear probe lost 95.0 points and ends at 20.0%."
    )


def test_page_leads_with_the_default_method_and_orders_by_accuracy(inputs):
    def swap(metrics):
        metrics["mlp"]["final_accuracy"] = 0.999

    changed(inputs.metrics / "digits_sgd.json", swap)
    changed(inputs.params, lambda tables: tables["runs"]["digits_sgd"]["method"].pop("solver"))
    page = written_page(inputs)
    lead = page[page.index('id="answer"') : page.index("</section>", page.index('id="answer"'))]
    assert 'href="#run-digits_sgd"' in lead
    assert re.search("<desc [^>]*>MLP 99.9%; ", lead)
    for words in (
        "Key usage:</strong> ",
        "Calibration error:</strong> 30.0% (as learned)",
        "Unseen classes:</strong> ",
    ):
        assert words in lead, words
    assert page.index('id="answer"') < page.index("<details")


def test_what_was_measured_of_guarantees_leads_too(inputs):
    measured = {"Change after forgetting <b>": 0.0}
    changed(inputs.key_usage / "digits.json", lambda usage: usage.update(guarantees=measured))
    assert "Change after forgetting &lt;b&gt;:</strong> 0</li>" in written_page(inputs)


def test_a_missing_folder_of_files_is_named_and_fails_nothing(inputs):
    for folder in FOLDERS:
        shutil.rmtree(getattr(inputs, folder))
    page = written_page(inputs)
    assert "curves/digits_sgd.csv is missing. Run `dvc repro run` to make it." in page
    assert 'id="run-digits"' in page


@pytest.mark.parametrize("folder", FOLDERS)
def test_missing_file_is_named_with_the_command(inputs, folder):
    path = next((getattr(inputs, folder)).glob("run/digits.*" if folder == "timings" else "digits.*"))
    path.unlink()
    run = read_run("digits", run_settings(), {name: getattr(inputs, name) for name in report.FOLDERS})
    (said,) = run.missing
    assert re.fullmatch(rf"{folder}/{re.escape(path.name)} is missing\. Run `dvc repro \w+` to make it\.", said)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("metrics/digits.json", "{", "expected a file as the stage run writes it\\. .* -f run"),
        ("metrics/train_digits.json", "[1]", "expected an object\\. .* -f run"),
        ("matrices/digits.json", '{"methods": {}}', "expected task_classes\\. .* -f run"),
        ("curves/digits.csv", "method,task\ndkvb,1\n", "expected order_seed, classes_seen, seen_accuracy\\. "),
        ("curves/digits.csv", "", "seen_accuracy\\. .* -f run"),
        ("cards/photos.json", "[]", "expected an object\\. .* -f extract"),
        ("confidence/digits.json", "{}", "expected calibration, novelty\\. .* -f run"),
        ("timings/baselines/digits.json", "{", "a file as the stage baselines writes it\\. .* -f baselines"),
        ("searches/sizes.csv", "rank\n1\n", "expected mean_score\\. .* -f search"),
    ],
)
def test_damaged_file_is_an_error_of_three_parts(inputs, tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{re.escape(name)} .*{words}"):
        report.main(inputs)
    assert not inputs.output.exists()


def test_main_says_where_the_page_is_and_what_to_do(inputs, capsys):
    write_json(inputs.params, {"runs": {}})
    report.main(inputs)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{inputs.output}: open it with `{report.opener(inputs.output)}`; to change a run, edit ")
    assert [path.name for path in inputs.output.parent.iterdir()] == ["index.html"]


@pytest.mark.parametrize(
    ("platform", "found", "command"),
    [
        ("linux", "/usr/bin/xdg-open", "xdg-open 'my report/index.html'"),
        ("darwin", None, "open 'my report/index.html'"),
        ("win32", None, 'start "" "my report/index.html"'),
        ("linux", None, "python -m webbrowser file:///home/me/my%20report/index.html"),
    ],
)
def test_the_page_is_opened_by_what_the_platform_has(platform, found, command, monkeypatch):
    monkeypatch.setattr(report.sys, "platform", platform)
    monkeypatch.setattr(report.shutil, "which", lambda name: found)
    monkeypatch.setattr(Path, "absolute", lambda path: Path("/home/me") / path)
    assert report.opener(Path("my report/index.html")) == command


def test_command_line_takes_every_path():
    words = [word for name in (*report.FOLDERS, "receipts") for word in (f"--{name.replace('_', '-')}", name[:3])]
    found = vars(report.build_parser().parse_args([*words, "--params", "p.yaml", "--output", "r.html"]))
    wanted = {name: name[:3] for name in (*report.FOLDERS, "receipts")} | {"params": "p.yaml", "output": "r.html"}
    assert {key: str(found[key]) for key in wanted} == wanted
    assert {*found["reads"], *found["writes"]} == set(wanted)


def test_costs_stand_in_a_table_of_their_own(page):
    section = page[page.index('id="run-digits_sgd"') :]
    costs = section[section.index("What it costs") : section.index("<h3>Prequential accuracy</h3>")]
    assert "class list needed" in costs
    assert ">4.5</td>" in costs  # keys, encoding and learning
    assert ">1.05</td>" in costs  # 1,048,576 bytes
    table = section[section.index("<h3>Metrics</h3>") : section.index("What it costs")]
    assert "state bytes" not in table


def test_forgetting_and_growth_of_the_label_space_stand_apart(page, written):
    section = page[page.index("Forgotten, or outnumbered?") : page.index("What it costs")]
    table = section[section.index("<table") :]
    metrics = json.loads((written.metrics / "digits.json").read_text())
    order = sorted(metrics, key=lambda method: metrics[method]["real_forgetting"])
    names = [labels.method_name(method) for method in order]
    assert re.findall('<th scope="row">([^<]*)', table) == names
    assert re.findall("<desc[^>]*>([^<]*)", section)[0].startswith(f"{names[0]} ")
    shares = [float(share) for share in re.findall('data-value="([^"]*)"', table)]
    for method, (real, growth, both) in zip(order, zip(*[iter(shares)] * 3)):
        assert (real, growth) == (metrics[method]["real_forgetting"], metrics[method]["label_growth"])
        assert both == pytest.approx(metrics[method]["forgetting_first"], abs=2e-6)
    lead = page[page.index('id="answer"') : page.index("</section>", page.index('id="answer"'))]
    assert "come from having more classes to choose from" in lead
    assert "real forgetting" not in page[page.index("<h3>Metrics</h3>") : page.index("Forgotten, or outnumbered?")]


def test_a_run_measured_before_forgetting_was_split_has_no_such_block(inputs):
    def drop(metrics):
        for found in metrics.values():
            found.pop("real_forgetting", None)

    for name in ("digits", "digits_sgd"):
        changed(inputs.metrics / f"{name}.json", drop)
    page = written_page(inputs)
    assert "Forgotten, or outnumbered?" not in page
    assert "more classes to choose from" not in page[: page.index("<details")]


def test_losses_below_zero_are_drawn_too():
    rows = [{"method": "dkvb", "real": -0.02, "growth": 0.1}, {"method": "mlp", "real": 0.9, "growth": -0.3}]
    drawn = Figures().losses(rows)
    assert {"\N{MINUS SIGN}2.0", "10.0", "90.0", "\N{MINUS SIGN}30.0"} <= set(re.findall("<text[^>]*>([^<]*)", drawn))


def test_confidence_novelty_and_key_usage_are_drawn(page):
    for word in ("Can its probabilities be trusted?", "temperature from held-out rows", "30.0%", "0.19"):
        assert word in page, word
    for word in ("Does it notice what it never learned?", "Mahalanobis distance (streaming LDA)", "52.6%"):
        assert word in page, word
    for word in (
        "Which classes use which keys",
        "0: 40, 1: 39, 2: 38, 3: 37, 4: 36, 5: 35 and 2 more",
        "used keys that serve one class",
    ):
        assert word in page, word


def test_runs_without_held_out_rows_or_unseen_classes_have_no_such_block(inputs):
    changed(inputs.confidence / "digits.json", lambda found: found.update(calibration={}, novelty={}))
    changed(inputs.confidence / "digits_sgd.json", lambda found: found.update(calibration={}, novelty={}))
    page = written_page(inputs)
    assert "Can its probabilities be trusted?" not in page
    assert "Does it notice what it never learned?" not in page


def test_searches_are_drawn_with_a_map_and_a_table(page):
    section = page[page.index("Search sizes") :]
    assert "Best of 9 settings: encoder.n_heads = 64, encoder.n_keys = 64 (89.0%)" in section
    assert ">89.0</text>" in section
    assert "out of memory" in section
    assert section[: section.index("</svg>")].count("fill: var(--heat)") == 8


def test_page_without_searches_or_toy_stands(inputs):
    (inputs.figures / "toy.png").unlink()
    changed(inputs.params, lambda tables: tables.pop("searches"))
    page = written_page(inputs)
    assert 'id="search-' not in page
    assert 'id="toy"' not in page
    assert "params.yaml has no entries under searches, so there is nothing to show for them" in page


def test_a_page_without_any_entry_says_what_is_missing(inputs):
    write_json(inputs.params, {"runs": None, "searches": {}})
    page = written_page(inputs)
    assert (
        "params.yaml has no entries under runs, baselines, searches, so there is nothing to show for them. Add entries"
        in page
    )
    assert "Final accuracy of all runs" not in page
    assert 'id="search-' not in page  # files of an earlier search still exist


@pytest.mark.parametrize("name", ["params.yaml", "metrics/page.html", "metrics/toy.json"])
def test_the_page_does_not_overwrite_what_it_is_made_of(inputs, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    before = (tmp_path / "params.yaml").read_bytes()
    assert report.cli.run(report.main, report.build_parser(), ["--output", name]) == 1
    assert re.search(rf"the output {name} would overwrite the input .*; expected another", capsys.readouterr().err)
    assert (tmp_path / "params.yaml").read_bytes() == before


def test_deletions_stand_folded_with_gap_digests_and_what_they_did_not_reach(page):
    section = page[page.rindex("<details>", 0, page.index('id="deletions"')) : page.index('id="toy"')]
    assert "1 deletion in this project" in section
    assert section.index("<details>") < section.index('id="deletions"')
    row = section[section.index("<tbody>") : section.index("</tbody>")]
    assert re.findall('data-value="([^"]*)"', row) == ["6.0", "1.0", "1.0", "1.0", "0.0", "0.0"]
    for words in (
        "2026-03-01T10:00:00+00:00",
        "5 of digits, 1 of photos. Also affected: results were measured with these samples.",
        f"{'ab' * 32}</div><div>{'cd' * 32}",
        f"{'ef' * 32}</div><div>deleted",
        "0 bits of values, 0 in scores of 1,252 rows",
        "trained again: solver sgd &lt;forgets&gt; inexactly",
        "dvc repro &amp;&amp; dvc gc --workspace",
    ):
        assert words in section, words
    assert "a private reason" not in page


def test_deletions_are_shown_in_the_order_in_which_they_were_made(inputs):
    write_receipt(inputs.receipts, "2025-12-31T00:00:00+00:00", kind="a class's samples", models=[])
    page = written_page(inputs)
    assert "2 deletions in this project" in page
    assert page.index("2025-12-31T00") < page.index("2026-03-01T10")


def test_a_project_without_deletions_shows_none(inputs):
    shutil.rmtree(inputs.receipts)
    assert 'id="deletions"' not in written_page(inputs)
    inputs.receipts.mkdir()
    assert 'id="deletions"' not in written_page(inputs)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "other", "version": 1}'])
def test_a_file_among_the_receipts_that_is_none_is_named(inputs, text):
    (inputs.receipts / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json (cannot|begins).*expected a receipt as .*forget.*\. Restore it"):
        report.main(inputs)


def test_toy_is_inside_the_page(page):
    assert "at the end DKVB classifies 100.0% of their samples correctly, a linear probe 25.0%" in page
    assert '<img src="data:image/png;base64,' in page


def test_series_fold_over_orders_and_places():
    columns = ("method", "order_seed", "task", "seen_accuracy")
    rows = [
        dict(zip(columns, row.split())) for row in ("a 0 1 0.2", "a 1 1 0.4", "a 0 2 nan", "a 1 2 0.6", "b 0 1 nan")
    ]
    x, found = gather(rows, "task", "seen_accuracy")
    assert x.tolist() == [1, 2]
    np.testing.assert_equal(found["a"], [[0.2, np.nan], [0.4, 0.6]])
    assert np.isnan(found["b"]).all()
    drawn = Figures().stream([*rows], "task", "seen_accuracy", "Accuracy", "tasks learned")
    assert "a 60%" in drawn
    assert "b " not in "".join(re.findall("<text[^>]*>([^<]*)", drawn))


def test_orders_of_another_pace_are_drawn_over_tasks():
    columns = ("method", "order_seed", "task", "classes_seen", "seen_accuracy")
    rows = [dict(zip(columns, row.split())) for row in ("a 0 1 2 0.2", "a 1 1 2 0.4", "a 0 2 4 0.5", "a 1 2 5 0.6")]
    assert ">tasks learned</text>" in Figures().curves(rows)
    assert ">classes seen</text>" in Figures().curves(rows[::2])


def test_figures_take_their_colours_and_their_font_from_the_page():
    (_, drawn), *_ = Figures().accuracy_matrices({"dkvb": [[0.9, 0.3], [0.4, None]]}, [["0"], ["1"]])
    assert re.findall(r"fill: var\(--heat\); fill-opacity: ([\d.]+)", drawn) == ["0.901961", "0.4"]
    assert not re.search("#[0-9a-f]{6}", drawn)
    assert "DejaVu" not in drawn
    assert {text: word for word, text in re.findall(r"fill: var\(--(\w+)\)[^>]*>(30|90)</text>", drawn)} == {
        "30": "soft", "90": "strong",
    }  # fmt: skip


def test_tasks_of_many_classes_are_numbered_and_tasks_that_come_again_keep_their_colour():
    (_, drawn), *_ = Figures().accuracy_matrices({"dkvb": [[0.9, 0.3], [0.4, 0.5]]}, [["cats", "dogs"]] * 2)
    assert drawn.count("fill: var(--heat)") == 4
    assert re.findall("<text[^>]*>([^<]*)", drawn).count("2") == 2


def test_confusions_are_coloured_by_row_and_keep_their_counts():
    (_, drawn), *_ = Figures().confusions({"dkvb": [[3, 1], [0, 0]]}, ["a_cat_with_a_long_name", "$d^{o}g$ 犬 <&>"])
    assert re.findall(r"fill-opacity: ([\d.]+)", drawn)[:2] == ["0.752941", "0.25098"]
    texts = re.findall("<text[^>]*>([^<]*)", drawn)
    assert {"3", "1", "a_cat_with_a_…", "$d^{o}g$ 犬 &lt;&amp;&gt;"} <= set(texts)


def test_ids_of_figures_differ_and_repeat_with_the_page():
    rows = [{"method": "dkvb", "samples_seen": "1", "accuracy": "0.5"}]
    figures, again = Figures(), Figures()
    first, second = (figures.stream(rows, "samples_seen", "accuracy", "A", "samples") for _ in range(2))
    ids = re.findall(r' id="([^"]*)"', first + second)
    assert len(ids) == len(set(ids)) >= 4
    assert again.stream(rows, "samples_seen", "accuracy", "A", "samples") == first


def test_maps_of_a_hundred_classes_have_colour_and_no_numbers():
    (_, drawn), *_ = Figures().confusions({"dkvb": np.eye(100, dtype=int).tolist()}, [])
    texts = re.findall("<text[^>]*>([^<]*)", drawn)
    assert "1" not in texts
    assert {"0", "95"} <= set(texts)
