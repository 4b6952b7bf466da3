import copy
import re
from pathlib import Path

import pytest
import yaml

from pipeline.backbones import find_backbone
from pipeline.config import BANNED_KEYS, Params, Stream, load_params
from pipeline.config.defaults import with_defaults

SHIPPED = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture(scope="module")
def shipped():
    return yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))


@pytest.fixture
def tree(shipped):
    """The shipped settings, with defaults filled in."""
    return with_defaults(copy.deepcopy(shipped))


@pytest.fixture
def load(tmp_path):
    def load_tree(tree):
        path = tmp_path / "params.yaml"
        path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree), encoding="utf-8")
        return load_params(path)

    return load_tree


def test_shipped_settings_are_valid():
    params = load_params(SHIPPED)
    assert set(params.runs) == {"joint", "counts", "sgd"}
    assert params.run("joint").method == {"solver": "joint", "encoder": {"random_state": 0}}
    assert params.imports == {}
    assert params.embedding("photos").dataset == "photos"


def test_recipe_is_a_plain_dict(tree, load):
    assert load(tree).dataset("digits") == {"kind": "digits", "test_fraction": 0.3, "seed": 0}


BLURRY = {"kind": "blurry", "classes_per_task": 2, "blur": 0.3}
EXAMPLES = sorted((SHIPPED.parent / "examples").glob("*/params.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_settings_of_the_examples_are_valid(path):
    params = load_params(path)
    assert params.runs
    for backbone, layer in re.findall(r"backbone: (\w+)\n *layer: (\w+)", path.read_text(encoding="utf-8")):
        assert layer in find_backbone(backbone).layers


def test_the_papers_settings_have_its_orders_and_sizes():
    params = load_params(SHIPPED.parent / "examples/paper/params.yaml")
    assert {params.embedding_of(run).backbone for run in params.runs.values()} == {
        "resnet50_imagenet", "clip_vit_b32", "swav_resnet50w2", "dino_resnet50"
    }  # fmt: skip
    for run in params.runs.values():
        orders = run.stream.orders()
        assert [order[:2] for _, order in orders] == [[6, 8], [5, 9], [1, 5], [8, 2], [2, 3]]
        assert all(sorted(order) == list(range(10)) for _, order in orders)
        assert (run.method["encoder"]["n_heads"], run.method["encoder"]["n_keys"]) == (256, 4096)


def test_settings_cannot_be_changed_after_loading(tree, load):
    with pytest.raises(ValueError, match="frozen"):
        load(tree).run("counts").epochs_per_stage = 2


@pytest.mark.parametrize(
    ("path", "wrong", "right"),
    [
        (("runs", "counts"), "epoch_per_task", "epochs_per_task"),
        (("streams", "by_class"), "class_per_task", "classes_per_task"),
        (("baselines", "digits"), "method", "methods"),
        (("toy",), "solvers", "solver"),
        (("embeddings", "digits"), "image_sides", "image_side"),
        (("datasets", "digits"), "test_fractions", "test_fraction"),
    ],
)
def test_unknown_key_is_refused_with_its_path_and_the_nearest_name(tree, load, path, wrong, right):
    table = tree
    for key in path:
        table = table[key]
    table[wrong] = 1
    with pytest.raises(ValueError, match=rf"{path[0]}\..*{wrong} is not a setting.*mean '{right}'\?\); exp"):
        load(tree)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (4, "image_side is 4; expected a value greater than or equal to 8. Correct the value"),
        ("big", "image_side is 'big'; expected a valid integer"),
        ([], r"image_side is \[\]; expected a valid integer"),
    ],
)
def test_a_wrong_value_is_answered_with_what_is_expected(tree, load, value, said):
    tree["embeddings"]["digits"]["image_side"] = value
    with pytest.raises(ValueError, match=rf"embeddings\.digits\.{said}"):
        load(tree)


def test_missing_key_is_named(tree, load):
    del tree["runs"]["counts"]["stream"]
    with pytest.raises(ValueError, match=r"runs\.counts\.stream is missing; .* Add the key"):
        load(tree)


