"""The ASDF extension that official products carry: read as it is, and made ready for another product.

Its content is a file of its own: YAML, then blocks of binary data that the YAML refers to by their number. What a
product takes over is edited as YAML nodes, tags and all: nothing has to be known of the objects in it (coordinate
systems need packages that may not be installed), and the blocks stay as they are.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

import yaml
from astropy.io import fits

__all__ = ["EMPTY_TREE", "portable_tree", "read_tree"]

#: the tree of a product that has nothing to carry
EMPTY_TREE: Final = b"#ASDF 1.0.0\n#ASDF_STANDARD 1.6.0\n%YAML 1.1\n--- {meta: {telescope: JWST}}\n...\n"
#: how a block of binary data begins
_BLOCK: Final = b"\xd3BLK"
#: the list of where blocks lie, which is no longer true when the YAML has another length
_INDEX: Final = b"#ASDF BLOCK INDEX"
_END: Final = b"\n...\n"


def read_tree(path: str | Path) -> bytes:
    """Content of the ASDF extension of a product, empty where it has none.

    Raises
    ------
    OSError, ValueError, KeyError, TypeError
        The file cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(path, memmap=True, lazy_load_hdus=True) as hdus:
            if "ASDF" not in hdus:
                return b""
            return bytes(hdus["ASDF"].data["ASDF_METADATA"][0].tobytes())


def portable_tree(content: bytes, *, without: tuple[str, ...] = ()) -> bytes:
    """Take out of a tree what belongs to the file it came from.

    Parameters
    ----------
    content
        From `read_tree`.
    without
        Entries of ``meta`` to leave out, too.

    Returns
    -------
    bytes
        A tree with ``meta`` alone: arrays of other extensions a reader takes from the product itself, and without the
        digest of the headers it believes the product's keywords. `EMPTY_TREE` where nothing can be read.
    """
    end = content.find(_END)
    if end < 0:
        return EMPTY_TREE
    text, rest = content[: end + len(_END)], content[end + len(_END) :]
    try:
        head, document = _split(text.decode("utf-8"))
        node = yaml.compose(document, Loader=_LOADER)
        if not isinstance(node, yaml.MappingNode):
            return EMPTY_TREE
        node.value = [(key, value) for key, value in node.value if key.value == "meta"]
        _drop_links(node)
        for _, meta in node.value:
            if isinstance(meta, yaml.MappingNode):
                meta.value = [(name, one) for name, one in meta.value if name.value not in without]
        body = yaml.serialize(
            node, Dumper=_DUMPER, explicit_start=True, explicit_end=True, allow_unicode=True
        )
    except (yaml.YAMLError, UnicodeError, AttributeError):
        return EMPTY_TREE
    blocks = rest.split(_INDEX)[0] if rest.startswith(_BLOCK) else b""
    return head.encode() + body.encode() + blocks


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def _split(text: str) -> tuple[str, str]:
    """Comment lines that say what the file is, and the YAML document with its directives.

    The prefix of the tags stands in a directive: it goes with the document, whose tags are written out in full.
    """
    lines = text.splitlines(keepends=True)
    first = next((k for k, line in enumerate(lines) if not line.startswith("#")), len(lines))
    head = "".join(lines[:first]) + "%YAML 1.1\n"
    return head, "".join(lines[first:])


def _drop_links(node: yaml.Node) -> bool:
    """Drop arrays that lie in other extensions; tells whether the node is such an array itself."""
    if isinstance(node, yaml.MappingNode):
        source = next((value.value for key, value in node.value if key.value == "source"), None)
        if isinstance(source, str) and source.startswith("fits:"):
            return True
        node.value = [(key, value) for key, value in node.value if not _drop_links(value)]
    elif isinstance(node, yaml.SequenceNode):
        node.value = [value for value in node.value if not _drop_links(value)]
    return False
