import errno
import hashlib
import os
import pickle
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.datasets import DATASET_KINDS
from pipeline.data import datasets
from pipeline.data.datasets import build_manifest, open_images, read_manifest, remarks, shared_images, write_manifest

DIGITS = {"kind": "digits", "test_fraction": 0.3, "seed": 0}
PHOTOS = {"kind": "photos", "n_crops": 80, "seed": 0}
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def digits():
    return build_manifest("digits", DIGITS)


@pytest.fixture(scope="module")
def photos():
    return build_manifest("photos", PHOTOS)


@pytest.fixture
def folder(tmp_path):
    """Ten images each of two classes, below one root."""
    for class_name, colour in {"ant": (200, 0, 0), "bee": (0, 200, 0)}.items():
        save_images(tmp_path / "pets" / class_name, 10, colour)
    return tmp_path / "pets"


def save_images(place, n, colour):
    place.mkdir(parents=True)
    for number in range(n):
        Image.new("RGB", (6, 4), (*colour[:2], number)).save(place / f"{number}.png")


def folder_recipe(root, **changes):
    return {"kind": "folder", "root": str(root), "test_fraction": 0.2, "seed": 0} | changes


def pixels(image):
    return np.asarray(image)


def splits_of(manifest):
    return np.array(manifest.splits)


# digits


def test_digits_have_their_known_counts(digits):
    assert len(digits.sample_ids) == len(set(digits.sample_ids)) == 1797
    assert (digits.splits.count("train"), digits.splits.count("test")) == (1257, 540)
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.labels.dtype == np.int64
    assert digits.class_names == tuple("0123456789")


def test_digits_are_split_in_proportion_in_every_class(digits):
    in_test = splits_of(digits) == "test"
    shares = np.bincount(digits.labels[in_test]) / np.bincount(digits.labels)
    assert np.abs(shares - 0.3).max() < 0.005  # rounded to integers for about 180 images


def test_digits_manifest_has_the_same_bytes_twice(digits, tmp_path):
    again = build_manifest("digits", DIGITS)
    for name, manifest in {"one": digits, "two": again}.items():
        write_manifest(manifest, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert hashlib.sha256((tmp_path / "one").read_bytes()).hexdigest() == digits.sha256 == again.sha256


def test_another_seed_moves_digits_between_splits_and_nothing_else(digits):
    other = build_manifest("digits", DIGITS | {"seed": 1})
    assert other.splits != digits.splits
    assert other.splits.count("test") == 540
    assert (other.digests, other.labels.tolist()) == (digits.digests, digits.labels.tolist())
    assert other.sha256 != digits.sha256


def test_a_digit_image_shows_what_scikit_learn_holds(digits):
    from sklearn.datasets import load_digits

    grey = load_digits().images[17]
    image = pixels(open_images(digits)[17])
    assert image.shape == (8, 8, 3)
    assert image.dtype == np.uint8
    for channel in range(3):
        assert np.abs(image[..., channel] - grey * 255 / 16).max() <= 0.5


# photographs


def test_photo_crops_follow_from_the_seed(photos):
    assert build_manifest("photos", PHOTOS).digests == photos.digests
    assert not set(build_manifest("photos", PHOTOS | {"seed": 1}).digests) & set(photos.digests)


def test_more_photo_crops_begin_with_the_same_ones(photos):
    assert build_manifest("photos", PHOTOS | {"n_crops": 90}).digests[:80] == photos.digests


def test_photo_crops_are_distinct_unlabelled_and_all_in_train(photos):
    assert len(set(photos.digests)) == len(set(photos.sample_ids)) == 80
    assert (photos.labels == -1).all()
    assert set(photos.splits) == {"train"}
    assert photos.class_names == ()


def test_photo_crops_are_square_and_of_several_scales(photos):
    sizes = [image.size for image in open_images(photos)]
    sides = np.array([width for width, _ in sizes])
    assert all(width == height for width, height in sizes)
    assert 51 <= sides.min() < 80  # 12 % of the shorter side, 427 pixels
    assert 220 < sides.max() <= 320  # 75 %
    assert len(set(sides)) > 40


def test_photo_crops_lie_in_both_photographs(photos):
    from sklearn.datasets import load_sample_image

    images = open_images(photos)
    for row, name in enumerate(["china.jpg", "flower.jpg"]):
        crop, photo = pixels(images[row]), load_sample_image(name)
        side = len(crop)
        corners = np.argwhere((photo == crop[0, 0]).all(axis=2))
        assert any(np.array_equal(photo[top : top + side, left : left + side], crop) for top, left in corners)


# folders


def test_a_folder_without_splits_is_divided_by_the_seed(folder):
    manifest = build_manifest("pets", folder_recipe(folder))
    assert manifest.class_names == ("ant", "bee")
    assert manifest.sample_ids[:2] == ("ant/0.png", "ant/1.png")
    assert manifest.labels.tolist() == [0] * 10 + [1] * 10
    in_test = splits_of(manifest) == "test"
    assert np.bincount(manifest.labels[in_test]).tolist() == [2, 2]
    assert build_manifest("pets", folder_recipe(folder)).splits == manifest.splits
    assert build_manifest("pets", folder_recipe(folder, seed=1)).splits != manifest.splits


def test_a_folder_with_train_and_test_keeps_them(tmp_path):
    for split, n in {"train": 3, "test": 1}.items():
        for class_name in ("ant", "bee"):
            save_images(tmp_path / split / class_name, n, (10, 20))
    manifest = build_manifest("pets", folder_recipe(tmp_path))
    assert manifest.sample_ids == (
        *(f"train/{name}/{number}.png" for name in ("ant", "bee") for number in range(3)),
        "test/ant/0.png",
        "test/bee/0.png",
    )
    assert manifest.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 1]
    assert manifest.splits == ("train",) * 6 + ("test",) * 2


