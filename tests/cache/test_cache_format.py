"""The format: old files stay readable, and any damage is detected before it leads to wrong numbers."""

import random
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import small_cache
from cache_bytes import regions
from damage import try_ways

from pipeline.cache import CacheHeader, layers_in_order, open_cache
from pipeline.cache.format import NotACacheError, block_crc, canonical_json, fixed_text, meta_sha256

ROOT = Path(__file__).resolve().parents[2]
V1 = ROOT / "tests" / "data" / "cache_v1.h5"
V2 = ROOT / "tests" / "data" / "cache_v2.h5"
LAYERS = {"tap": "layer3+avgpool", "layers": layers_in_order({"layer3": 3, "avgpool": 5})}
N_CUTS = 20


@pytest.fixture
def small(tmp_path):
    """A separate small cache that a test may damage."""
    path = tmp_path / "small.h5"
    path.write_bytes(V1.read_bytes())
    return path


@pytest.fixture(scope="module")
def gzipped(tmp_path_factory):
    return small_cache.write_small(tmp_path_factory.mktemp("gzip") / "gzip.h5", compression="gzip")


def flips(path, n, seed):
    """Seeded flips of one byte anywhere in a file."""
    rng, size = random.Random(seed), path.stat().st_size
    return [[[rng.randrange(size), rng.randrange(1, 256)]] for _ in range(n)]


def test_the_file_of_version_1_still_says_what_was_written():
    with open_cache(V1) as reader:
        assert reader.header == small_cache.header()
        assert reader.split_names == ("test", "train")
        assert reader.n_features == 8
        for split, n in small_cache.SIZES.items():
            assert reader.n_rows(split) == n
            np.testing.assert_array_equal(reader.labels(split), small_cache.labels(split))
            assert reader.sample_ids(split) == small_cache.sample_ids(split)
            # half a unit in the last place of float16 below 4
            np.testing.assert_allclose(reader.read(split), small_cache.embeddings(split), rtol=0, atol=2**-10)


def test_the_file_of_version_2_still_says_what_was_written_and_where_layers_lie():
    assert small_cache.sha256(V2) == "c7261047810caea054d2702c301fe153b439bb35257168843ef7bf525ed0e83e"
    with open_cache(V2) as reader, open_cache(V1) as first:
        assert reader.header == small_cache.header(**LAYERS)
        assert reader.feature_blocks == (3, 5)
        assert first.feature_blocks is None
        for split in small_cache.SIZES:
            np.testing.assert_array_equal(reader.read(split), first.read(split))


def test_one_layer_is_written_in_version_1_and_several_in_version_2(tmp_path):
    small_cache.write_small(tmp_path / "one.h5")
    small_cache.write_small(tmp_path / "two.h5", **LAYERS)
    for name, version in (("one", 1), ("two", 2)):
        with h5py.File(tmp_path / f"{name}.h5") as file:
            assert (file.attrs["version"], "layers" in file.attrs) == (version, version == 2)
            if version == 2:
                assert file.attrs["layers"] == b'[["layer3",0,3],["avgpool",3,8]]'


@pytest.mark.parametrize("bounds", [{"layer3": 3, "avgpool": 4}, {"layer3": 3, "avgpool": 6}])
def test_layers_that_do_not_end_with_the_features_are_not_written(tmp_path, bounds):
    with pytest.raises(ValueError, match=r"have 8 features, but layers end at column \d; expected the features of all"):
        small_cache.write_small(tmp_path / "a.h5", tap="layer3+avgpool", layers=layers_in_order(bounds))
    assert not (tmp_path / "a.h5").exists()


def test_the_file_of_version_1_is_the_one_that_was_kept():
    assert small_cache.sha256(V1) == "8382a0555ab0a2ca64909835da14735ecba8519a86d8e07cf1c3f740a9fab0ba"


