"""What torch.save wrote is read within limits: a stranger's file takes no more time and memory than its size tells."""

from __future__ import annotations

import io
import os
import pickle
import random
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from megatron.core.transformer.enums import AttnBackend

from validation.candidate.checkpoint.archive import check_archive, loaded, loaded_item, within_limits
from validation.candidate.checkpoint.pickled import Refused, check


def archive(pickled: bytes, how: int = zipfile.ZIP_STORED, others: dict[str, bytes] | None = None) -> io.BytesIO:
    """A file as torch.save makes it, of this pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as made:
        for name, data in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little", **(others or {})}.items():
            made.writestr(f"archive/{name}", data)
    file.seek(0)
    return file


def call(module: str, name: str, given: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + given + b"R"


def number(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little")


NESTED = b"N\x85" + b"".join(b"q%ch%c\x86" % (place, place) for place in range(60))
"""Sixty tuples of the same tuple twice: 2^60 steps to hash."""
TEXT = b"X\x01\x00\x00\x00a"
MANY = b"(" + TEXT * 40_000 + b"lq\x01"
LATIN = b"X\x06\x00\x00\x00latin1"
REBUILT = b"ctorch._tensor\n_rebuild_from_type_v2\n"
HOSTILE = {
    "a tensor by its class": call("torch", "Tensor", number(6 << 30) + b"\x85"),
    "a parameter by its class": call("torch.nn.parameter", "Parameter", number(6 << 30) + b"\x85"),
    "a class for a function": REBUILT + b"(ctorch\nTensor\nctorch\nTensor\n" + number(6 << 30) + b"\x85}tR",
    "another class for a tensor": REBUILT + b"(ctorch._utils\n_rebuild_tensor_v2\nctorch\nSize\n)}tR",
    "a tensor from what makes none": REBUILT + b"(ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n" + MANY + b"\x85}tR",
    "a tensor without attributes": REBUILT + b"(ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n)NtR",
    "attributes again and again": b"}q\x01("
    + b"".join(b"J%sN" % place.to_bytes(4, "little") for place in range(50_000))
    + b"u0"
    + (REBUILT + b"(ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n)h\x01tR") * 100,
    "a key that takes forever to hash": b"}" + NESTED + b"Ns",
    "many such keys": b"}(" + NESTED + b"Nu",
    "such a key of the state of an object": call("argparse", "Namespace", b")") + b"](" + NESTED + b"N\x86eb",
    "such a key of a storage": b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + NESTED + b"X\x03\x00\x00\x00cpuK\x01tQ",
    "such a thing in a set": call("builtins", "set", b"](" + NESTED + b"e\x85"),
    "such a thing in a set of Python 2": call("__builtin__", "set", b"](" + NESTED + b"e\x85"),
    "such a thing that is counted": call("collections", "Counter", b"](" + NESTED + b"e\x85"),
    "such a key of an OrderedDict": call("collections", "OrderedDict", b"](" + NESTED + b"N\x86e\x85"),
    "keys of one hash": b"}(" + b"".join(number(place * ((1 << 61) - 1)) + b"N" for place in range(4)) + b"u",
    "floats of one hash": b"}(" + b"G\x43\x00\x00\x00\x00\x00\x00\x00N" * 2 + b"u",
    "a bytearray of a size": call("builtins", "bytearray", number(6 << 30) + b"\x85"),
    "a bytearray of Python 2": call("__builtin__", "bytearray", number(6 << 30) + b"\x85"),
    "a storage of a size": call("torch.storage", "UntypedStorage", number(6 << 30) + b"\x85"),
    "a storage of a kind": call("torch", "FloatStorage", number(6 << 30) + b"\x85"),
    "a tensor of a size": call("torch", "FloatTensor", number(6 << 30) + b"\x85"),
    "a tensor on no device": call("torch._utils", "_rebuild_meta_tensor_no_storage", b")"),
    "an array of a size": call("numpy", "ndarray", number(6 << 30) + b"\x85"),
    "an array of a size in a tuple": call(
        "numpy.core.multiarray", "_reconstruct", b"cnumpy\nndarray\n" + number(6 << 30) + b"\x85U\x01b\x87"
    ),
    "a size of a list, again and again": MANY + call("torch", "Size", b"h\x01\x85"),
    "a size of a tensor": call("torch", "Size", call("torch._utils", "_rebuild_tensor_v2", b")") + b"\x85"),
    "bytes that double": call("_codecs", "encode", call("_codecs", "encode", TEXT + LATIN + b"\x86") + TEXT + b"\x86"),
    "an encoding in the square of the time": call("_codecs", "encode", TEXT + b"X\x04\x00\x00\x00idna\x86"),
    "a text that is there again and again": b"X\x00\x00\x10\x00" + b"a" * (1 << 20) + b"q\x010" + b"h\x01" * 100,
    "a dict that is there again and again": b"}q\x01("
    + b"".join(b"J%sN" % place.to_bytes(4, "little") for place in range(50_000))
    + b"u0"
    + (call("argparse", "Namespace", b")") + b"h\x01b") * 100,
    "more than any rank has": b"N" * (1 << 22),
    "an instruction of later protocols": b"\x8f",
    "nothing": b"",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_pickle_is_not_read_that_explodes(what: str) -> None:
    """It is refused before torch sees it."""
    with pytest.raises(Refused):
        check(b"\x80\x02" + HOSTILE[what] + (b"." if what != "nothing" else b""))


def compressed() -> io.BytesIO:
    return archive(pickle.dumps({}, 2), zipfile.ZIP_DEFLATED)


def twice() -> io.BytesIO:
    return archive(pickle.dumps({}, 2), others={"DATA.pkl": b"\x80\x02N."})


def commented() -> io.BytesIO:
    """Python and torch look for the end in different ways."""
    data = archive(pickle.dumps({}, 2)).getvalue()
    return io.BytesIO(data[:-2] + b"\x01\x00a")


def shifted() -> io.BytesIO:
    return io.BytesIO(b"before" + archive(pickle.dumps({}, 2)).getvalue())


def old() -> io.BytesIO:
    file = io.BytesIO()
    torch.save({}, file, _use_new_zipfile_serialization=False)
    return file


@pytest.mark.parametrize("made", [compressed, twice, commented, shifted, old, io.BytesIO], ids=lambda made: made.__name__)
def test_an_archive_that_torch_save_did_not_make(made: Any) -> None:
    """Compressed records, records of the same name, an end that readers take in two ways, no archive."""
    with pytest.raises(Refused):
        check_archive(made())


def test_whoever_calls_torch_load_is_held_to_it() -> None:
    """megatron-core and torch's own readers do."""
    with within_limits(), pytest.raises(Refused):
        torch.load(compressed(), weights_only=False)
    assert torch.load(compressed(), weights_only=True) == {}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """It is no regular file."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refused, match="no regular file"):
        loaded(tmp_path / "pipe")


def test_what_training_saves_is_read(tmp_path: Path) -> None:
    """Weights, arguments, the random states of numpy and Python, an optimizer's state, bytes of Transformer Engine."""
    layer = torch.nn.Linear(4, 4, dtype=torch.bfloat16)
    layer.bias.__dict__["tensor_model_parallel"] = True
    master = layer.weight.detach().float()
    master.__dict__.update(tensor_model_parallel=True, partition_dim=0, partition_stride=1)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(2, 4, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    state = {
        "args": Namespace(
            attention_backend=AttnBackend.flash, params_dtype=torch.bfloat16, ends=(0.9, [1, None]), seed=1 << 40
        ),
        "model": {
            **layer.state_dict(),
            "own": layer.weight,
            "with attributes": layer.bias,
            "fp8": torch.ones(2).to(torch.float8_e4m3fn),
            "_extra_state": io.BytesIO(bytes(range(256)) * 64),
        },
        "masters": [[master]],
        "optimizer": {"param_groups": optimizer.state_dict()["param_groups"], "state": optimizer.state_dict()["state"]},
        "rng_state": [{"random": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}],
        "iteration": 7,
    }
    torch.save(state, tmp_path / "model_optim_rng.pt")
    for given in ({"map_location": "meta"}, {"map_location": "cpu", "mmap": True}):
        found = loaded(tmp_path / "model_optim_rng.pt", **given)
        assert found.keys() == state.keys()
        assert found["args"] == state["args"]
        assert found["masters"][0][0].partition_stride == 1
        assert found["model"]["_extra_state"].getvalue() == bytes(range(256)) * 64
    assert torch.equal(found["model"]["weight"], layer.weight)
    with (tmp_path / "model_optim_rng.pt").open("rb") as file:
        assert loaded_item(file)["iteration"] == 7