@pytest.mark.parametrize("banned", BANNED_KEYS)
@pytest.mark.parametrize("path", [("runs",), ("runs", "counts", "method", "encoder"), ("datasets", "digits")])
def test_keys_that_dvc_does_not_hash_are_refused(tree, load, banned, path):
    table = tree
    for key in path:
        table = table[key]
    table[banned] = copy.deepcopy(next(iter(table.values())))
    with pytest.raises(ValueError, match=rf"{'.'.join(path)}\.{banned}: DVC leaves .* Rename it"):
        load(tree)


@pytest.mark.parametrize("name", ["di.gits", "di/gits", "di gits", ""])
def test_ids_are_letters_digits_and_underscores(tree, load, name):
    tree["datasets"][name] = tree["datasets"]["digits"]
    with pytest.raises(ValueError, match="pattern"):
        load(tree)


@pytest.mark.parametrize("name", ["train_digits", "toy"])
def test_run_ids_that_would_share_a_file_are_refused(tree, load, name):
    tree["runs"][name] = tree["runs"]["counts"]
    with pytest.raises(ValueError, match=rf"runs\.{name}: metrics/{name}\.json is reserved for another"):
        load(tree)


def test_reference_to_a_missing_entry_names_the_nearest(tree, load):
    tree["runs"]["counts"]["embeddings"] = "digit"
    with pytest.raises(ValueError, match=r"runs\.counts\.embeddings: 'digit' is not .*did you mean 'digits'\?"):
        load(tree)


def test_unknown_run_names_the_nearest(tree, load):
    with pytest.raises(ValueError, match=r"'conts' is not an entry of runs \(did you mean 'counts'\?"):
        load(tree).run("conts")


@pytest.mark.parametrize(("field", "other"), [("backbone", "dino_resnet50"), ("layer", "layer3")])
def test_keys_from_another_embedding_space_are_refused(tree, load, field, other):
    tree["embeddings"]["photos"][field] = other
    with pytest.raises(ValueError, match=rf"runs\.counts: keys come from 'photos' with {field} '{other}'"):
        load(tree)


def test_keys_of_the_first_task_must_be_the_runs_own(tree, load):
    tree["runs"]["counts"]["key_rows"] = "first_task"
    with pytest.raises(ValueError, match="key_rows is 'first_task', but keys names 'photos'"):
        load(tree)
    tree["runs"]["counts"] |= {"keys": "digits", "baselines": None}
    assert load(tree).run("counts").key_rows == "first_task"


def test_number_that_two_readers_read_differently_is_refused(tree, load):
    tree["runs"]["counts"]["method"]["learning_rate"] = "1e-3"
    with pytest.raises(ValueError, match=r"runs\.counts\.method\.learning_rate: '1e-3' is text .* Write 0\.001"):
        load(tree)


@pytest.mark.parametrize("value", [0.0, 1.0, "0.3", None])
def test_value_out_of_range_or_of_another_type_is_refused(tree, load, value):
    tree["datasets"]["digits"]["test_fraction"] = value
    with pytest.raises(ValueError, match=r"datasets\.digits\.digits\.test_fraction is .*Correct the value"):
        load(tree)


def test_repeated_seed_is_refused(tree, load):
    tree["streams"]["by_class"]["order_seeds"] = [1, 1]
    with pytest.raises(ValueError, match="names a seed twice"):
        load(tree)


def test_order_is_said_once(tree, load):
    tree["streams"]["by_class"]["class_orders"] = [[1, 0]]
    with pytest.raises(ValueError, match="expected one of them"):
        load(tree)


