"""Every message has the form: what is wrong; what is expected. What to do."""

import ast
import inspect
import re
import traceback
import warnings
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from bad_inputs import EVERY
from models import flat, placed
from sklearn.exceptions import NotFittedError

import dkvb_estimator
from dkvb_estimator import DKVBClassifier, KeyEncoder, baselines, load_model, metrics, plotting
from dkvb_estimator._validation import GRADIENT, MOVED

PACKAGE = Path(dkvb_estimator.__file__).parent
DIALECT = re.compile(r"(?P<wrong>.+?); expected (?P<expected>.+?)\. (?P<remedy>[A-Z…].+)\.", re.DOTALL)
MAX_SENTENCES, MAX_LENGTH = 3, 400
X = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
Y = np.arange(30) % 3
LONG = "x" * 10_000


def fitted(**settings):
    return flat(**{"n_heads": 3, "n_keys": 8, "key_dim": 2, "random_state": 0} | settings).fit(X, Y)


def predict(**settings):
    return fitted().set_params(**settings).predict(X)


def lazily(**columns):
    return flat(3, 8, 2).fit(da.from_array(X), **{"y": Y} | columns)


MORE = {  # inputs that other tests refuse, and what their messages contain: the value, or the shape
    "a block without labels": (lambda: KeyEncoder(projection="learned").fit(iter([X])), "block 1"),
    "lazy rows": (lambda: fitted().forget(da.from_array(X), Y), "(30, 6)"),
    "lazy rows of one axis": (lambda: lazily().predict(da.from_array(X[0])), "(6,)"),
    "weights of blocks": (lambda: KeyEncoder().fit(iter([X]), sample_weight=Y), "list_iterator"),
    "too few lazy weights": (lambda: lazily(sample_weight=np.ones(3)), "3 entries for 30"),
    "weights with sums": (lambda: fitted(remember=False).partial_fit(X, Y, sample_weight=Y + 1.0), "2"),
    "class weights with sums": (lambda: fitted(remember=False, class_weight="balanced"), "'balanced'"),
    "forget_classes with sums": (lambda: fitted(remember=False).forget_classes([1]), "remember=False"),
    "forget with sgd": (lambda: fitted(solver="sgd").forget(X + 9, Y), "X"),
    "a solver changed": (lambda: predict(solver="counts"), "'joint'"),
    "samples of a key without samples": (lambda: fitted(solver="counts").key_usage().samples_of(0, 0), "samples_of"),
    "a key that is not there": (lambda: fitted().key_usage().classes_of(0, 9), "key=9"),
    "labels as an iterator of codes": (lambda: fitted().encoder_.inverse_transform(X.astype(np.uint8)), "(30, 6)"),
    "a mean with other settings": (
        lambda: baselines.NearestClassMean().fit(X, Y).set_params(normalize=True).predict(X), "normalize=True"),
    "a mean that forgets too much": (lambda: baselines.NearestClassMean().fit(X, Y).forget(X[:20], Y[:20] * 0), "20"),
    "a merge of kinds": (
        lambda: baselines.NearestClassMean().fit(X, Y).merge(baselines.StreamingLDA().fit(X, Y)), "StreamingLDA"),
    "a merge of settings": (
        lambda: baselines.StreamingLDA().fit(X, Y).merge(baselines.StreamingLDA(0.5).fit(X, Y)), "shrinkage=0.5"),
    "a merge of widths": (
        lambda: baselines.StreamingLDA().fit(X, Y).merge(baselines.StreamingLDA().fit(X[:, :4], Y)), "4"),
    "a merge of projections": (
        lambda: baselines.RandomProjectionRidge(9, random_state=0).fit(X, Y).merge(
            baselines.RandomProjectionRidge(9, random_state=1).fit(X, Y)), "random_state=1"),
    "a ridge that forgets strangers": (lambda: baselines.RandomProjectionRidge(99).fit(X, Y).forget(X + 1, Y), "30"),
    "shares that are none": (lambda: baselines.ClasswiseLDA(shares=(1.0, 2.0)).fit(X, Y), "(1.0, 2.0)"),
    "too little room": (lambda: baselines.ClasswiseLDA(max_state_bytes=9).fit(X, Y), "max_state_bytes=9"),
    "a projection that is none": (lambda: baselines.RandomProjectionRidge(9, projection="x").fit(X, Y), "'x'"),
    "a matrix that is not square": (lambda: metrics.final_accuracy([[1.0, 0.0]]), "(1, 2)"),
    "percentages": (lambda: metrics.final_accuracy([[50.0]]), "50.0"),
    "a curve of two axes": (lambda: metrics.class_order_spread([[0.5]]), "(1, 1)"),
    "points that fall": (lambda: metrics.anytime_accuracy([2, 1], [0.5, 0.5]), "(2,)"),
    "predictions that are too few": (lambda: metrics.retrain_gap(Y, Y[:3]), "(3,)"),
    "probabilities of one axis": (lambda: metrics.brier_score([0.5], [0]), "(1,)"),
    "positions beyond the columns": (lambda: metrics.brier_score([[0.5, 0.5]], [2]), "2"),
    "scores that are NaN": (lambda: metrics.rejection_auroc([np.nan], [0.5]), "1 NaN"),
    "no bins": (lambda: metrics.reliability_curve([[0.5, 0.5]], [0], n_bins=0), "n_bins=0"),
    "a figure that is not square": (lambda: plotting.AccuracyMatrixDisplay([[1.0, 0.0]]), "(1, 2)"),
    "names that are too few": (lambda: plotting.AccuracyMatrixDisplay(np.eye(2), task_names=["a"]), "1"),
    "lines that are too short": (lambda: plotting.StreamDisplay([1, 2], {"a": [0.5]}), "(1, 1)"),
    "long class weights": (lambda: fitted(class_weight=[LONG]), "class_weight=['xxx"),
    "long class weights of zero": (lambda: fitted(class_weight=dict.fromkeys(range(9999), 0.0)).predict(X), "{0: 0.0"),
    "a long folder": (lambda: fitted(codes_dir="/" + "x" * 200), "/xxx"),
    "a long setting": (lambda: predict(solver_params={LONG: 1}), "xxx"),
    "a long encoder": (lambda: DKVBClassifier([LONG]).fit(X, Y), "['xxx"),
    "a long number": (lambda: fitted(n_keys=[LONG]), "['xxx"),
    "a long label": (lambda: fitted().forget_classes([10**300]), "1000"),
    "a long text as label": (lambda: fitted().partial_fit(X, [LONG] * 30), "xxx"),
    "a long text that ends in NUL": (lambda: fitted().partial_fit(X, [LONG + "\0"] * 30), "xxx"),
    "a long penalty": (lambda: baselines.RandomProjectionRidge(9, alpha=LONG).fit(X, Y), "xxx"),
    "long shares": (lambda: baselines.ClasswiseLDA(shares=(1.0,) * 9999).fit(X, Y), "(1.0, 1.0"),
}  # fmt: skip


