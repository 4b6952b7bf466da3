"""Validation: what is refused, and with which messages."""

import re

import numpy as np
import pytest
import torch
from models import OF_ENCODERS, flat

from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator._labels import merge_classes
from dkvb_estimator._validation import (
    CHOICES,
    GRADIENT,
    Layout,
    as_array,
    as_float32,
    check_codes,
    check_encoder,
    check_parameters,
    class_weights,
    gradient_settings,
    resolve_layout,
)

LAYOUT = Layout(n_heads=2, n_keys=4, key_dim=3, n_selected=1)


def parameters(**changes):
    return flat(**changes).get_params(deep=False)


def of_encoder(**changes):
    return flat(**changes).encoder.get_params()


def check(**changes):
    """Check the parameters of both halves."""
    check_encoder(of_encoder(**changes))
    check_parameters(parameters(**changes))


@pytest.mark.parametrize("name", CHOICES)
def test_the_documentation_of_a_parameter_lists_its_choices(name):
    documented = KeyEncoder.__doc__ + DKVBClassifier.__doc__
    listed = re.search(rf"^    {name} : {{(.*)}}", documented, flags=re.MULTILINE)[1]
    assert listed == ", ".join(f'"{choice}"' for choice in CHOICES[name])


def test_default_parameters_are_valid():
    check()


def test_each_half_refuses_its_own_parameters_alone():
    check_parameters(parameters(n_heads=0, key_init="magic"))
    check_encoder(of_encoder(alpha=-1.0, solver="magic"))
    assert not OF_ENCODERS & set(parameters()) - {"random_state"}


def test_more_keys_than_16_bits_name_are_refused():
    message = r"n_keys=65537 is not valid; expected a whole number ≥ 1 and ≤ 65,536. Set it with set_params\(n_keys"
    with pytest.raises(ValueError, match=message):
        check(n_keys=65_537)


def test_65536_keys_are_welcome():
    check(n_keys=65_536)


@pytest.mark.parametrize("name", ["n_heads", "n_keys", "key_dim", "batch_size", "max_iter", "partial_fit_epochs"])
def test_integers_below_one_are_refused_by_name(name):
    with pytest.raises(
        ValueError,
        match=rf"{name}=0 is not valid; expected a whole number ≥ 1.*set_params\((solver_params={{'{name}'|{name}=)",
    ):
        check(**{name: 0})


@pytest.mark.parametrize("value", [2.0, True, "3"])
def test_what_is_no_integer_is_refused_by_type(value):
    message = f"n_heads={value!r} is a {type(value).__name__}; expected a whole number. Pass an int."
    with pytest.raises(TypeError, match=message):
        check(n_heads=value)