def test_a_run_holds_the_stream_that_it_names(tree, load):
    params = load(tree)
    assert params.run("counts").stream == params.streams["by_class"] == params.baseline("digits").stream
    tree["runs"]["counts"] |= {"stream": BLURRY, "baselines": None}
    assert load(tree).run("counts").stream == Stream.model_validate(BLURRY)
    tree["runs"]["counts"]["stream"] = "by_clas"
    with pytest.raises(ValueError, match=r"runs\.counts\.stream: 'by_clas' is not .*did you mean 'by_class'\?"):
        load(tree)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"stream": BLURRY}, "stream"),
        ({"keys": "digits"}, "keys"),
        ({"method": {"encoder": {"normalize": False}}}, "normalize"),
    ],
)
def test_baselines_that_met_something_else_are_refused(tree, load, changes, field):
    tree["runs"]["counts"] |= changes
    with pytest.raises(
        ValueError, match=rf"runs\.counts: {field} is .* in its baselines 'digits'; .* name other baselines"
    ):
        load(tree)
    tree["runs"]["counts"]["baselines"] = "digit"
    with pytest.raises(
        ValueError, match=r"runs\.counts\.baselines: 'digit' is not an entry of baselines \(did you mean"
    ):
        load(tree)


def test_a_baseline_named_twice_or_unknown_is_refused(tree, load):
    tree["baselines"]["digits"]["methods"] = ["mlp", "mlp"]
    with pytest.raises(ValueError, match=r"baselines\.digits: methods .* names a method twice; expected each"):
        load(tree)
    tree["baselines"]["digits"]["methods"] = ["transformer"]
    with pytest.raises(ValueError, match=r"baselines\.digits\.methods\.0 is 'transformer'"):
        load(tree)


def test_key_given_twice_is_refused(load):
    with pytest.raises(ValueError, match=r"line 4 of .*params\.yaml: key 'runs' is given twice; expected it once"):
        load("datasets: {}\nembeddings: {}\nruns: {}\nruns: {}\n")


@pytest.mark.parametrize(("text", "problem"), [("runs: [", "not valid YAML"), ("3\n", "contains 3; expected tables")])
def test_broken_file_is_named(load, text, problem):
    with pytest.raises(ValueError, match=rf"params\.yaml.*{problem}"):
        load(text)


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        load_params(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("image_side: 96", "image_sid: 96", r"image_sid is not a setting \(did you mean 'image_side'\?"),
        (
            "kind: digits",
            "kind: digit",
            r"datasets\.digits\.kind is 'digit' \(did you mean 'digits'\?\); expected one of",
        ),
    ],
)
def test_a_misspelling_in_the_real_settings_is_named_with_the_nearest_name(tmp_path, right, wrong, said):
    text = (Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text.replace(right, wrong, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        load_params(tmp_path / "params.yaml")


# described networks


FILE = {"library": "torchvision", "model": "mobilenet_v2", "weights": "../weights/trunk.safetensors"}


def with_backbone(tree, **described):
    for name in ("digits", "photos"):
        tree["embeddings"][name]["backbone"] = dict(described)
    return tree


def test_a_described_network_is_known_by_library_architecture_and_weights(tree, load):
    settings = load(with_backbone(tree, **FILE, without_classifier=True, crop_pct=1)).embedding("digits")
    assert settings.backbone == "torchvision:mobilenet_v2:trunk"
    assert settings.network.recipe() == FILE | {
        "id": settings.backbone, "file": FILE["weights"], "without_classifier": True, "crop_pct": 1
    }  # fmt: skip
    own = load(with_backbone(tree, library="timm", model="resnet18", weights="a1_in1k")).embedding("digits")
    assert (own.backbone, own.network.recipe()["file"]) == ("timm:resnet18:a1_in1k", None)
    assert (
        load(yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))).embedding("digits").backbone == "efficientnet_lite0"
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"means": [0, 0, 0]}, r"backbone\.means is not a setting \(did you mean 'mean'\?\); expected one of library"),
        ({"library": "keras"}, r"backbone\.library is 'keras'; .*'torchvision', 'timm' or 'open_clip'"),
        ({"model": "hf-hub:some/net"}, r"backbone\.model is 'hf-hub:some/net'; .*Correct the value"),
        ({"mean": [0.5, 0.5]}, r"backbone\.mean is \[0\.5, 0\.5\]; .*at least 3 items.*Correct the value"),
        ({"std": [0.5, 0.5, 0]}, r"backbone\.std\.2 is 0; .*greater than 0"),
        ({"interpolation": "nearest"}, r"backbone\.interpolation is 'nearest'; .*'bilinear' or 'bicubic'"),
        ({"crop_pct": 1.2}, r"backbone\.crop_pct is 1\.2; .*less than or equal to 1"),
        ({"sha256": "xyz"}, r"backbone\.sha256 is 'xyz'"),
        ({"weights": "IMAGENET1K_V1", "prefix": "a."}, r"prefix is for a checkpoint file, but weights 'IMA"),
    ],
)  # fmt: skip
def test_a_wrong_description_is_one_sentence(tree, load, changes, text):
    with pytest.raises(ValueError, match=rf"embeddings\.digits\.{'backbone: ' if 'prefix' in changes else ''}{text}"):
        load(with_backbone(tree, **FILE | changes))


