"""The positions of the bytes of a cache, by their meaning."""

import re

import h5py


def regions(path):
    """Return positions of bytes by kind: the file's header, arrays and attributes by name, chunk indexes, the rest."""
    content, found = path.read_bytes(), {"superblock": list(range(48))}
    with h5py.File(path, "r") as file:
        holders = {"": file, **{f"{name}/": file[name] for name in ("train", "test")}}
        for prefix, holder in holders.items():
            for name, value in holder.attrs.items():
                found[f"attribute {prefix}{name}"] = bytes_of_attribute(content, holder, name, value)
            for name, array in holder.items():
                if isinstance(array, h5py.Dataset):
                    found[f"array {prefix}{name}"] = bytes_of_array(array)
    found["chunk indexes"] = bytes_of_chunk_indexes(content)
    known = {place for places in found.values() for place in places}
    found["object headers and group indexes"] = [i for i in range(len(content)) if i not in known]
    return found


def bytes_of_array(array):
    """Return the bytes of all chunks, or of an unchunked array, without the padding of the last chunk."""
    blocks = [(array.id.get_offset(), array.nbytes)]
    if array.chunks:
        chunks = map(array.id.get_chunk_info, range(array.id.get_num_chunks()))
        blocks = [(chunk.byte_offset, chunk.size) for chunk in chunks]
    return [place for start, length in blocks for place in range(start, start + length)][: array.nbytes]


def bytes_of_attribute(content, holder, name, value):
    """Return the bytes of an attribute's value, which follows the sizes of name, type and space, and these, padded."""
    at = content.index(name.encode() + b"\0", h5py.h5o.get_info(holder.id).addr)
    lengths = [int.from_bytes(content[at - i : at - i + 2], "little") for i in (6, 4, 2)]
    start = at + sum(-(-length // 8) * 8 for length in lengths)
    assert content[start : start + value.nbytes] == value.tobytes()
    return range(start, start + value.nbytes)


def bytes_of_chunk_indexes(content):
    """Return the leaves of version-1 B-trees of type 1: 24 bytes, then a key of 32 and an address for each chunk."""
    starts = [match.start() for match in re.finditer(b"TREE\x01\x00", content)]
    used = [int.from_bytes(content[start + 6 : start + 8], "little") for start in starts]
    return [place for start, n in zip(starts, used, strict=True) for place in range(start, start + 24 + 40 * n)]