def test_a_class_may_lack_test_images(tmp_path):
    save_images(tmp_path / "train" / "ant", 2, (1, 2))
    save_images(tmp_path / "train" / "bee", 2, (1, 2))
    save_images(tmp_path / "test" / "bee", 1, (1, 2))
    assert build_manifest("pets", folder_recipe(tmp_path)).labels.tolist() == [0, 0, 1, 1, 1]


def test_files_that_are_no_images_are_passed_over(folder):
    (folder / "ant" / "notes.txt").write_text("three of them are wasps")
    assert len(build_manifest("pets", folder_recipe(folder)).sample_ids) == 20


def test_a_folder_manifest_lists_the_sha256_of_each_file(folder):
    manifest = build_manifest("pets", folder_recipe(folder))
    for sample_id, digest in zip(manifest.sample_ids, manifest.digests, strict=True):
        assert hashlib.sha256((folder / sample_id).read_bytes()).hexdigest() == digest


def test_the_images_of_a_folder_are_those_of_its_files(folder):
    images = open_images(build_manifest("pets", folder_recipe(folder)))
    assert len(images) == 20
    assert pixels(images[13])[0, 0].tolist() == [0, 200, 3]
    assert images[13].mode == "RGB"


def test_images_travel_to_other_processes(folder):
    images = open_images(build_manifest("pets", folder_recipe(folder)))
    assert np.array_equal(pixels(pickle.loads(pickle.dumps(images))[4]), pixels(images[4]))


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"root of dataset pets is .*nowhere.*expected.*Correct root in params\.yaml"
    ):
        build_manifest("pets", folder_recipe(tmp_path / "nowhere"))


def test_a_class_without_images_is_named(folder):
    (folder / "cat").mkdir()
    with pytest.raises(ValueError, match=r"no images in .*cat; expected some for class 'cat'. Add images or remove"):
        build_manifest("pets", folder_recipe(folder))


def test_a_root_without_classes_is_refused(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "loose.png")
    with pytest.raises(ValueError, match=r"dataset pets has no class folders in .*; expected one per class\. Add them"):
        build_manifest("pets", folder_recipe(tmp_path))