def names_of_inputs():
    """Return the names that a message may begin with: arguments of public functions, and settings."""
    modules = (dkvb_estimator, baselines, metrics, plotting)
    public = [getattr(module, name) for module in modules for name in module.__all__]
    calls = [call for each in public for call in (each, *(vars(each).values() if inspect.isclass(each) else ()))]
    found = {name for call in calls if callable(call) for name in _arguments(call)}
    return found | set(GRADIENT) | set(MOVED) | {"block", "model"}


def _arguments(call):
    try:
        return inspect.signature(call).parameters
    except (TypeError, ValueError):
        return ()


def assert_dialect(text, names):
    said = DIALECT.fullmatch(text)
    assert said, text
    assert "!" not in re.sub(r"'[^']*'", "", text), text
    begin = re.match(r"(?:encoder__)?(\w+)", text)
    assert (begin and begin[1] in names) or text.startswith(tuple(names)), text
    assert len(re.findall(r"\.(?= [A-Z])", text)) < MAX_SENTENCES, text
    assert len(text) <= MAX_LENGTH, text


def refusal(call):
    """Return the exception of a call, and whether this package raises it, rather than a library or the pipeline."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except Exception as error:
            where = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
            return error, where.is_relative_to(PACKAGE) and not isinstance(error, NotFittedError)
    raise AssertionError("nothing is raised")


def test_every_bad_input_is_answered_in_the_dialect(tmp_path):
    names, n_ours = names_of_inputs(), 0
    for number, call in enumerate(EVERY.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        error, ours = refusal(lambda call=call, folder=folder: call(folder))
        if ours:
            assert_dialect(str(error), names | {path.name for path in folder.iterdir()})
            n_ours += 1
    assert n_ours >= 75


@pytest.mark.parametrize("name", MORE)
def test_more_bad_inputs_are_answered_in_the_dialect_with_their_value(name):
    call, shown = MORE[name]
    error, ours = refusal(call)
    assert ours, error
    assert_dialect(str(error), names_of_inputs())
    assert shown in DIALECT.fullmatch(str(error))["wrong"]


@pytest.mark.parametrize("rows", [20, 7])
def test_warnings_speak_the_dialect_too(rows):
    with pytest.warns(UserWarning, match="distinct rows") as caught:
        flat(3, 64, 2).partial_fit(X[:rows], Y[:rows])
    assert_dialect(str(caught[0].message), names_of_inputs())


def test_shared_samples_are_told_in_the_dialect():
    model = placed(flat(3, 8, 2, random_state=0), X)
    other = DKVBClassifier(model.encoder).fit(X, Y)
    with pytest.warns(UserWarning, match="count twice") as caught:
        model.fit(X, Y).merge(other)
    assert_dialect(str(caught[0].message), names_of_inputs())


def test_a_damaged_file_is_told_in_the_dialect(tmp_path):
    (tmp_path / "model.npz").write_bytes(b"PK\3\4" + b"\0" * 50)
    error, _ = refusal(lambda: load_model(tmp_path / "model.npz"))
    assert_dialect(str(error), {"model.npz"})


def literal_messages():
    """Yield the messages of errors and warnings in the package's source, with … for the parts that are filled in."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent.name == "_persistence" or path.name == "_state_checks.py":
            continue  # reasons that a message quotes
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and re.search(r"Error$|^warnings\.warn$", ast.unparse(node.func))
                and node.args
            ):
                text = node.args[0]
                if isinstance(text, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "…" for part in text.values]
                    yield "".join(parts)
                elif isinstance(text, ast.Constant):
                    yield text.value


def test_every_message_of_the_package_is_written_in_the_dialect():
    texts = list(literal_messages())
    assert len(texts) > 50
    usual = [DIALECT, re.compile(r"…=… is (not valid|a …); expected …")]
    assert [text for text in texts if "!" in text or not any(pattern.fullmatch(text) for pattern in usual)] == []
