from pipeline.config import BASELINES as MEASURED
from pipeline.report import labels
from pipeline.report.figures import MARKS, SERIES, style_of
from pipeline.report.labels import METHODS, method_name, metric_words, ordered


def test_every_method_that_is_measured_has_a_name():
    assert set(METHODS) == {"dkvb", *MEASURED}


def test_as_many_methods_as_there_are_colours_have_a_colour_and_a_sign_of_their_own():
    styles = [style_of(method) for method in list(METHODS)[: len(SERIES)]]
    assert len(set(MARKS)) == len(set(SERIES))
    for part in ("color", "marker"):
        assert len({style[part] for style in styles}) == len(styles)


def test_beyond_them_no_two_share_colour_and_sign_and_none_has_the_colour_of_dkvb(monkeypatch):
    more = METHODS | {f"method_{number}": ("", "") for number in range(40)}
    monkeypatch.setattr(labels, "METHODS", more)
    styles = [style_of(method) for method in [*more, "a_method_that_nobody_knows"]]
    assert len({(style["color"], style["marker"]) for style in styles}) == len(styles)
    assert sum(style["color"] == SERIES[0] for style in styles) == 1


def test_short_names_fit_a_narrow_figure():
    assert all(len(method_name(method, short=True)) <= 14 for method in [*METHODS, "a_method_that_nobody_knows"])
    assert method_name("a_method_that_nobody_knows") == "a method that nobody knows"


def test_an_unknown_metric_is_called_by_its_key():
    assert metric_words("odd_accuracy") == ("odd accuracy", "share", 0)
    assert metric_words("odd_count") == ("odd count", "number", 0)


def test_the_four_that_most_pages_have_come_first_and_each_once():
    methods = ["mlp", "zebra", "dkvb", "streaming_lda", "mlp"]
    assert ordered(methods) == ["dkvb", "mlp", "streaming_lda", "zebra"]