def test_a_class_too_small_to_divide_is_named(folder):
    save_images(folder / "cat", 1, (1, 2))
    with pytest.raises(ValueError, match=r"dataset pets cannot be split.*expected at least two images.*Add images"):
        build_manifest("pets", folder_recipe(folder))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_a_truncated_image_is_named(folder, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    broken = folder / "ant" / f"broken.{suffix}"
    Image.fromarray(noise).save(broken)
    broken.write_bytes(broken.read_bytes()[:-2000])
    with pytest.raises(OSError, match=rf"ant/broken\.{suffix} in .* cannot be decoded .*; expected an intact.*Replace"):
        build_manifest("pets", folder_recipe(folder))


def test_a_huge_image_is_named(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    with pytest.raises(OSError, match=r"ant/0\.png in .* cannot be decoded .*; expected an intact image\. Replace"):
        build_manifest("pets", folder_recipe(folder))


def test_text_with_the_name_of_an_image_is_named(folder):
    (folder / "bee" / "page.jpg").write_text("<html>404</html>")
    with pytest.raises(OSError, match=r"bee/page\.jpg in .* cannot be decoded .*; expected an intact image\. Replace"):
        build_manifest("pets", folder_recipe(folder))


def test_an_image_removed_since_is_named(folder):
    images = open_images(build_manifest("pets", folder_recipe(folder)))
    (folder / "bee" / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"bee/3\.png is missing in .*; expected every.*dvc repro"):
        images[13]
    assert images[12].size == (6, 4)


def test_an_image_changed_since_is_named(folder):
    images = open_images(build_manifest("pets", folder_recipe(folder)))
    Image.new("RGB", (6, 4), "white").save(folder / "bee" / "3.png")
    with pytest.raises(OSError, match=r"bee/3\.png has sha256 .* manifest lists .*; expected an unchanged.*dvc repro"):
        images[13]


def test_an_array_that_differs_from_the_manifest_is_named(digits):
    changed = replace(digits, digests=("0" * 64, *digits.digests[1:]))
    with pytest.raises(OSError, match=r"digits/0000 has sha256 .*expected an unchanged image\. Run `dvc repro"):
        open_images(changed)[0]


@pytest.mark.parametrize("how", ["parent", "absolute", "link"])
def test_no_image_outside_the_root_is_opened(folder, how):
    manifest = build_manifest("pets", folder_recipe(folder))
    secret = folder.parent / "secret.png"
    Image.new("RGB", (2, 2)).save(secret)
    (folder / "ant" / "link.png").symlink_to(secret)
    sample_id = {"parent": "../secret.png", "absolute": str(secret), "link": "ant/link.png"}[how]
    changed = replace(manifest, sample_ids=(sample_id, *manifest.sample_ids[1:]))
    with pytest.raises(ValueError, match=r"secret|link") as caught:
        open_images(changed)[0]
    assert "is outside" in str(caught.value)
    assert "expected a path below it. Correct" in str(caught.value)


def write_cifar(kind, root, monkeypatch, n=4):
    """Write the files of CIFAR's Python version with a few random images, and register their digests in torchvision."""
    from torchvision.datasets import CIFAR10, CIFAR100

    base, key = (CIFAR10, "labels") if kind == "cifar10" else (CIFAR100, "fine_labels")
    rng, n_classes, images = np.random.default_rng(0), int(kind.removeprefix("cifar")), {}

    def put(name, content):
        (root / base.base_folder / name).parent.mkdir(exist_ok=True)
        (root / base.base_folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((root / base.base_folder / name).read_bytes()).hexdigest()]

    for part in ("train_list", "test_list"):
        entries = []
        for name, _ in getattr(base, part):
            pixels = rng.integers(256, size=(n, 3 * 32 * 32), dtype=np.uint8)
            entries.append(put(name, {"data": pixels, key: rng.integers(n_classes, size=n).tolist()}))
            images.setdefault(part.removesuffix("_list"), []).append(pixels)
        monkeypatch.setattr(base, part, entries)
    filename, names_key = base.meta["filename"], base.meta["key"]
    _, digest = put(filename, {names_key: [f"class {number}" for number in range(n_classes)]})
    monkeypatch.setattr(base, "meta", {"filename": filename, "key": names_key, "md5": digest})
    return {
        split: np.concatenate(found).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for split, found in images.items()
    }


@pytest.mark.parametrize(("kind", "n_train"), [("cifar10", 20), ("cifar100", 4)])
def test_cifar_is_read_from_the_files_of_its_python_version(tmp_path, monkeypatch, kind, n_train):
    datasets._torchvision.cache_clear()
    pixels = write_cifar(kind, tmp_path, monkeypatch)
    manifest = build_manifest("few", {"kind": kind, "root": str(tmp_path)})
    assert manifest.splits == ("train",) * n_train + ("test",) * 4
    assert manifest.class_names[:2] == ("class 0", "class 1")
    opened = open_images(manifest)
    for row, sample_id in enumerate(manifest.sample_ids):
        split, number = sample_id.split("/")
        assert np.array_equal(np.array(opened[row]), pixels[split][int(number)])
    datasets._torchvision.cache_clear()


def write_mnist(folder, n):
    """Write the files of MNIST with a few random images."""
    rng, pixels = np.random.default_rng(0), {}
    (folder / "raw").mkdir(parents=True)
    for split, prefix in {"train": "train", "test": "t10k"}.items():
        pixels[split] = rng.integers(256, size=(n, 28, 28), dtype=np.uint8)
        for name, values in {"images-idx3": pixels[split], "labels-idx1": np.arange(n, dtype=np.uint8) % 10}.items():
            header = b"\0\0\x08" + bytes([values.ndim]) + np.array(values.shape, ">i4").tobytes()
            (folder / "raw" / f"{prefix}-{name}-ubyte").write_bytes(header + values.tobytes())
    return pixels


@pytest.mark.parametrize(
    ("kind", "folder", "name"), [("mnist", "MNIST", "1 - one"), ("fashion_mnist", "FashionMNIST", "Trouser")]
)
def test_mnist_is_read_from_torchvisions_files(tmp_path, kind, folder, name):
    datasets._torchvision.cache_clear()
    pixels_of = write_mnist(tmp_path / folder, 12)
    manifest = build_manifest("few", {"kind": kind, "root": str(tmp_path)})
    assert manifest.splits == ("train",) * 12 + ("test",) * 12
    assert manifest.class_names[1] == name
    assert manifest.labels.tolist() == [*range(10), 0, 1] * 2
    for image, expected in zip(open_images(manifest), np.concatenate([*pixels_of.values()]), strict=True):
        assert np.array_equal(pixels(image), np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("kind", ["cifar10", "cifar100", "mnist", "fashion_mnist"])
def test_an_absent_set_of_torchvision_tells_where_to_get_it(tmp_path, kind):
    with pytest.raises(FileNotFoundError, match=rf"{kind} is incomplete in .*; expected.*Download them with"):
        build_manifest("c", {"kind": kind, "root": str(tmp_path)})


# other content of a folder


def test_splits_of_any_name_are_those_of_the_manifest(tmp_path):
    for split, n in {"Training": 3, "Valid": 2, "Testing": 1}.items():
        for class_name in ("ant", "bee"):
            save_images(tmp_path / split / class_name, n, (len(split), ord(class_name[0])))
    manifest = build_manifest("pets", folder_recipe(tmp_path))
    assert manifest.class_names == ("ant", "bee")
    assert manifest.splits == ("train",) * 6 + ("test",) * 2
    assert remarks(manifest)[1:] == [
        "warning: 4 images of Valid are left out: they are neither training nor test images. Move them to train or "
        "test to use them."
    ]


def test_of_a_train_folder_alone_the_recipe_draws_the_test_split(tmp_path):
    for number, class_name in enumerate(("ant", "bee")):
        save_images(tmp_path / "TRAIN" / class_name, 10, (number, 20))
    manifest = build_manifest("pets", folder_recipe(tmp_path, test_fraction=0.3))
    assert manifest.class_names == ("ant", "bee")
    assert (manifest.splits.count("train"), manifest.splits.count("test")) == (14, 6)
    assert remarks(manifest)[1] == "the test split is drawn from TRAIN, because there is no folder test."


def test_what_is_left_out_is_told_and_changes_no_byte_of_the_manifest(folder, tmp_path):
    before = build_manifest("pets", folder_recipe(folder))
    (folder / "README.md").write_text("read me")
    (folder / ".DS_Store").write_bytes(b"")
    manifest = build_manifest("pets", folder_recipe(folder))
    assert len(manifest.notes) == 2
    assert remarks(manifest)[1:] == list(manifest.notes)
    assert manifest.sha256 == before.sha256
    write_manifest(manifest, tmp_path / "m.jsonl")
    assert read_manifest(tmp_path / "m.jsonl").notes == ()


def test_linked_images_out_of_the_root_are_those_of_their_files_by_option(folder):
    store = folder.parent / "store"
    (folder / "ant").rename(store)
    (folder / "ant").symlink_to(store)
    with pytest.raises(ValueError, match=r"^link ant in .*, which is outside it; expected .* Set follow_links: true"):
        build_manifest("pets", folder_recipe(folder))
    manifest = build_manifest("pets", folder_recipe(folder, follow_links=True))
    assert len(manifest.labels) == 20
    assert pixels(open_images(manifest)[3])[0, 0].tolist() == [200, 0, 3]


# corrupt files


def break_image(path):
    path.write_bytes(path.read_bytes()[:40])
    return path


def test_corrupt_images_are_skipped_and_listed_by_option(folder, tmp_path):
    clean = build_manifest("pets", folder_recipe(folder))
    break_image(folder / "ant" / "3.png")
    break_image(folder / "bee" / "0.png")
    with pytest.raises(OSError, match=r"ant/3\.png .* cannot be decoded .*, or set skip_corrupt: true in params\.yaml"):
        build_manifest("pets", folder_recipe(folder))
    manifest = build_manifest("pets", folder_recipe(folder, skip_corrupt=True))
    assert manifest.skipped == ("ant/3.png", "bee/0.png")
    assert set(manifest.sample_ids) == set(clean.sample_ids) - set(manifest.skipped)
    write_manifest(manifest, tmp_path / "m.jsonl")
    assert read_manifest(tmp_path / "m.jsonl").skipped == manifest.skipped
    assert "warning: 2 images cannot be decoded and were skipped: ant/3.png, bee/0.png." in remarks(manifest)


def test_what_was_skipped_is_part_of_the_manifests_sha256(folder):
    manifest = build_manifest("pets", folder_recipe(folder, skip_corrupt=True))
    assert replace(manifest, skipped=("ant/x.png",)).sha256 != manifest.sha256


def test_a_class_of_corrupt_images_alone_is_refused(folder):
    for path in (folder / "bee").iterdir():
        break_image(path)
    with pytest.raises(
        ValueError, match=r"has no image of class 'bee' left after skipping 10 .* \(first: bee/0\.png\).*Replace"
    ):
        build_manifest("pets", folder_recipe(folder, skip_corrupt=True))


def test_an_image_that_is_missing_is_never_skipped(folder):
    images = open_images(build_manifest("pets", folder_recipe(folder, skip_corrupt=True)))
    (folder / "bee" / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"bee/3\.png is missing"):
        images[13]


# an unreadable file is not a corrupt file


def fail_to_read(monkeypatch, number, *names):
    usual = Path.read_bytes

    def read(path):
        if path.name in names:
            raise OSError(number, os.strerror(number))
        return usual(path)

    monkeypatch.setattr(Path, "read_bytes", read)


@pytest.mark.parametrize("skip_corrupt", [False, True])
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT])
def test_an_image_that_could_not_be_read_is_never_skipped(folder, monkeypatch, number, skip_corrupt):
    fail_to_read(monkeypatch, number, "3.png")
    with pytest.raises(
        OSError, match=r"^image ant/3\.png in .* cannot be read \(.*\); expected .*, then run"
    ) as caught:
        build_manifest("pets", folder_recipe(folder, skip_corrupt=skip_corrupt))
    assert os.strerror(number) in str(caught.value)
    assert not re.search("decoded|skip_corrupt", str(caught.value))


def test_an_image_that_cannot_be_read_any_more_is_told_as_such_in_extraction(folder, monkeypatch):
    images = open_images(build_manifest("pets", folder_recipe(folder, skip_corrupt=True)))
    fail_to_read(monkeypatch, errno.EMFILE, "3.png")
    with pytest.raises(OSError, match=r"^image bee/3\.png in .* cannot be read \(Too many open files\).*ulimit -n"):
        images[13]
    assert images[12].size == (6, 4)


@pytest.mark.parametrize("error", ["reading", "decoding"])
def test_what_was_read_before_an_error_is_not_read_again(folder, tmp_path, monkeypatch, error):
    usual = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: usual() + 60 * 10**9)
    with monkeypatch.context() as context:
        if error == "reading":
            fail_to_read(context, errno.EIO, "9.png")
        else:
            (folder / "ant/a.png").write_text("no image")
        with pytest.raises(OSError, match=r"cannot be"):
            build_manifest("pets", folder_recipe(folder), tmp_path / "index.json")
    (folder / "ant/a.png").unlink(missing_ok=True)
    fail_to_read(monkeypatch, errno.EIO, "0.png")
    with pytest.raises(OSError, match=r"bee/0\.png"):  # ant is known, although one of its files failed
        build_manifest("pets", folder_recipe(folder), tmp_path / "index.json")


