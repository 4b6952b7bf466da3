"""Splits and classes are distinguished for all names, or refused in one sentence; omissions are reported."""

import time
import unicodedata

import pytest
from PIL import Image

from pipeline.data.folder_layout import list_images, split_of


@pytest.fixture
def put(tmp_path):
    """Write two images into each named folder, or one image if the name is a file."""

    def call(*places):
        for place in places:
            paths = [place] if "." in place else [f"{place}/{number}.png" for number in range(2)]
            for path in paths:
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (2, 2)).save(tmp_path / path, format="PNG")
        return tmp_path

    return call


def layout(*splits):
    return [f"{split}/{name}" for split in splits for name in ("ant", "bee")]


def counts(listing):
    """Return the number of images by folder and split."""
    found = {}
    for path, _, split in listing.rows:
        key = (path.split("/")[0], split)
        found[key] = found.get(key, 0) + 1
    return found


def refusal(root):
    with pytest.raises(ValueError, match=r"^dataset pets .*; expected .*\. [A-Z]") as caught:
        list_images("pets", root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# splits by their names

TRAIN_AND_TEST = [
    ("train", "test"), ("Train", "Test"), ("TRAIN", "TEST"), ("training", "testing"), ("Training", "Test"),
    ("train_set", "test_set"), ("trainset", "testset"), ("Training Set", "Testing Set"),
    ("train_images", "test_images"), ("images_train", "images_test"), ("train2017", "test2017"),
    ("TrainData", "TestData"), ("mini_train", "mini_test"),
    ("train-224px", "test-224px"), ("seg_train", "seg_test"), ("trainval", "test"), ("entraînement", "test"),
    ("entrenamiento", "prueba"), ("Trainingsdaten", "Testdaten"), ("训练集", "测试集"), ("訓練データ", "テストデータ"),
]  # fmt: skip


@pytest.mark.parametrize(("train", "test"), TRAIN_AND_TEST)
def test_train_and_test_are_known_by_any_usual_name(put, train, test):
    listing = list_images("pets", put(*layout(train, test)))
    assert listing.class_names == ("ant", "bee")
    assert counts(listing) == {(train, "train"): 4, (test, "test"): 4}
    assert listing.notes == ()


@pytest.mark.parametrize(
    "val", ["val", "Valid", "validation", "VALIDATION_SET", "dev", "val2017", "eval", "validación"]
)
def test_validation_images_beside_train_and_test_are_left_out_and_told(put, val):
    listing = list_images("pets", put(*layout("train", "test", val)))
    assert counts(listing) == {("train", "train"): 4, ("test", "test"): 4}
    assert listing.class_names == ("ant", "bee")
    assert [note for note in listing.notes if note.startswith(f"warning: 4 images of {val} are left out")]


@pytest.mark.parametrize(
    ("train", "val"), [("train", "val"), ("Training", "Valid"), ("train", "dev"), ("train2012", "val2012")]
)
def test_validation_images_serve_as_test_where_there_are_no_others(put, train, val):
    listing = list_images("pets", put(*layout(train, val)))
    assert counts(listing) == {(train, "train"): 4, (val, "test"): 4}
    assert listing.notes == (f"{val} is used as the test split, because there is no folder test.",)


@pytest.mark.parametrize("train", ["train", "Train", "training_set"])
def test_of_train_alone_a_share_is_to_be_drawn(put, train):
    listing = list_images("pets", put(*layout(train)))
    assert counts(listing) == {(train, None): 4}
    assert listing.class_names == ("ant", "bee")
    assert listing.notes == (f"the test split is drawn from {train}, because there is no folder test.",)


@pytest.mark.parametrize(
    ("splits", "text"),
    [
        (("test",), "but none for training"),
        (("val", "test"), "but none for training"),
        (("train", "Train", "test"), "2 folders for the split train (Train, train)"),
        (("train", "test", "testing"), "2 folders for the split test (test, testing)"),
        (("train", "val", "dev"), "2 folders for the split test (dev, val)"),
        (("trainA", "trainB", "testA", "testB"), "2 folders for the split train (trainA, trainB)"),
        (("train", "test", "unlabeled"), "named like splits (test, train) beside others (unlabeled)"),
        (("train", "train_extra", "val"), "2 folders for the split train"),
    ],
)
def test_splits_without_train_twice_or_beside_others_are_refused(put, splits, text):
    assert text in refusal(put(*layout(*splits)))


@pytest.mark.parametrize("outer", ["ant", "data", "train", "pets/images"])
def test_splits_below_other_folders_are_refused(put, outer):
    root = put(f"{outer}/train/ant", f"{outer}/test/ant")
    assert f"named like splits (test, train) inside {root / outer}" in refusal(root)


def test_images_of_a_split_that_stand_in_no_class_folder_are_refused(put):
    text = refusal(put(*layout("train"), "test"))
    assert "no class folders in" in text
    assert "only images (test/0.png, test/1.png)" in text
    assert "move this folder out of the root" in text
    assert "no class folders" in refusal(put("train", "val"))


def test_a_test_split_without_images_is_refused(put):
    root = put(*layout("train"))
    (root / "test/ant").mkdir(parents=True)
    assert "no images in the class folders of" in refusal(root)


def test_folders_without_images_beside_splits_are_no_matter(put):
    root = put(*layout("train", "test"))
    (root / "annotations").mkdir()
    (root / "annotations/boxes.csv").write_text("0,0,1,1")
    listing = list_images("pets", root)
    assert listing.class_names == ("ant", "bee")
    assert "annotations/boxes.csv" in listing.notes[0]


def test_splits_whose_images_are_all_of_formats_not_read_are_no_classes(put):
    root = put("train/ant/0.heic", "test/ant/0.heic")
    assert "(train/ant/0.heic)" in refusal(root)


# classes with names of splits


@pytest.mark.parametrize("names", [("bus", "train"), ("valid", "invalid"), ("control", "test"), ("dev", "prod")])
def test_a_class_of_images_may_have_the_name_of_a_split(put, names):
    assert list_images("pets", put(*names)).class_names == tuple(sorted(names))


def test_classes_of_a_split_may_too(put):
    root = put("train/train", "train/bus", "test/train", "test/bus")
    assert list_images("pets", root).class_names == ("bus", "train")


@pytest.mark.parametrize(
    "name",
    ["trains", "trainer", "contest", "testimonial", "train station", "test tube", "invalid", "devil", "evil", "2017"],
)
def test_words_that_only_contain_one_are_no_splits(name):
    assert split_of(name) is None


@pytest.mark.parametrize("word", ["dataset", "imageset", "a", "set", "images1", "trainset"])
def test_no_name_takes_long_to_compare(word):
    start = time.perf_counter()
    assert split_of((word * 255)[:250] + "q") is None
    assert time.perf_counter() - start < 1


# one name in two spellings

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def test_two_spellings_of_a_class_in_two_splits_are_one_class(put):
    root = put(f"train/{COMPOSED}", f"test/{DECOMPOSED}")
    listing = list_images("pets", root)
    assert listing.class_names == (COMPOSED,)
    assert [(path, label) for path, label, _ in listing.rows] == [
        (f"train/{COMPOSED}/0.png", 0),
        (f"train/{COMPOSED}/1.png", 0),
        (f"test/{DECOMPOSED}/0.png", 0),
        (f"test/{DECOMPOSED}/1.png", 0),
    ]


def test_two_spellings_of_a_class_side_by_side_are_refused(put):
    root = put(COMPOSED, DECOMPOSED)
    if len(list(root.iterdir())) < 2:
        pytest.skip("this file system takes them for one name")
    text = refusal(root)
    assert "look the same" in text
    assert r"'caf\xe9'" in text


def test_two_spellings_of_an_image_are_two_images(put):
    root = put(f"ant/{COMPOSED}.png", f"ant/{DECOMPOSED}.png", "bee")
    if len(list((root / "ant").iterdir())) < 2:
        pytest.skip("this file system takes them for one name")
    assert len(list_images("pets", root).rows) == 4


# omissions


def test_everything_that_is_left_out_is_counted_and_named(put):
    root = put("ant", "bee", "loose.png", ".ipynb_checkpoints/ant")
    (root / "ant/README").write_text("read me")
    (root / "ant/0.heic").write_bytes(b"ftypheic")
    (root / "ant/again").symlink_to(".")
    assert list_images("pets", root).notes == (
        "warning: images outside the class folders, left out: 1 (loose.png). Move them into one.",
        "warning: links to folders that are already listed, left out: 1 (ant/again). "
        "Copy the folder to list it here too.",
        "files in unsupported formats, left out: 2 (ant/0.heic, ant/README). Convert images among them to PNG or JPEG.",
        "hidden and system entries left out: 1 (.ipynb_checkpoints). Rename any that belong to the data.",
    )


def test_loose_images_beside_class_folders_of_a_split_are_told(put):
    listing = list_images("pets", put(*layout("train", "test"), "train/loose.png"))
    assert len(listing.rows) == 8
    assert listing.notes[0].startswith("warning: images outside the class folders, left out: 1 (train/loose.png)")


def test_a_class_of_formats_that_are_not_read_is_refused_with_their_names(put):
    root = put("ant", "bee/0.heic", "bee/1.svg")
    text = refusal(root)
    assert "no images, only files in unsupported formats (bee/0.heic, bee/1.svg), in" in text
    assert "expected some for class 'bee'" in text


def test_a_class_of_the_test_split_alone_is_refused(put):
    assert "train/cat; expected some for class 'cat'" in refusal(put(*layout("train", "test"), "test/cat"))
