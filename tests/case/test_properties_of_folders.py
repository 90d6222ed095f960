"""Whatever stands in config.json or on the command line: a model or settings, or one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import anything, changed_bytes, changed_json, in_a_process, quick
from validation.case.errors import PlumblineError, UsageError
from validation.case.folder import model_from_folder, read_config
from validation.case.megatron_folder import TRACKER, megatron_folder
from validation.case.model import Model
from validation.case.parameters import parameters
from validation.case.preset import TINY
from validation.case.strangers import read_json
from validation.convert.describe import describe


def config() -> dict[str, Any]:
    """As DeepSeek publishes it."""
    numbers = TINY.model.as_dict()
    rope = {
        word: numbers.pop(word)
        for word in ("original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
    }
    rope |= {"type": numbers.pop("rope_type"), "factor": numbers.pop("rope_factor")}
    quantised = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
    return {"model_type": "deepseek_v3", **numbers, "rope_scaling": rope, "quantization_config": quantised}


def holds(folder: Path) -> None:
    """A model of it can be listed, or it is refused."""
    for read in (model_from_folder, lambda path: describe(path).model):
        try:
            model: Model = read(folder)
        except PlumblineError:
            continue
        assert len(parameters(model)) < 1 << 16


@quick
@given(said=changed_json(config()))
def test_a_config_with_another_value(said: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(said))
    holds(tmp_path)


@quick
@given(data=changed_bytes(json.dumps(config()).encode()))
def test_a_config_of_other_bytes(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(data)
    holds(tmp_path)


@quick
@given(data=st.binary(max_size=40) | anything.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_json_or_a_sentence(data: bytes, tmp_path: Path) -> None:
    """And what is read is what the standard library reads."""
    (tmp_path / "x.json").write_bytes(data)
    try:
        found = read_json(tmp_path / "x.json", 1 << 12, 1 << 12, "again")
    except UsageError:
        return
    assert found == json.loads(data)


@quick
@given(data=st.binary(max_size=300) | st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_a_tracker_of_any_bytes(data: bytes, tmp_path: Path) -> None:
    """The file that names the latest checkpoint."""
    (tmp_path / TRACKER).write_bytes(data)
    (tmp_path / "release").mkdir(exist_ok=True)
    with pytest.raises(UsageError):
        megatron_folder(tmp_path)


ABSURD = {
    "nested": b'{"a":' * 200_000,
    "lists": b"[" * 200_000,
    "values": b'{"a":[' + b"0," * 2_000_000 + b"0]}",
    "a name twice": b'{"model_type": "deepseek_v3", "model_type": "llama"}',
    "a number of 5000 digits": b'{"num_hidden_layers": ' + b"9" * 5000 + b"}",
    "NaN": b'{"rms_norm_eps": NaN}',
    "Infinity": b'{"rope_theta": -Infinity}',
    "a float beyond all": b'{"rope_theta": 1e999}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "latin 1": b'{"a": "\xe9"}',
    "null bytes": b'{"a\x00": 1}',
    "nothing": b"",
}


@pytest.mark.parametrize("what", ABSURD)
def test_json_that_no_model_has(what: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(ABSURD[what])
    with pytest.raises(UsageError) as raised:
        read_config(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path}/config.json ")
    assert len(str(raised.value).splitlines()) == 1


NUMBERS: dict[str, object] = {
    "num_hidden_layers": 10**9,
    "n_routed_experts": 10**9,
    "vocab_size": 10**12,
    "hidden_size": 1 << 40,
    "num_nextn_predict_layers": 10**6,
    "max_position_embeddings": 10**12,
    "num_attention_heads": True,
    "kv_lora_rank": -1,
    "v_head_dim": 1.5,
    "moe_intermediate_size": "32",
    "tie_word_embeddings": "false",
    "rms_norm_eps": [1e-6],
    "rope_theta": 1e300,
    "n_group": {},
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_no_model_has(name: str, tmp_path: Path) -> None:
    """The sentence names the number, before anything is made of it."""
    (tmp_path / "config.json").write_text(json.dumps({**config(), name: NUMBERS[name]}))
    with pytest.raises(UsageError, match=rf"{name} in config.json is "):
        describe(tmp_path)


def test_layers_and_experts_together(tmp_path: Path) -> None:
    """Each number alone is one that a model may have."""
    (tmp_path / "config.json").write_text(json.dumps({**config(), "num_hidden_layers": 1000, "n_routed_experts": 8192}))
    with pytest.raises(UsageError, match=r"in each of 999 layers; no model has more than 262144 experts"):
        model_from_folder(tmp_path)


MOST = 64
"""MiB that the reading of a config.json may take, whatever is in it."""
READ = """
from pathlib import Path
from validation.case.errors import UsageError
from validation.case.folder import model_from_folder
HOLD
try:
    model_from_folder(Path(sys.argv[1]))
except UsageError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["nested", "values", "a sparse file of 2 GB", "layers"])
def test_memory_of_a_config(what: str, tmp_path: Path) -> None:
    """A process that may take 64 MiB more says its sentence."""
    path = tmp_path / "config.json"
    path.write_bytes(ABSURD.get(what, b"{}"))
    if what.startswith("a sparse"):
        with path.open("r+b") as file:
            file.truncate(2 << 30)
    if what == "layers":
        path.write_text(json.dumps({**config(), "num_hidden_layers": 10**9}))
    done = in_a_process(READ, str(tmp_path), mebibytes=MOST)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