def test_cifar_that_may_not_be_read_is_not_called_absent(tmp_path, monkeypatch):
    write_cifar("cifar10", tmp_path, monkeypatch)
    usual = os.stat

    def denied(path, *args, **options):
        if "data_batch" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return usual(path, *args, **options)

    monkeypatch.setattr(os, "stat", denied)
    monkeypatch.setattr(os.path, "isfile", lambda path: "data_batch" not in str(path))
    datasets._torchvision.cache_clear()
    with pytest.raises(OSError, match=r"^cifar10 in .* cannot be read \(Permission denied\); expected .* Change its"):
        build_manifest("c", {"kind": "cifar10", "root": str(tmp_path)})


# the same image twice


def test_one_image_in_two_splits_is_told_with_both_names(tmp_path):
    for split, n in {"train": 3, "test": 1}.items():
        for class_name, colour in {"ant": (1, 2), "bee": (3, 4)}.items():
            save_images(tmp_path / split / class_name, n, colour)
    manifest = build_manifest("pets", folder_recipe(tmp_path))
    assert shared_images(manifest) == [("train/ant/0.png", "test/ant/0.png"), ("train/bee/0.png", "test/bee/0.png")]
    assert remarks(manifest) == [
        "8 images (2 test, 6 train)",
        "warning: 2 images are in two splits: train/ant/0.png = test/ant/0.png; train/bee/0.png = test/bee/0.png. "
        "Remove one of each pair.",
    ]