@pytest.mark.parametrize("name", ["smoothing", "learning_rate", "clip_norm"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_real_settings_must_be_finite_and_positive(name, value):
    with pytest.raises(ValueError, match=rf"{name}=.* is not valid; expected a finite number > 0. Set it with"):
        check_parameters(parameters(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value"), [("alpha", 0.0), ("alpha", -1.0), ("curvature", -0.1), ("alpha", np.nan), ("curvature", np.inf)]
)
def test_settings_that_rows_may_choose_are_auto_or_real(name, value):
    with pytest.raises(ValueError, match=rf"{name}=.* is not valid; expected 'auto' or a finite number [>≥] 0. Set it"):
        check_parameters(parameters(**{name: value}))
    with pytest.raises(TypeError, match=rf"{name}='some' is a str; expected 'auto' or a number. Pass a float"):
        check_parameters(parameters(**{name: "some"}))
    check_parameters(parameters(**{name: "auto"}))
    check_parameters(parameters(**{name: 0.5}))


def test_values_linear_in_coordinates_may_be_asked_for():
    check_parameters(parameters(curvature=0))


@pytest.mark.parametrize("name", ["normalize", "remember"])
def test_a_switch_is_on_or_off(name):
    with pytest.raises(ValueError, match=rf"{name}=1 is not valid; expected True or False. Set it with set_params"):
        check(**{name: 1})


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_label_smoothing_lies_below_one(value):
    with pytest.raises(ValueError, match=r"label_smoothing=.* is not valid; expected"):
        check_parameters(parameters(label_smoothing=value))


@pytest.mark.parametrize("name", ["projection", "key_init", "solver", "objective"])
def test_unknown_choices_are_refused_with_the_valid_ones(name):
    with pytest.raises(ValueError, match=rf"{name}='magic' is not valid; expected one of '.*', '.*'. Set it with"):
        check(**{name: "magic"})


@pytest.mark.parametrize("value", ["heavy", 3, {0: -1.0}, {0: float("nan")}])
def test_class_weights_that_mean_nothing_are_refused(value):
    with pytest.raises(ValueError, match=r"class_weight=.* is not valid; expected .*Set it with set_params"):
        check_parameters(parameters(class_weight=value))


def test_more_selected_keys_than_keys_are_refused():
    message = r"n_selected=5 is not valid; expected at most n_keys=4. Set it with set_params\(n_selected"
    with pytest.raises(ValueError, match=message):
        resolve_layout(of_encoder(n_keys=4, n_selected=5), 10)


@pytest.mark.parametrize("value", [0, 17, "all"])
def test_selected_keys_lie_from_one_to_sixteen(value):
    with pytest.raises(ValueError, match=f"n_selected={value!r} is not valid; expected .*16"):
        resolve_layout(of_encoder(n_selected=value), 10)


def test_auto_selects_one_key():
    assert resolve_layout(of_encoder(n_keys=512), 10).n_selected == 1


def test_chunks_that_do_not_fill_the_features_are_refused():
    message = (
        "projection='chunk' with n_heads=3 and key_dim=2 reads 6 features; expected 7. "
        "Choose n_heads × key_dim = 7, or projection='gaussian'."
    )
    with pytest.raises(ValueError, match=message):
        resolve_layout(of_encoder(projection="chunk", n_heads=3, key_dim=2), 7)


def test_identity_reads_all_features_with_one_head():
    assert resolve_layout(of_encoder(projection="identity", n_heads=1, key_dim=3), 7).key_dim == 7
    with pytest.raises(ValueError, match=r"n_heads=2 is not valid; expected 1 with projection='identity'.*set_params"):
        resolve_layout(of_encoder(projection="identity", n_heads=2), 7)


def test_tensors_become_arrays():
    assert isinstance(as_array(torch.ones(2, requires_grad=True)), np.ndarray)


def test_half_precision_tensors_keep_their_numbers():
    for kind in (torch.float16, torch.bfloat16):
        np.testing.assert_array_equal(as_array(torch.tensor([1.5, -2.0], dtype=kind)), [1.5, -2.0])


def test_numbers_beyond_float32_are_refused():
    with pytest.raises(
        ValueError, match=r"X holds 1e\+39, which float32 cannot represent; expected magnitudes below.*Rescale X"
    ):
        as_float32(np.array([[1e39]]))


def test_codes_that_are_not_unsigned_are_refused():
    with pytest.raises(
        TypeError, match=r"codes have dtype int64; expected unsigned integers.*Pass encoder\.transform\(X\)"
    ):
        check_codes(np.zeros((3, 2), dtype=np.int64), LAYOUT)


@pytest.mark.parametrize("shape", [(3, 2, 1), (3, 5), (3, 1), (6,), ()])
def test_codes_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"codes have shape \(.*\); expected \(n, 2\), 1 per head.*Encode again with"):
        check_codes(np.zeros(shape, dtype=np.uint8), LAYOUT)


def test_codes_that_name_no_key_are_refused():
    with pytest.raises(ValueError, match=r"codes hold key 4; expected keys below 4. Encode again"):
        check_codes(np.full((3, 2), 4, dtype=np.uint8), LAYOUT)


def test_a_single_number_is_refused_as_codes():
    with pytest.raises(ValueError, match="codes have shape"):
        check_codes(np.uint8(1), LAYOUT)


def test_codes_of_any_unsigned_type_become_those_of_the_smallest_one_per_head_and_key():
    codes = check_codes(np.arange(12, dtype=np.uint64).reshape(3, 4) % 4, Layout(2, 4, 3, n_selected=2))
    assert (codes.shape, codes.dtype) == ((3, 2, 2), np.uint8)
    assert codes.ravel().tolist() == [0, 1, 2, 3] * 3


def test_codes_that_name_a_key_pruned_away_are_refused():
    mask = np.array([[True] * 4, [True, True, False, False]])
    assert check_codes(np.array([[3, 1]], dtype=np.uint8), LAYOUT, mask).shape == (1, 2, 1)
    with pytest.raises(ValueError, match=r"codes hold keys that prune\(\) removed; expected codes made after pruning"):
        check_codes(np.array([[3, 2]], dtype=np.uint8), LAYOUT, mask)


@pytest.mark.parametrize("given", ["fast", 3, [("learning_rate", 1.0)]])
def test_settings_of_steps_are_a_dict(given):
    with pytest.raises(ValueError, match=r"solver_params=.* is not valid; expected None or a dict. Set it with"):
        gradient_settings(given)


def test_unknown_settings_of_steps_are_refused_by_name():
    with pytest.raises(ValueError, match="solver_params has no setting 'rate'; expected names among learning_rate"):
        gradient_settings({"rate": 1.0})


def test_settings_of_steps_that_are_left_out_have_their_defaults():
    assert gradient_settings(None) == gradient_settings({}) == GRADIENT
    assert gradient_settings({"max_iter": 3}) == GRADIENT | {"max_iter": 3}


def test_classes_merge_sorted():
    assert merge_classes(np.array([5, 1]), np.array([3, 1, 3])).tolist() == [1, 3, 5]


@pytest.mark.parametrize(("known", "new"), [([0, 1], ["a"]), (["a", "b"], [1])])
def test_text_and_numbers_do_not_merge(known, new):
    message = (
        "y holds .*, but the learned classes have another type, such as .*; expected labels of one type.*Convert y"
    )
    with pytest.raises(ValueError, match=message):
        merge_classes(np.array(known), np.array(new))


def test_balanced_weights_are_those_of_scikit_learn():
    weights = class_weights("balanced", np.array([0, 1]), np.array([30.0, 10.0]))
    np.testing.assert_allclose(weights, [40 / 60, 40 / 20])


def test_a_class_not_seen_has_a_balanced_weight_of_one():
    assert class_weights("balanced", np.arange(3), np.array([4.0, 4.0, 0.0])).tolist() == [1.0, 1.0, 1.0]


def test_named_weights_go_to_their_class_and_others_weigh_one():
    assert class_weights({"b": 3}, np.array(["a", "b"]), np.ones(2)).tolist() == [1.0, 3.0]