def test_the_reader_on_the_format_page_reads_what_the_cache_holds(small):
    page = (ROOT / "docs" / "cache_format.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    room = {}
    exec(code, room)
    with open_cache(small) as reader:
        for split in reader.split_names:
            X, y, ids = room["read_split"](small, split)
            np.testing.assert_array_equal(X, reader.read(split))
            np.testing.assert_array_equal(y, reader.labels(split))
            assert ids == reader.sample_ids(split)
    small_cache.forge(small, lambda file: file["train/embeddings"].write_direct(np.zeros((20, 8), np.float16)))
    with pytest.raises(OSError, match="block 0 of train is damaged"):
        room["read_split"](small, "train")


@pytest.mark.parametrize("kept", [V1, V2])
def test_the_format_page_names_every_attribute_and_array(kept):
    page = (ROOT / "docs" / "cache_format.md").read_text(encoding="utf-8")
    with h5py.File(kept) as file:
        names = [*file.attrs, *file, *file["train"], *file["train"].attrs]
    assert [name for name in names if name not in small_cache.SIZES and f"`{name}`" not in page] == []


@pytest.mark.parametrize(
    ("compression", "n"), [("none", 40), pytest.param("none", 150, marks=pytest.mark.slow), ("gzip", 25)]
)
def test_a_flipped_byte_anywhere_is_an_error_or_changes_nothing(gzipped, tmp_path, compression, n):
    path = V1 if compression == "none" else gzipped
    endings = try_ways(path, tmp_path, flips(path, n, seed=5))
    assert set(endings) <= {"same", "error", "stopped", "MemoryError"}
    assert n / 10 < endings.count("error")
    assert endings.count("stopped") < n / 10


def test_a_flipped_byte_of_content_is_always_an_error(tmp_path):
    content = {name: places for name, places in regions(V1).items() if name.startswith(("array", "attribute"))}
    assert len(content) == 25
    positions = random.Random(6).sample([place for places in content.values() for place in places], 40)
    assert set(try_ways(V1, tmp_path, [[[position, 1]] for position in positions])) == {"error"}


def test_a_flipped_byte_of_layers_is_always_an_error(tmp_path):
    places = list(regions(V2)["attribute layers"])
    assert len(places) > 30
    assert set(try_ways(V2, tmp_path, [[[position, 1 + position % 255]] for position in places])) == {"error"}


def test_a_cut_file_is_always_an_error(tmp_path):
    size = V1.stat().st_size
    lengths = [round(size * i / N_CUTS) for i in range(N_CUTS - 1)] + [size - 1]
    assert set(try_ways(V1, tmp_path, lengths)) == {"error"}


def test_damage_is_named_with_a_remedy(small):
    small.write_bytes(small.read_bytes()[:-1])
    with pytest.raises(
        OSError, match=r"cache small\.h5 is damaged or incomplete .*; expected .* version 1 or 2\. Run `dvc"
    ):
        open_cache(small)


def test_rows_beside_damaged_ones_can_still_be_read(small):
    def change(file):
        file["train/embeddings"][9, 2] += 1

    small_cache.forge(small, change)
    with open_cache(small) as reader:
        np.testing.assert_allclose(reader.read("train", slice(0, 8)), small_cache.embeddings("train")[:8], atol=2**-10)
        with pytest.raises(OSError, match="rows 8 to 11 of train/embeddings differ from their checksum"):
            reader.read("train", [10])


def test_blocks_that_changed_places_are_noticed(small):
    def swap(file):
        array = file["train/embeddings"]
        array[0:4], array[4:8] = array[4:8], array[0:4]

    small_cache.forge(small, swap)
    with open_cache(small) as reader, pytest.raises(OSError, match="rows 0 to 3 of train/embeddings differ"):
        reader.read("train")


@pytest.mark.parametrize("name", ["fingerprint", "backbone", "tap", "dataset", "manifest_sha256"])
def test_a_changed_attribute_is_noticed(small, name):
    with h5py.File(small, "r+") as file:
        file.attrs[name] = np.bytes_(file.attrs[name][:-1] + b"?")
    with pytest.raises(OSError, match="differ from meta_sha256"):
        open_cache(small)


@pytest.mark.parametrize("change", ["class_names", "train/labels", "train/sample_ids", "test/block_crc32"])
def test_a_changed_array_is_noticed(small, change):
    with h5py.File(small, "r+") as file:
        file[change][:2] = file[change][:2][::-1]
    with pytest.raises(OSError, match="differ from meta_sha256"):
        open_cache(small)


@pytest.mark.parametrize("name", ["complete", "meta_sha256", "tap"])
def test_a_missing_attribute_is_an_error(small, name):
    with h5py.File(small, "r+") as file:
        del file.attrs[name]
    with pytest.raises(OSError, match=r"damaged or incomplete"):
        open_cache(small)


def test_a_newer_version_is_refused_by_name(small):
    with h5py.File(small, "r+") as file:
        file.attrs["version"] = np.int64(3)
    with pytest.raises(NotACacheError, match=r"small\.h5 has format version 3; expected 1 or 2\. Up"):
        open_cache(small)


@pytest.mark.parametrize("attributes", [{}, {"format": "another"}, {"format": np.bytes_("another")}, {"format": 3}])
def test_a_foreign_hdf5_file_is_refused_by_name(tmp_path, attributes):
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["kernel"] = np.ones(3)
        file.attrs.update(attributes)
    with pytest.raises(NotACacheError, match=r"weights\.h5 is an HDF5 file, but not .*; expected .* Pass such"):
        open_cache(tmp_path / "weights.h5")


def test_a_file_that_is_not_hdf5_is_an_error(tmp_path):
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(OSError, match=r"cache text\.h5 is damaged.*; expected .* Run"):
        open_cache(tmp_path / "text.h5")


def link_split(file, link):
    del file["test"]
    file["test"] = link


def link_member(file, link):
    del file["test/labels"]
    file["test/labels"] = link


def link_class_names(file, link):
    del file["class_names"]
    file["class_names"] = link


LINKS = {
    "soft split": (link_split, h5py.SoftLink("/train")),
    "external split": (link_split, h5py.ExternalLink("other.h5", "/test")),
    "soft array": (link_member, h5py.SoftLink("/train/labels")),
    "external array": (link_member, h5py.ExternalLink("other.h5", "/test/labels")),
    "external names": (link_class_names, h5py.ExternalLink("other.h5", "/class_names")),
}


@pytest.mark.parametrize("case", LINKS)
def test_a_link_is_refused_though_what_it_points_at_is_right(small, case):
    (small.parent / "other.h5").write_bytes(small.read_bytes())
    change, link = LINKS[case]
    small_cache.forge(small, lambda file: change(file, link))
    with pytest.raises(OSError, match="link; only arrays inside the file are read"):
        open_cache(small)


def virtual(file):
    layout = h5py.VirtualLayout((7, 8), "float16")
    layout[:] = h5py.VirtualSource("other.h5", "/test/embeddings", (7, 8))
    del file["test/embeddings"]
    file.create_virtual_dataset("test/embeddings", layout)


def outside(file):
    del file["test/embeddings"]
    bytes_elsewhere = [("raw.bin", 0, 7 * 8 * 2)]
    file.create_dataset("test/embeddings", (7, 8), "float16", external=bytes_elsewhere)


@pytest.mark.parametrize("change", [virtual, outside])
def test_an_array_that_lies_in_another_file_is_refused(small, change):
    (small.parent / "other.h5").write_bytes(small.read_bytes())
    small_cache.forge(small, change)
    with pytest.raises(OSError, match="test/embeddings is not an array inside the file"):
        open_cache(small)


def test_variable_length_text_is_refused(small):
    def change(file):
        del file["class_names"]
        file["class_names"] = ["apfel", "birne", "x"]

    small_cache.forge(small, change)
    with pytest.raises(OSError, match=r"class_names has type (object|\|O)"):
        open_cache(small)


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("name", ["train/embeddings", "train/labels"])
def test_a_claim_of_a_trillion_rows_is_refused_without_allocating_them(small, compression, name):
    with h5py.File(small, "r+") as file:
        dtype, shape = file[name].dtype, (10**12, *file[name].shape[1:])
        del file[name]
        file.create_dataset(name, shape, dtype, chunks=(4, *shape[1:]), compression=compression)
    with pytest.raises(OSError, match=rf"{name} has shape \(1000000000000,.*more than a file of \d+ bytes can hold"):
        open_cache(small)


def test_a_split_with_other_members_is_refused(small):
    small_cache.forge(small, lambda file: file.create_dataset("train/more", data=[1]))
    with pytest.raises(
        OSError, match="split train does not consist of exactly embeddings, labels, sample_ids, block_crc32"
    ):
        open_cache(small)


def replace_array(name, make):
    def change(file):
        old, options = file[name][()], {"chunks": file[name].chunks}
        del file[name]
        file.create_dataset(name, data=make(old), **options)

    return change


def set_attribute(holder, name, value):
    def change(file):
        file[holder].attrs[name] = value

    return change


INCONSISTENT = {
    "lengths": (replace_array("train/labels", lambda y: y[:-1]), "arrays of split /?train differ in length"),
    "class": (replace_array("train/labels", lambda y: y + 1), "train/labels contain a class that has no name"),
    "ids": (replace_array("test/sample_ids", lambda ids: ids[[0] * 7]), "test/sample_ids contain an id twice"),
    "label type": (replace_array("train/labels", lambda y: y.astype("i4")), "train/labels has type (int32|<i4)"),
    "axes": (replace_array("train/labels", lambda y: y[:, None]), r"train/labels has shape \(20, 1\)"),
    "precision": (replace_array("test/embeddings", lambda X: X.astype("f4")), "float32, not float16"),
    "blocks": (set_attribute("train", "block_rows", np.int64(0)), "arrays of split /?train differ in length"),
    "list": (set_attribute("/", "tap", [1, 2]), "attribute tap is not one number or one text"),
    "number": (set_attribute("/", "tap", 1.5), "an attribute that should be text is a number"),
    "json": (set_attribute("/", "backbone", np.bytes_("[]")), "attribute backbone is not a JSON object"),
}


@pytest.mark.parametrize("case", INCONSISTENT)
def test_a_file_whose_parts_do_not_fit_each_other_is_refused_though_its_digest_is_right(small, case):
    change, message = INCONSISTENT[case]
    if case == "list":  # its digest cannot be computed
        with h5py.File(small, "r+") as file:
            change(file)
    else:
        small_cache.forge(small, change)
    with pytest.raises(OSError, match=message):
        open_cache(small)


FORGED = {
    "bounds swapped": ('[["layer3",0,5],["avgpool",3,8]]', "do not follow each other"),
    "a gap": ('[["layer3",0,3],["avgpool",4,8]]', "do not follow each other"),
    "not from the first": ('[["layer3",1,3],["avgpool",3,8]]', "do not follow each other"),
    "too short": ('[["layer3",0,3],["avgpool",3,7]]', "its layers end at column 7 of 8"),
    "too long": ('[["layer3",0,3],["avgpool",3,9]]', "its layers end at column 9 of 8"),
    "empty": ('[["layer3",0,0],["avgpool",0,8]]', "not a list of names and bounds"),
    "other names": ('[["avgpool",0,3],["layer3",3,8]]', "differ from those in tap"),
    "one": ('[["layer3+avgpool",0,8]]', "do not follow each other"),
    "none": ("[]", "do not follow each other"),
    "twice": ('[["layer3",0,3],["layer3",3,8]]', "repeat a name"),
    "fractions": ('[["layer3",0,3.0],["avgpool",3.0,8]]', "not a list of names and bounds"),
    "no list": ("3", "not a list of names and bounds"),
    "no JSON": ("[", "damaged or incomplete"),
}


@pytest.mark.parametrize("case", FORGED)
def test_bounds_that_do_not_fit_are_refused_though_the_digest_is_right(tmp_path, case):
    text, message = FORGED[case]
    path = tmp_path / "forged.h5"
    path.write_bytes(V2.read_bytes())
    small_cache.forge(path, set_attribute("/", "layers", np.bytes_(text)))
    with pytest.raises(OSError, match=message):
        open_cache(path)


@pytest.mark.parametrize(("kept", "version"), [(V1, 2), (V2, 1)])
def test_layers_belong_to_version_2_alone(tmp_path, kept, version):
    path = tmp_path / "forged.h5"
    path.write_bytes(kept.read_bytes())
    small_cache.forge(path, set_attribute("/", "version", np.int64(version)))
    with pytest.raises(OSError, match="its version is 1 with the attribute layers, or 2 without it"):
        open_cache(path)


def test_the_digest_covers_shapes_types_and_attributes_but_not_completeness(small):
    with h5py.File(small, "r+") as file:
        digest = meta_sha256(file)
        file.attrs["complete"] = np.uint8(0)
        assert meta_sha256(file) == digest
        file["train"].attrs["block_rows"] = np.int64(5)
        assert meta_sha256(file) != digest


def test_a_block_checksum_covers_its_position():
    rows = np.ones((2, 3), np.float16)
    assert block_crc(0, rows) != block_crc(1, rows)
    assert block_crc(3, rows) == block_crc(3, np.asfortranarray(rows))


def test_canonical_json_does_not_depend_on_order():
    assert canonical_json({"b": 1, "a": "é"}) == canonical_json({"a": "é", "b": 1}) == '{"a":"\\u00e9","b":1}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})


def test_text_of_fixed_length_is_as_long_as_the_longest():
    assert fixed_text(["雪", "a"]).dtype.itemsize == 3
    assert fixed_text([]).dtype.itemsize == 1
    with pytest.raises(ValueError, match=r"NUL.*; expected text without it\. Rename it"):
        fixed_text(["a\0"])


def test_a_header_is_frozen():
    header = small_cache.header()
    assert isinstance(header, CacheHeader)
    with pytest.raises(AttributeError):
        header.tap = "other"


def test_a_chunk_larger_than_the_file_is_refused(small):
    def change(file):
        file.create_dataset("new", (7, 8), "float16", maxshape=(None, 8), chunks=(10**6, 8))
        del file["test/embeddings"]
        file.move("new", "test/embeddings")

    with h5py.File(small, "r+") as file:
        change(file)
    with pytest.raises(OSError, match=r"test/embeddings has chunks of \(1000000, 8\), more than a file of \d+ bytes"):
        open_cache(small)