def test_a_description_without_weights_is_refused(tree, load):
    with pytest.raises(ValueError, match=r"embeddings\.digits\.backbone\.weights is missing; .*Add the key"):
        load(with_backbone(tree, library="timm", model="resnet18"))


def test_a_backbone_is_a_name_or_a_description(tree, load):
    tree["embeddings"]["digits"]["backbone"] = 3
    with pytest.raises(ValueError, match=r"embeddings\.digits\.backbone is 3; expected text"):
        load(tree)
    del tree["embeddings"]["digits"]["backbone"]
    with pytest.raises(ValueError, match=r"embeddings\.digits\.backbone is missing"):
        load(tree)
    tree["embeddings"]["digits"]["backbon"] = "dino_resnet50"
    with pytest.raises(ValueError, match=r"backbon is not a setting \(did you mean 'backbone'\?"):
        load(tree)


def test_keys_from_the_same_network_prepared_otherwise_are_refused(tree, load):
    with_backbone(tree, **FILE)
    load(tree)
    tree["embeddings"]["photos"]["backbone"]["mean"] = [0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match=r"keys come from 'photos' with backbone \{.*'mean': \[0\.5, .*entries agree"):
        load(tree)


def test_folders_are_datasets_and_imports_a_table_of_their_own(tree, load):
    tree["datasets"]["pets"] = {"kind": "folder", "root": "data/pets", "skip_corrupt": True}
    tree["imports"] = {"mine": {"cache": "imported/mine.h5"}}
    tree["embeddings"]["pets"] = tree["embeddings"]["digits"] | {"dataset": "pets"}
    tree["runs"]["mine"] = tree["runs"]["counts"] | {"embeddings": "mine", "keys": "mine", "baselines": None}
    params = load(tree)
    assert params.dataset("pets") == {
        "kind": "folder", "root": "data/pets", "test_fraction": 0.2, "seed": 0, "skip_corrupt": True,
        "follow_links": False,
    }  # fmt: skip
    assert params.imported("mine").cache == "imported/mine.h5"
    assert params.embedding_of(params.run("mine")).backbone is None
    assert params.embedding_of(params.run("counts")).backbone == "efficientnet_lite0"


def test_a_name_in_two_tables_is_refused(tree, load):
    tree["imports"] = {"digits": {"cache": "x.h5"}}
    with pytest.raises(ValueError, match="'digits' is an entry of both embeddings and imports; expected different"):
        load(tree)


def test_defaults_stand_under_every_entry_and_its_own_settings_count_more(load, shipped):
    params = load(shipped)
    assert params.run("counts").method["encoder"] == {"n_heads": 256, "n_keys": 256, "key_dim": 14, "random_state": 0}
    assert (params.run("sgd").epochs_per_task, params.run("joint").epochs_per_task) == (20, 1)
    shipped = copy.deepcopy(shipped)
    shipped["defaults"]["runs"]["method"]["encoder"]["random_state"] = 7
    shipped["runs"]["bare"] = None
    seeds = [run.method["encoder"]["random_state"] for run in load(shipped).runs.values()]
    assert seeds == [7] * 4


@pytest.mark.parametrize("defaults", [3, {"run": {}}, {"runs": 3}])
def test_defaults_of_no_table_are_refused(tree, load, defaults):
    with pytest.raises(ValueError, match=r"defaults contains .*; expected settings of datasets, .*\. Name the table"):
        load(tree | {"defaults": defaults})


