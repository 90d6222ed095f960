"""Whatever stands in the files of a checkpoint: it is read as it is, or refused in one sentence."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.distributed.checkpoint.filesystem import FileSystemReader

from tests.convert import folders
from tests.convert.folders import WITHOUT_MTP
from tests.convert.test_round_trip import convert
from tests.properties import changed_bytes, changed_json, few, in_a_process, quick
from validation.candidate.checkpoint.metadata import read_metadata
from validation.case.errors import PlumblineError, UsageError
from validation.convert.formats import open_source
from validation.convert.source import Source
from validation.reference.shard import INDEX, Shard, indexed, safetensors_files

python_s: Any = pickle._Unpickler
"""The one in Python takes a frame that is longer than the file, as ours does."""
BITS = st.integers(0, 1 << 40)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index, and both formats of it."""
    place = tmp_path_factory.mktemp("properties")
    origin = folders.write(place / "hf", WITHOUT_MTP, folders.weights(WITHOUT_MTP))
    for format_ in ("torch_dist", "legacy"):
        there = convert(origin, place / format_, "--format", format_, "--implementation", "local")
        (there / "plumbline.json").unlink()
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}, place / "small.safetensors")
    return place


def opens(folder: Path) -> None:
    """What is opened can be read; what is not is refused in a sentence."""
    with contextlib.suppress(PlumblineError), open_source(folder) as source:
        for name in list(source.parameters)[:3]:
            _read(source, name)


def _read(source: Source, name: str) -> None:
    source.read(name, tuple((0, size) for size in source.parameters[name].shape))


@quick
@given(data=st.data())
def test_metadata_of_other_bytes(data: st.DataObject, made: Path, tmp_path: Path) -> None:
    """A pickle that is spoiled in one place."""
    (tmp_path / ".metadata").write_bytes(data.draw(changed_bytes((made / "torch_dist/release/.metadata").read_bytes()[:6000])))
    with contextlib.suppress(UsageError):
        read_metadata(tmp_path)


@pytest.fixture(scope="module")
def small(made: Path) -> bytes:
    """Metadata of three tensors and an extra state: a change hits something more often."""
    metadata = FileSystemReader(made / "torch_dist/release").read_metadata()
    keys = [*list(metadata.state_dict_metadata)[:3], next(key for key in metadata.state_dict_metadata if "_extra_state" in key)]
    metadata.state_dict_metadata = {key: metadata.state_dict_metadata[key] for key in keys}
    metadata.storage_data = {index: info for index, info in metadata.storage_data.items() if index.fqn in keys}
    return pickle.dumps(metadata)


@quick
@given(data=st.data())
def test_small_metadata_of_other_bytes(data: st.DataObject, small: bytes, tmp_path: Path) -> None:
    """What is read is what Python's own unpickler reads of the same bytes."""
    changed = data.draw(changed_bytes(small))
    (tmp_path / ".metadata").write_bytes(changed)
    with contextlib.suppress(UsageError):
        found = read_metadata(tmp_path)
        assert found.state_dict_metadata == python_s(io.BytesIO(changed)).load().state_dict_metadata


instructions = st.sampled_from([bytes([code]) for code in pickle._Unpickler.dispatch])
texts = st.sampled_from(
    ["torch", "Size", "builtins", "getattr", "os", "system", "eval", "torch.distributed.checkpoint.metadata", "Metadata"]
)
pieces = (
    instructions
    | st.binary(max_size=3)
    | texts.map(lambda text: b"\x8c" + bytes([len(text)]) + text.encode())
    | st.just(b"\x93")
)


@quick
@given(parts=st.lists(pieces, max_size=30))
def test_any_instructions(parts: list[bytes], tmp_path: Path) -> None:
    """No program of the unpickler's runs to any other end."""
    (tmp_path / ".metadata").write_bytes(b"\x80\x04" + b"".join(parts) + b".")
    with pytest.raises(UsageError):
        read_metadata(tmp_path)


@few
@given(data=st.data())
def test_a_torch_dist_checkpoint_with_other_records(data: st.DataObject, made: Path, tmp_path: Path) -> None:
    """Offsets, sizes and names of files as nobody writes them, read down to the tensors."""
    folder = Path(shutil.copytree(made / "torch_dist", tmp_path / "one", dirs_exist_ok=True))
    metadata = FileSystemReader(made / "torch_dist/release").read_metadata()
    key = data.draw(st.sampled_from(sorted(metadata.state_dict_metadata)[:4]))
    info = next(info for index, info in metadata.storage_data.items() if index.fqn == key)
    word = data.draw(st.sampled_from(["offset", "length", "relative_path", "transform_descriptors"]))
    vars(info)[word] = data.draw(BITS | st.text(max_size=6) | st.sampled_from(["__0_0.distcp", "..", ["zstd"], None, -1]))
    (folder / "release/.metadata").write_bytes(pickle.dumps(metadata))
    opens(folder)