def test_many_shared_images_are_counted_and_five_are_named(tmp_path):
    for split in ("train", "test"):
        save_images(tmp_path / split / "ant", 8, (1, 2))
    said = remarks(build_manifest("pets", folder_recipe(tmp_path)))[1]
    assert said.startswith("warning: 8 images are in two splits: train/ant/0.png = test/ant/0.png; ")
    assert said.count(" = ") == 5
    assert "; and 3 more. Remove" in said


def test_one_image_twice_in_a_split_is_named_once_and_no_warning(digits):
    copies = (digits.digests[2], digits.digests[2], *digits.digests[2:])
    thrice = replace(digits, digests=copies, splits=("train",) * 1797)
    assert shared_images(thrice) == []
    assert remarks(thrice)[1:] == [
        "2 images have the same content as another image of the same split; each content is embedded once: "
        "digits/0000 = digits/0001; digits/0000 = digits/0002."
    ]


@pytest.mark.skipif(not hasattr(os, "fsencode") or os.name == "nt", reason="file names are text here")
def test_a_file_name_that_is_not_text_is_refused(folder):
    try:
        (folder / "ant" / "0.png").rename(folder / "ant" / os.fsdecode(b"\xff.png"))
    except OSError:
        pytest.skip("this file system takes text alone")
    with pytest.raises(
        ValueError, match=r"name of image 'ant/\\udcff\.png' is not UTF-8; expected a UTF-8 name.*Rename"
    ):
        build_manifest("pets", folder_recipe(folder))