OLD = {
    "rivals": ({"rivals": {}}, r"rivals is now baselines; expected the new name\. Rename the table"),
    "folders": ({"folders": {"a": {"root": "x"}}}, "folders is now part of datasets; .* add kind: folder"),
    "tap": ({"embeddings": {"e": {"tap": "x"}}}, r"embeddings\.e\.tap is now layer; .*Rename the setting"),
    "licence": ({"embeddings": {"e": {"backbone": {"licence": "x"}}}}, r"e\.backbone\.licence is now license"),
    "crop_ratio": ({"embeddings": {"e": {"backbone": {"crop_ratio": 1}}}}, r"e\.backbone\.crop_ratio is now crop_pct"),
    "classes_per_stage": ({"streams": {"s": {"classes_per_stage": 1}}}, r"classes_per_stage is now classes_per_task"),
    "n_stages": ({"streams": {"s": {"n_stages": 1}}}, r"streams\.s\.n_stages is now n_tasks"),
    "heads": ({"baselines": {"b": {"heads": []}}}, r"baselines\.b\.heads is now methods"),
    "a run's rivals": ({"runs": {"r": {"rivals": "b"}}}, r"runs\.r\.rivals is now baselines"),
    "epochs_per_stage": ({"runs": {"r": {"epochs_per_stage": 1}}}, r"epochs_per_stage is now epochs_per_task"),
    "estimator": ({"runs": {"r": {"estimator": {}}}}, r"runs\.r\.estimator is now method"),
    "flat": ({"runs": {"r": {"method": {"n_keys": 1}}}}, r"method\.n_keys is now a setting of the encoder; .* Move it"),
    "first_stage": ({"runs": {"r": {"key_rows": "first_stage"}}}, r"key_rows: first_stage is now first_task"),
    "a search's estimator": ({"searches": {"q": {"estimator": {}}}}, r"searches\.q\.estimator is now method"),
    "toy": ({"toy": {"samples_per_stage": 3}}, r"toy\.samples_per_stage is now samples_per_task"),
}


@pytest.mark.parametrize("name", OLD)
def test_a_name_of_older_settings_is_answered_with_the_new_one(load, name):
    tree, said = OLD[name]
    with pytest.raises(ValueError, match=said):
        load(tree)


@pytest.mark.parametrize(
    ("table", "entry", "text"),
    [
        (
            "datasets",
            {"kind": "folder", "root": "x", "skip_corupt": True},
            "skip_corupt is not a setting (did you mean 'skip_corrupt'",
        ),
        ("imports", {"cahce": "x"}, "imports.pets.cahce is not a setting (did you mean 'cache'"),
        ("imports", {"cache": ""}, "imports.pets.cache is ''; "),
    ],
)  # fmt: skip
def test_a_wrong_folder_or_import_is_named(tree, load, table, entry, text):
    tree[table] = {"pets": entry}
    with pytest.raises(ValueError, match=re.escape(text)):
        load(tree)


def test_an_unknown_reference_offers_both_tables(tree, load):
    tree["imports"] = {"mine": {"cache": "x.h5"}}
    tree["runs"]["counts"]["embeddings"] = "mime"
    with pytest.raises(ValueError, match=r"'mime' is not an entry of embeddings or imports \(did you mean 'mine'\?"):
        load(tree)


# YAML that two readers interpret differently

ALONE = "datasets:\n"


def test_merge_keys_work_and_own_values_count_more(load):
    text = ALONE + "  a: &a\n    kind: folder\n    root: x\n    seed: 1\n  b:\n    <<: *a\n    seed: 2\n"
    params = load(text + "  c:\n    <<: [*a, {seed: 3}]\nimports:\n  <<: {}\n")
    assert {name: (entry.root, entry.seed) for name, entry in params.datasets.items()} == {
        "a": ("x", 1), "b": ("x", 2), "c": ("x", 1),
    }  # fmt: skip
    assert params.imports == {}