@few
@given(data=st.data())
def test_files_of_other_bytes(data: st.DataObject, made: Path, tmp_path: Path) -> None:
    """A rank's file, a .distcp file, a safetensors file: the first kilobytes, or the last, spoiled in one place."""
    what, name = data.draw(
        st.sampled_from(
            [
                ("legacy", "release/mp_rank_00/model_optim_rng.pt"),
                ("torch_dist", "release/__0_0.distcp"),
                ("hf", "model-00001-of-00002.safetensors"),
            ]
        )
    )
    folder = Path(shutil.copytree(made / what, tmp_path / "one", dirs_exist_ok=True))
    whole, place = (made / what / name).read_bytes(), data.draw(st.sampled_from([2500, -9000]))
    first, last = (whole[:place], whole[place:])
    changed = data.draw(changed_bytes(first)) + last if place > 0 else first + data.draw(changed_bytes(last))
    (folder / name).write_bytes(changed)
    opens(folder)
    shutil.rmtree(folder)


values = (
    st.none()
    | BITS
    | st.text(max_size=4)
    | st.lists(BITS, max_size=2)
    | st.just(torch.zeros(2))
    | st.just(torch.zeros(2).to_sparse())
)


@few
@given(data=st.data())
def test_a_rank_s_file_with_another_value(data: st.DataObject, made: Path, tmp_path: Path) -> None:
    """Arguments and tensors that no training saves."""
    folder = Path(shutil.copytree(made / "legacy", tmp_path / "one", dirs_exist_ok=True))
    path = folder / "release/mp_rank_00/model_optim_rng.pt"
    state: dict[str, Any] = torch.load(made / "legacy/release/mp_rank_00/model_optim_rng.pt", weights_only=False)
    into = data.draw(st.sampled_from([state, state["model"], vars(state["args"])]))
    into[data.draw(st.sampled_from(sorted(into)))] = data.draw(values)
    torch.save(state, path)
    opens(folder)
    shutil.rmtree(folder)


@quick
@given(data=st.data())
def test_a_safetensors_header_with_another_value(data: st.DataObject, made: Path, tmp_path: Path) -> None:
    whole = (made / "small.safetensors").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    said = json.dumps(data.draw(changed_json(json.loads(whole[8 : 8 + length])))).encode()
    told = data.draw(st.just(len(said)) | st.sampled_from([0, 1, len(said) - 1, len(said) + 1, 1 << 31, (1 << 64) - 1]))
    (tmp_path / "a.safetensors").write_bytes(told.to_bytes(8, "little") + said + whole[8 + length :])
    with contextlib.suppress(UsageError):
        shard = Shard(tmp_path / "a.safetensors")
        shard.described()
        shard.close()


@quick
@given(data=st.data())
def test_an_index_with_another_value(data: st.DataObject, made: Path, tmp_path: Path) -> None:
    """Whatever it names, no file elsewhere is opened."""
    (tmp_path / "a.safetensors").touch()
    right = {"metadata": {"total_size": 1}, "weight_map": {"a": "a.safetensors", "b": "a.safetensors"}}
    said = data.draw(changed_json(right) | st.builds(lambda name: {"weight_map": {"a": name}}, st.text(max_size=300)))
    (tmp_path / INDEX).write_text(json.dumps(said))
    with contextlib.suppress(UsageError):
        assert {path.name for path in safetensors_files(tmp_path)} == set(indexed(tmp_path).values()) == {"a.safetensors"}


ELSEWHERE = [
    "../a.safetensors",
    "/etc/passwd",
    "a/../a.safetensors",
    "..",
    ".",
    "",
    "a.safetensors/",
    "x" * 300,
    "a\0b",
    "\ud800",
]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_index_that_points_elsewhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UsageError, match=r"which is not there"):
        safetensors_files(tmp_path)


MOST = 512
"""MiB that opening one of these may take beside the imports, whatever is in it."""
READ = """
from pathlib import Path
from validation.candidate.checkpoint.metadata import read_metadata
from validation.case.errors import UsageError
from validation.reference.shard import Shard, safetensors_files
folder = Path(sys.argv[1])
HOLD
try:
    readers = {"metadata": read_metadata, "index": safetensors_files, "header": lambda folder: Shard(folder / "a.safetensors")}
    readers[sys.argv[2]](folder)
except UsageError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["metadata", "index", "header"])
def test_memory(what: str, tmp_path: Path) -> None:
    """The worst that is small on the disk: dicts without end, an index of millions, a header that is as large as it says."""
    many = b'{"weight_map":{' + b",".join(b'"%d":"a"' % number for number in range(3_000_000)) + b"}}"
    {
        "metadata": lambda: (tmp_path / ".metadata").write_bytes(b"\x80\x04" + b"}" * (8 << 20) + b"."),
        "index": lambda: (tmp_path / INDEX).write_bytes(many),
        "header": lambda: (tmp_path / "a.safetensors").write_bytes(len(many).to_bytes(8, "little") + many),
    }[what]()
    done = in_a_process(READ, str(tmp_path), what, mebibytes=MOST)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
