"""No file of a stranger's checkpoint runs code, whatever it asks for, and whoever reads it."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

import tests.core  # noqa: F401 - before anything of megatron-core
from tests.candidate.test_archive import HOSTILE as PICKLES
from tests.candidate.test_archive import archive
from tests.convert import folders
from tests.convert.folders import WITHOUT_MTP
from tests.convert.test_fits import case
from tests.convert.test_round_trip import convert
from validation.candidate.checkpoint.fits import misfit
from validation.candidate.checkpoint.metadata import read_metadata
from validation.case.errors import UsageError
from validation.cli import main

EXPLODING = {what: PICKLES[what] for what in ("a key that takes forever to hash", "a bytearray of a size")}


class Calls:
    """Pickled, it is a call of `function`."""

    def __init__(self, function: Any, *given: Any) -> None:
        self.call = function, given

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, and both formats of it."""
    place = tmp_path_factory.mktemp("strangers")
    origin = folders.write(place / "hf", WITHOUT_MTP, folders.weights(WITHOUT_MTP))
    for format_ in ("torch_dist", "legacy"):
        there = convert(origin, place / format_, "--format", format_, "--implementation", "local")
        (there / "plumbline.json").unlink()
    return place


@pytest.fixture
def place(converted: Path, tmp_path: Path) -> Path:
    return shutil.copytree(converted, tmp_path / "place")


def name(module: str, word: str) -> bytes:
    """STACK_GLOBAL."""
    return b"".join(b"\x8c" + bytes([len(text.encode())]) + text.encode() for text in (module, word)) + b"\x93"


def asks(module: str, word: str, given: bytes = b")") -> bytes:
    """A pickle that calls something by its name."""
    return b"\x80\x04" + name(module, word) + given + b"R."