# colour and orientation


def test_a_photograph_is_turned_upright(folder):
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # displayed rotated by 90° clockwise
    Image.fromarray(noise).save(folder / "ant" / "turned.png", exif=exif)
    manifest = build_manifest("pets", folder_recipe(folder))
    image = open_images(manifest)[manifest.sample_ids.index("ant/turned.png")]
    assert np.array_equal(pixels(image), np.rot90(noise, -1))


def test_sixteen_bits_are_scaled_not_clipped(folder):
    deep = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(folder / "ant" / "deep.png")
    manifest = build_manifest("pets", folder_recipe(folder))
    image = open_images(manifest)[manifest.sample_ids.index("ant/deep.png")]
    assert pixels(image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_pixels_that_are_floating_point_numbers_are_refused_with_the_name(folder):
    Image.fromarray(np.full((2, 2), 0.5, np.float32)).save(folder / "ant" / "deep.tif")
    with pytest.raises(OSError, match=r"image ant/deep\.tif .*floating-point pixels.*; expected .*skip_corrupt: true"):
        build_manifest("pets", folder_recipe(folder))
    manifest = build_manifest("pets", folder_recipe(folder) | {"skip_corrupt": True})
    assert manifest.skipped == ("ant/deep.tif",)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_of_an_unknown_range_are_refused_with_the_name_and_skipped_by_option(folder, kind):
    Image.fromarray(np.full((2, 2), 200, kind)).save(folder / "ant/deep.tif")
    with pytest.raises(OSError, match=r"^image ant/deep\.tif in .* has .* pixels, .*; expected 8-bit or unsigned"):
        build_manifest("pets", folder_recipe(folder))
    manifest = build_manifest("pets", folder_recipe(folder, skip_corrupt=True))
    assert manifest.skipped == ("ant/deep.tif",)
    assert len(manifest.labels) == 20


# kinds


def test_settings_know_the_kinds_of_data_sets_that_can_be_listed():
    assert set(DATASET_KINDS) == {*datasets.ARRAY_KINDS, "folder"}


# the manifest as a file


def test_a_manifest_comes_back_as_it_was_written(digits, tmp_path):
    write_manifest(digits, tmp_path / "deep" / "digits.jsonl")
    back = read_manifest(tmp_path / "deep" / "digits.jsonl")
    assert np.array_equal(back.labels, digits.labels)
    assert back.labels.dtype == np.int64
    assert replace(back, labels=None) == replace(digits, labels=None)
    assert back.sha256 == digits.sha256


@pytest.mark.parametrize("odd", ["größe 雪", "line\nbreak", "next\x85line", "line\u2028separator", 'quo"te'])
def test_odd_names_survive_the_manifest(digits, tmp_path, odd):
    changed = replace(digits, sample_ids=(odd, *digits.sample_ids[1:]), class_names=(odd, *digits.class_names[1:]))
    write_manifest(changed, tmp_path / "m.jsonl")
    back = read_manifest(tmp_path / "m.jsonl")
    assert (back.sample_ids, back.class_names) == (changed.sample_ids, changed.class_names)


def test_writing_a_manifest_leaves_no_other_file(digits, tmp_path):
    write_manifest(digits, tmp_path / "m.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]


DAMAGES = {
    "empty": lambda text: b"",
    "cut": lambda text: text[: len(text) // 2 + 3],  # in the middle of a line
    "key": lambda text: text.replace(b'"sha256"', b'"sha255"', 1),
    "headless": lambda text: text.split(b"\n", 1)[1],  # without its header
    "encoding": lambda text: b"\xff\xfe" + text,
    "list": lambda text: b"[1, 2]\n" + text,
    "label": lambda text: text.replace(b'"label": 0', b'"label": null', 1),
    "part": lambda text: text.replace(b'"label": 0', b'"label": 0.7', 1),
    "truth": lambda text: text.replace(b'"label": 0', b'"label": true', 1),
    "large": lambda text: text.replace(b'"label": 0', b'"label": 1' + b"0" * 30, 1),
    "id": lambda text: text.replace(b'"id": "digits/0000"', b'"id": 0', 1),
    "nesting": lambda text: text + b"[" * 100_000 + b"\n",
    "recipe": lambda text: text.replace(b'"recipe": {', b'"recipe": "b", "x": {', 1),
    "name": lambda text: text.replace(b'"class_names": ["0"', b'"class_names": [0', 1),
    "nul": lambda text: text.replace(b'"class_names": ["0"', b'"class_names": ["\\u0000"', 1),
    "surrogate": lambda text: text.replace(b'"id": "digits/0000"', b'"id": "\\ud800"', 1),
    "split": lambda text: text.replace(b'"split": "test"', b'"split": "../test"', 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest_is_refused(digits, tmp_path, damage):
    path = tmp_path / "m.jsonl"
    write_manifest(digits, path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(ValueError, match=r"manifest .*m\.jsonl is damaged .*; expected JSON lines .*dvc repro"):
        read_manifest(path)


def test_an_absent_manifest_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no manifest .*m\.jsonl; expected one\. Run `dvc repro`"):
        read_manifest(tmp_path / "m.jsonl")


@pytest.mark.parametrize("field", ["dataset", "recipe", "class_names", "sample_ids", "labels", "splits", "digests"])
def test_the_sha256_covers_every_field(digits, field):
    other = {
        "dataset": "other",
        "recipe": DIGITS | {"seed": 1},
        "class_names": ("zero", *digits.class_names[1:]),
        "sample_ids": ("x", *digits.sample_ids[1:]),
        "labels": np.roll(digits.labels, 1),
        "splits": ("test" if digits.splits[0] == "train" else "train", *digits.splits[1:]),
        "digests": ("0" * 64, *digits.digests[1:]),
    }
    assert replace(digits, **{field: other[field]}).sha256 != digits.sha256


def test_digests_depend_on_shape_as_well_as_bytes():
    flat = np.zeros((2, 6, 3), np.uint8)
    assert datasets._pixels_sha256(flat) != datasets._pixels_sha256(flat.reshape(3, 4, 3))


def test_a_photograph_with_unreadable_exif_stays_as_it_lies(folder):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.new("RGB", (6, 9)).save(folder / "ant" / "odd.jpg", exif=exif)
    content = (folder / "ant" / "odd.jpg").read_bytes()
    assert content.count(b"MM\x00*") == 1
    (folder / "ant" / "odd.jpg").write_bytes(content.replace(b"MM\x00*", b"MM\x00\x13"))
    manifest = build_manifest("pets", folder_recipe(folder))
    assert open_images(manifest)[manifest.sample_ids.index("ant/odd.jpg")].size == (6, 9)


def test_a_manifest_cut_between_two_lines_is_refused(tmp_path):
    manifest = build_manifest("digits", {"kind": "digits", "test_fraction": 0.3, "seed": 0})
    write_manifest(manifest, tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_text("".join(lines[:-5]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"cut\.jsonl is damaged \(1792 of 1797 images\); expected .* Run `dvc repro"):
        read_manifest(tmp_path / "cut.jsonl")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"labels": 10}, "label 10 of 10 classes"),
        ({"labels": -2}, "label -2 of 10 classes"),
        ({"sample_ids": "digits/0001"}, "id 'digits/0001' occurs twice"),
    ],
)
def test_rows_that_no_cache_would_take_are_refused_before_extraction(digits, tmp_path, changes, what):
    field, value = next(iter(changes.items()))
    values = list(getattr(digits, field))
    values[0] = value
    wrong = np.array(values) if field == "labels" else tuple(values)
    write_manifest(replace(digits, **{field: wrong}), tmp_path / "m.jsonl")
    with pytest.raises(ValueError, match=rf"m\.jsonl is damaged \({what}\); expected JSON lines"):
        read_manifest(tmp_path / "m.jsonl")