@pytest.mark.parametrize("table", [name for name in Params.model_fields if name != "toy"])
@pytest.mark.parametrize(
    "text", ["", "{table}:\n", "{table}: {{}}\n", "{table}: null\n", "{table}:\n  # a: 1\n", "# all\n"]
)
def test_every_table_may_be_missing_or_empty(load, table, text):
    assert getattr(load(text.format(table=table)), table) == {}


@pytest.mark.parametrize("text", ["", "toy:\n"])
def test_without_settings_there_is_no_toy(load, text):
    assert load(text).toy is None


def test_every_setting_of_the_toy_has_a_default(load):
    assert load("toy: {}\n").toy.steps == 1000


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("no", "true or false"), ("yes", "true or false"), ("on", "true or false"), ("Off", "true or false"),
        ("true", "true or false"), ("null", "nothing"), ("2024", "a number"), ("1e3", "a number"),
        ("0x1F", "a number"), ("0o17", "a number"), ("010", "a number"), ("09", "a number"), ("1_000", "a number"),
    ],
)  # fmt: skip
def test_an_id_that_yaml_reads_as_something_else_is_to_be_quoted(load, name, kind):
    with pytest.raises(
        ValueError, match=rf"datasets\.{name}: YAML reads the name {name} as {kind}; expected text .*'{name}'\.$"
    ):
        load(f"{ALONE}  {name}:\n    root: x\n    kind: folder\n")
    for quoted in (f"'{name}'", f'"{name}"'):
        params = load(f"{ALONE}  {quoted}:\n    root: x\n    kind: folder\n" + EMBEDDED.format(quoted))
        assert list(params.datasets) == [name] == [params.embedding("e").dataset]


EMBEDDED = """embeddings:
  e: {{dataset: {}, backbone: b, layer: t, image_side: 32, compute_dtype: float32, storage_dtype: float16}}
"""


@pytest.mark.parametrize("name", ["1.5", "2024-01-01", "~", "0.5e3"])
def test_an_id_that_quotes_do_not_help_is_to_be_renamed(load, name):
    with pytest.raises(ValueError, match=r"expected text of letters, digits and underscores\. Rename it"):
        load(f"{ALONE}  {name}:\n    root: x\n    kind: folder\n")


@pytest.mark.parametrize("name", ["no", "2024", "null", "1.5", "2024-01-01"])
def test_a_reference_that_yaml_reads_as_something_else_is_to_be_quoted(load, name):
    with pytest.raises(ValueError, match=r"embeddings\.e\.dataset is .*; expected text\. Correct it, with quotes"):
        load(EMBEDDED.format(name))


@pytest.mark.parametrize(("name", "number"), [("1e3", "1000.0"), ("0o17", "15"), ("09", "9")])
def test_a_value_that_is_a_number_to_dvc_alone_is_named(load, name, number):
    with pytest.raises(
        ValueError, match=rf"dataset: '{name}' is text to one YAML reader .*\. Write {number} or '{name}'"
    ):
        load(EMBEDDED.format(name))


def test_merged_bombs_are_refused_before_they_are_built(load):
    lines = ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12)]
    with pytest.raises(ValueError, match="contains more than 100,000 values once its aliases are expanded"):
        load("\n".join(lines))


def test_a_byte_order_mark_is_skipped_and_another_encoding_named(load, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(ALONE + "  a: {root: x, kind: folder}\n", encoding="utf-8-sig")
    assert list(load_params(path).datasets) == ["a"]
    for encoding in ("utf-16", "utf-32"):
        path.write_text(ALONE, encoding=encoding)
        with pytest.raises(ValueError, match=rf"params\.yaml is text in {encoding.upper()}; expected UTF-8.*Save it"):
            load_params(path)
    path.write_bytes("# Käfer\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"not text in UTF-8 \(byte 3 is 0xe4\); expected UTF-8\. Save"):
        load_params(path)


def test_a_character_that_yaml_forbids_ends_in_a_sentence(load):
    with pytest.raises(ValueError, match=r"params\.yaml is not valid YAML \(unacceptable character #x000e.*; expected"):
        load("\x0e")