DCP = "torch.distributed.checkpoint"
TEXT = b"\x8c\x04true\x85"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "a call": (pickle.dumps(Calls(os.system, "true")), "asks for posix.system"),
    "by the old instruction": (b"cposix\nsystem\n(S'true'\ntR.", "asks for posix.system"),
    "an object": (b"(iposix\nsystem\n.", "cannot be read"),
    "through a dotted name": (asks(f"{DCP}.metadata", "os.system", TEXT), f"asks for {DCP}.metadata.os.system"),
    "of a module's module": (asks(f"{DCP}.filesystem", "os.system", TEXT), f"asks for {DCP}.filesystem.os.system"),
    "through a class": (asks(f"{DCP}.metadata", "Metadata.__init__.__globals__"), f"asks for {DCP}.metadata.Metadata.__init__"),
    "getattr": (
        b"\x80\x04" + name("builtins", "getattr") + name(f"{DCP}.metadata", "Metadata") + b"\x8c\x08__init__\x86R.",
        "asks for builtins.getattr",
    ),
    "a function of torch": (asks("torch.serialization", "load", TEXT), "asks for torch.serialization.load"),
    "another attribute of torch": (asks("torch", "load", TEXT), "asks for torch.load"),
    "the import of a module": (asks("importlib", "import_module", TEXT), "asks for importlib.import_module"),
    "copyreg": (asks("copyreg", "_reconstructor"), "asks for copyreg._reconstructor"),
    "a name with a line end": (asks("os\nerror: fine", "system"), r"asks for os\nerror: fine.system"),
    "a registered extension": (b"\x80\x02\x82\x01.", "cannot be read"),
    "a persistent id": (b"\x80\x02U\x01aQ.", "cannot be read"),
    "a buffer outside": (b"\x80\x05\x97.", "cannot be read"),
    "a call of what was made": (b"\x80\x04" + name(f"{DCP}.metadata", "Metadata") + b")\x81)R.", "cannot be read"),
    "a class that is called": (asks(f"{DCP}.metadata", "StorageMeta"), "cannot be read"),
    "a state for a class": (b"\x80\x04" + name(f"{DCP}.metadata", "Metadata") + b"}\x8c\x01aK\x01sb.", "cannot be read"),
    "a place in the memo that is far": (b"\x80\x04]r\xff\xff\xff\x7f.", "cannot be read"),
    "a text that is not there": (b"\x80\x04X\xff\xff\xff\x7fa.", "cannot be read"),
    "a frame without end": (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "cannot be read"),
    "keys that take forever to hash": (b"\x80\x04}N" + b"\x85" + b"\x94h\x00\x86" * 60 + b"Ns.", "cannot be read"),
    "lists in lists": (b"\x80\x04" + b"]" * 90_000 + b"a" * 89_999 + b".", "cannot be read"),
    "dicts without end": (b"\x80\x04" + b"}" * 1_000_000 + b".", "has more records than its size allows"),
    "a size of a size": (
        b"\x80\x04" + name("torch", "Size") + b"\x94" + b"(" + b"K\x01" * 1000 + b"l\x94" + b"0h\x00h\x01\x85R." * 1000,
        "cannot be read",
    ),
    "a number that is none": (pickle.dumps(7), "holds no torch.distributed.checkpoint.Metadata"),
    "nothing": (b"", "cannot be read"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_metadata_is_read_as_data(what: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`convert`, `compare` and what is asked ahead of a run refuse it in one sentence, with the file and the name."""
    pickled, sentence = HOSTILE[what]
    path = place / "torch_dist/release/.metadata"
    path.write_bytes(pickled)
    commands = (
        ["convert", "--to-hf", "--load", str(place / "torch_dist"), "--save", str(place / "out")],
        ["compare", str(place / "hf"), str(place / "torch_dist")],
    )
    for words in commands:
        assert main(words) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert sentence in said
        assert ".metadata" in said
    assert sentence in str(misfit(case(place / "torch_dist", "local", model=WITHOUT_MTP)))


def marks(path: Path) -> Any:
    """An object that leaves a file when it is unpickled."""
    return Calls(os.mkdir, str(path))


def poison_metadata(folder: Path, mark: Path) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(marks(mark)))


def poison_common(folder: Path, mark: Path) -> None:
    torch.save({"args": marks(mark)}, folder / "common.pt")


def poison_extra_states(folder: Path, mark: Path) -> None:
    """Each of them is an object of its own, which torch loads without a limit."""
    metadata = FileSystemReader(folder).read_metadata()
    data = io.BytesIO()
    torch.save(marks(mark), data)
    (folder / "__9_0.distcp").write_bytes(data.getvalue())
    for index in [index for index in metadata.storage_data if "_extra_state" in index.fqn]:
        metadata.storage_data[index] = _StorageInfo("__9_0.distcp", 0, len(data.getvalue()))
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


POISONS: dict[str, Callable[[Path, Path], None]] = {
    "metadata": poison_metadata,
    "common.pt": poison_common,
    "extra states": poison_extra_states,
}


@pytest.mark.parametrize("what", POISONS)
def test_no_reader_of_ours_runs_it(what: str, place: Path, tmp_path: Path) -> None:
    """The same objects do run where torch itself reads the file: the test would notice."""
    mark, folder = tmp_path / "mark", place / "torch_dist"
    POISONS[what](folder / "release", mark)
    main(["convert", "--to-hf", "--load", str(folder), "--save", str(tmp_path / "out")])
    main(["compare", str(place / "hf"), str(folder)])
    misfit(case(folder, "local", model=WITHOUT_MTP))
    assert not mark.exists()
    if what == "metadata":
        with pytest.raises(AttributeError):
            FileSystemReader(folder / "release").read_metadata()
        assert mark.exists()


@pytest.mark.parametrize("word", ["local", "te"])
def test_what_is_read_is_what_torch_reads(word: str, tmp_path: Path) -> None:
    """To the last record, extra states and files."""
    origin = folders.write(tmp_path / "hf", WITHOUT_MTP, folders.weights(WITHOUT_MTP))
    place = convert(origin, tmp_path / "mcore", "--implementation", word, "--layout", "tp2") / "release"
    ours, theirs = read_metadata(place), FileSystemReader(place).read_metadata()
    assert ours.state_dict_metadata == theirs.state_dict_metadata
    assert ours.storage_data == theirs.storage_data
    assert any(isinstance(known, BytesStorageMetadata) for known in ours.state_dict_metadata.values())


class _ByName:
    """Pickles as a member of an enumeration did in Python 3.11.0 to 3.11.3."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return getattr, (_MEM_FORMAT_ENCODING, "TORCH_CONTIGUOUS_FORMAT")


def test_enumerations_of_older_pythons(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are pickled with getattr, which is taken for this and for nothing else."""
    folder = place / "torch_dist/release"
    metadata = FileSystemReader(folder).read_metadata()
    state = (torch.bfloat16, torch.strided, False, _ByName(), False)
    monkeypatch.setattr(TensorProperties, "__getstate__", lambda self: state)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    assert b"getattr" in (folder / ".metadata").read_bytes()
    assert read_metadata(folder).state_dict_metadata.keys() == metadata.state_dict_metadata.keys()


WRONG: dict[str, tuple[Callable[[Metadata], object], str]] = {
    "a file above the folder": (lambda m: _first(m).__dict__.update(relative_path="../x"), "which is no file of the folder"),
    "a file anywhere": (lambda m: _first(m).__dict__.update(relative_path="/etc/passwd"), "which is no file of the folder"),
    "a negative place": (lambda m: _first(m).__dict__.update(offset=-1), "has no place of"),
    "a chunk beyond its tensor": (lambda m: _tensor(m).__dict__.update(size=torch.Size([1, 1])), "reaches beyond the tensor"),
    "chunks that are there twice": (lambda m: _tensor(m).chunks.extend(_tensor(m).chunks), "more chunks of"),
    "another layout": (lambda m: setattr(_tensor(m).properties, "layout", torch.sparse_coo), "only torch.strided is read"),
    "no chunks": (lambda m: _tensor(m).__dict__.update(chunks=None), "has no dtype, size and chunks"),
    "a dimension near 2^61": (
        lambda m: _tensor(m).__dict__.update(size=torch.Size([(1 << 61) - 1, 64])),
        "a dimension that is none",
    ),
    "an offset near 2^61": (
        lambda m: m.storage_data.update({MetadataIndex("x", torch.Size([(1 << 61) - 1])): _first(m)}),
        "a dimension that is none",
    ),
    "thousands of empty chunks": (
        lambda m: _tensor(m).chunks.extend([ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([0, 0]))] * 1025),
        "more chunks of",
    ),
    "an object for a tensor": (
        lambda m: m.state_dict_metadata.update({"embedding.word_embeddings.weight": BytesStorageMetadata()}),
        "embedding.word_embeddings.weight is no tensor but an object",
    ),
    "a compressed item": (lambda m: _first(m).__dict__.update(transform_descriptors=["stream.zstd"]), "is compressed"),
    "an item beyond its file": (lambda m: _first(m).__dict__.update(offset=1 << 40), ".metadata needs 10995"),
    "no storage": (lambda m: m.__dict__.update(storage_data=None), "has no storage_data"),
    "no place": (lambda m: m.__dict__.update(storage_data={}), "does not say where"),
}


def _first(metadata: Metadata) -> Any:
    return next(iter(metadata.storage_data.values()))


def _tensor(metadata: Metadata) -> TensorStorageMetadata:
    known = metadata.state_dict_metadata["embedding.word_embeddings.weight"]
    assert isinstance(known, TensorStorageMetadata)
    return known


@pytest.mark.parametrize("what", WRONG)
def test_records_that_torch_never_writes(what: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They could name files elsewhere, or take any memory."""
    change, sentence = WRONG[what]
    folder = place / "torch_dist/release"
    metadata = FileSystemReader(folder).read_metadata()
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    assert main(["convert", "--to-hf", "--load", str(place / "torch_dist"), "--save", str(place / "out")]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.splitlines()) == 1


def test_a_pipe_is_no_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who opens one waits for its other end."""
    (place / "hf/config.json").unlink()
    os.mkfifo(place / "hf/config.json")
    assert main(["compare", str(place / "hf"), str(place / "torch_dist")]) == 2
    assert "is no regular file" in capsys.readouterr().err


def test_a_pipe_for_a_file_of_tensors(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also ahead of a run, whose ranks would wait for its other end."""
    for path in (place / "torch_dist/release").glob("*.distcp"):
        path.unlink()
        os.mkfifo(path)
    assert main(["compare", str(place / "hf"), str(place / "torch_dist")]) == 2
    assert ".distcp is missing" in capsys.readouterr().err
    assert ".distcp is missing" in str(misfit(case(place / "torch_dist", "local", model=WITHOUT_MTP)))


def item_of(folder: Path, data: bytes) -> None:
    """In the place of a tensor's item."""
    metadata = FileSystemReader(folder).read_metadata()
    (index,) = [one for one in metadata.storage_data if one.fqn == "embedding.word_embeddings.weight"]
    (folder / "__9_0.distcp").write_bytes(data)
    metadata.storage_data[index] = _StorageInfo("__9_0.distcp", 0, len(data))
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


@pytest.mark.parametrize("what", EXPLODING)
def test_what_explodes_in_a_file_of_torch_save(what: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key that takes forever to hash, and memory that the size does not tell: one sentence, in both formats."""
    data = archive(b"\x80\x02" + EXPLODING[what] + b".").getvalue()
    legacy(place).write_bytes(data)
    item_of(place / "torch_dist/release", data)
    for format_ in ("legacy", "torch_dist"):
        assert main(["convert", "--to-hf", "--load", str(place / format_), "--save", str(place / "out")]) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert "model_optim_rng.pt: " in said or "embedding.word_embeddings.weight cannot be read" in said
    assert "model_optim_rng.pt: " in str(misfit(case(place / "legacy", "local", model=WITHOUT_MTP)))


@pytest.mark.parametrize("version", [[1], {}, True, 1.5])
def test_a_version_that_is_none(version: object, place: Path) -> None:
    """megatron-core would look for it in a dict."""
    said = {"sharded_backend": "torch_dist", "sharded_backend_version": version}
    (place / "torch_dist/release/metadata.json").write_text(json.dumps(said))
    assert "as the version of a format" in str(misfit(case(place / "torch_dist", "local", model=WITHOUT_MTP)))


def legacy(place: Path) -> Path:
    return place / "legacy/release/mp_rank_00/model_optim_rng.pt"


def test_a_rank_s_file_that_asks_for_code(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence is ours: torch's advises to load it without protection."""
    state = torch.load(legacy(place), weights_only=False)
    torch.save({**state, "args": marks(tmp_path / "mark")}, legacy(place))
    assert main(["convert", "--to-hf", "--load", str(place / "legacy"), "--save", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "model_optim_rng.pt: asks for posix.mkdir" in said
    assert "weights_only" not in said
    assert len(said.splitlines()) == 1
    assert "asks for posix.mkdir" in str(misfit(case(place / "legacy", "local", model=WITHOUT_MTP)))
    assert not (tmp_path / "mark").exists()


def _args(**changed: Any) -> Callable[[dict[str, Any]], object]:
    return lambda state: vars(state["args"]).update(changed)


def _columns(state: dict[str, Any]) -> None:
    """A weight whose rows are columns in memory: the same numbers, in another order in the file."""
    weight = state["model"]["embedding.word_embeddings.weight"]
    state["model"]["embedding.word_embeddings.weight"] = weight.t().contiguous().t()


STATES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a degree of a million million": (
        _args(tensor_model_parallel_size=10**12),
        "tensor_model_parallel_size in the arguments is 10000",
    ),
    "a degree that is a text": (_args(pipeline_model_parallel_size="2"), "the layout needs a whole number"),
    "no layers": (_args(num_layers=None), "num_layers in the arguments is None"),
    "more ranks than there are": (
        _args(tensor_model_parallel_size=1 << 17, pipeline_model_parallel_size=4),
        "a layout has up to",
    ),
    "no state": (lambda state: state.update(model=7), "model is no state of a model"),
    "a weight that is none": (lambda state: state["model"].update({"embedding.word_embeddings.weight": "w"}), "row by row"),
    "columns": (_columns, "does not lie in the file row by row"),
    "no arguments": (lambda state: state.pop("args"), "is None, and the layout needs"),
}


@pytest.mark.parametrize("what", STATES)
def test_states_that_no_training_writes(what: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said before a rank is counted or a byte is read."""
    change, sentence = STATES[what]
    state = torch.load(legacy(place), weights_only=False)
    change(state)
    torch.save(state, legacy(place))
    assert main(["convert", "--to-hf", "--load", str(place / "legacy"), "--save", str(place / "out")]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.splitlines()) == 1


def test_another_backend_is_not_asked_for(place: Path) -> None:
    """megatron-core would take the code that metadata.json names."""
    (place / "torch_dist/release/metadata.json").write_text('{"sharded_backend": "zarr", "sharded_backend_version": 1}')
    assert "metadata.json: names zarr" in str(misfit(case(place / "torch_dist", "local", model=WITHOUT_MTP)))


def test_a_metadata_of_absurd_size(place: Path) -> None:
    """A sparse file costs nobody a byte of disk; it is not read."""
    os.truncate(place / "torch_dist/release/.metadata", 1 << 40)
    with pytest.raises(UsageError, match=r"has 1099511627776 bytes, and no more than"):
        read_metadata(place / "torch_dist/release")
