"""The comparison page names existing tests, and its statements about scikit-learn are true."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import Perceptron, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier

from dkvb_estimator import DKVBClassifier, KeyEncoder

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")


def test_every_test_that_the_page_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) >= 15
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (path, name)


def test_every_numbered_claim_has_its_test_and_every_row_six_columns():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in rows} == {8}
    claims = [int(number) for number in re.findall(r"^\| .*?\[(\d+)\] \|", PAGE, flags=re.MULTILINE)]
    tested = [int(number) for number in re.findall(r"^(\d+)\. `tests/", PAGE, flags=re.MULTILINE)]
    assert claims == tested == list(range(1, len(claims) + 1))


@pytest.mark.parametrize("model", [SGDClassifier(), Perceptron(), GaussianNB(), MLPClassifier((4,))])
def test_scikit_learns_incremental_learners_refuse_a_new_label(model):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="classes"):
        model.partial_fit(X[y < 2], y[y < 2])
    model.partial_fit(X[y < 2], y[y < 2], classes=[0, 1])
    with pytest.raises(ValueError, match=r"2|classes"):
        model.partial_fit(X[y == 2], y[y == 2])
    ours = DKVBClassifier(KeyEncoder(8, 16, 3, normalize=False, random_state=0)).partial_fit(X[y < 2], y[y < 2])
    np.testing.assert_array_equal(ours.partial_fit(X[y == 2], y[y == 2]).classes_, [0, 1, 2])
