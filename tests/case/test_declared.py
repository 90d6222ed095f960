"""Fields are read from megatron-core's source as Python itself would have them, and values of them from text."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from validation import checkout
from validation.case.annotation import Value
from validation.case.declared import Field, declared, find, here, initial, value
from validation.case.errors import EnvironmentMissing, UsageError

CONFIGURATION = """
from dataclasses import dataclass, field
from typing import Callable, ClassVar, List, Literal, Optional, Tuple, Union
import torch
from megatron.core.transformer.enums import Backend
from ..parents import Parent
from .layouts import Stages
from .circle import Round

@dataclass
class TransformerConfig(Parent):
    known: ClassVar[int] = 3
    switch: bool = False
    count: int = field(default=4, metadata={"arguments": None})
    epsilon: float = 1e-5
    title: str = ""
    rank: Optional[int] = None
    silently_none: int = None
    rate: float | None = None
    kind: Literal["full", "selective"] = "full"
    generation: Optional[Literal[2, 3]] = None
    modules: Optional[List[str]] = field(default_factory=list)
    window: Optional[Tuple[int, int]] = None
    patterns: Tuple[str, ...] = ()
    frequency: Union[int, List[int]] = 1
    coefficient: Union[float, List[float]] = 0.0
    stages: Optional[Union[str, list, Stages]] = None
    backend: Backend = Backend.auto
    dtype: torch.dtype = torch.float32
    quoted: "Optional[int]" = None
    function: Optional[Callable] = None
    whole: Stages = None
    endless: Round = None

@dataclass
class MLATransformerConfig(TransformerConfig):
    epsilon: float = 1e-6
    q_lora_rank: int = 512
"""
FILES = {
    "transformer/transformer_config.py": CONFIGURATION,
    "transformer/circle.py": "from .back import Round\n",
    "transformer/back.py": "from .circle import Round\n",
    "transformer/layouts.py": "class Stages: ...\n",
    "transformer/enums.py": "import enum\nclass Backend(enum.Enum):\n    flash = 1\n    auto = 2\n",
    "parents.py": "from dataclasses import dataclass\n@dataclass\nclass Parent:\n    inherited: int = 1\n    count: int = 0\n",
    "distributed/distributed_data_parallel_config.py": "class DistributedDataParallelConfig:\n    bucket_size: int = None\n",
    "optimizer/optimizer_config.py": (
        "class OptimizerConfig:\n    lr: float = None\n    size: int = 1024 * 1024\n    scale: float = 2**32\n"
        "    threshold: float = float('inf')\n    made: float = random()\n    huge: int = 2 ** 2 ** 40\n"
    ),
    "optimizer_param_scheduler.py": (
        "class OptimizerParamScheduler:\n    def __init__(self, optimizer, init_lr: float, steps: int = 3): ...\n"
    ),
}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout") / "megatron" / "core"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def of(core: Path, name: str) -> Field:
    return find(declared(core), name)


def test_inherited_fields_come_first_and_one_declared_again_keeps_its_place(core: Path) -> None:
    names = [field.name for field in declared(core).values() if field.section == "model"]
    assert names[:4] == ["inherited", "count", "switch", "epsilon"]
    assert names[-1] == "q_lora_rank"
    assert "known" not in names, "a ClassVar is no field"
    assert (of(core, "model.count").default, of(core, "model.epsilon").default) == ("4", "1e-06")


def test_a_default_is_text_and_none_where_there_is_none(core: Path) -> None:
    assert of(core, "model.modules").default == "list()"
    assert of(core, "model.backend").default == "Backend.auto"
    assert of(core, "scheduler.init_lr").default is None
    assert of(core, "scheduler.steps").default == "3"
    assert [name for name in declared(core) if name.startswith("scheduler.")] == ["scheduler.init_lr", "scheduler.steps"]


GOOD: list[tuple[str, str, Value]] = [
    ("switch", "true", True),
    ("switch", "False", False),
    ("count", "8", 8),
    ("count", "-8", -8),
    ("epsilon", "1e-3", 0.001),
    ("epsilon", "1E-3", 0.001),
    ("epsilon", ".5", 0.5),
    ("epsilon", "1", 1.0),
    ("epsilon", "inf", math.inf),
    ("epsilon", "-.inf", -math.inf),
    ("title", "no", "no"),
    ("title", "1e-3x", "1e-3x"),
    ("title", "'1'", "1"),
    ("title", '"None"', "None"),
    ("rank", "null", None),
    ("rank", "None", None),
    ("rank", "~", None),
    ("rank", "", None),
    ("rank", "3", 3),
    ("silently_none", "null", None),
    ("rate", "3", 3.0),
    ("kind", "selective", "selective"),
    ("generation", "3", 3),
    ("modules", "[core_attn, moe]", ("core_attn", "moe")),
    ("modules", "[]", ()),
    ("window", "[4, -1]", (4, -1)),
    ("patterns", "[a, b, c]", ("a", "b", "c")),
    ("frequency", "2", 2),
    ("frequency", "[0, 1]", (0, 1)),
    ("frequency", "([0]*3+[1]*2)", (0, 0, 0, 1, 1)),
    ("frequency", "[0, 1] * 2", (0, 1, 0, 1)),
    ("coefficient", "1", 1.0),
    ("coefficient", "[1e-2, 1]", (0.01, 1.0)),
    ("stages", "Et*2|(tt|)*5t|tmL", "Et*2|(tt|)*5t|tmL"),
    ("stages", "[[embedding, decoder], [decoder, loss]]", (("embedding", "decoder"), ("decoder", "loss"))),
    ("backend", "flash", "flash"),
    ("dtype", "bfloat16", "bfloat16"),
    ("quoted", "7", 7),
]


@pytest.mark.parametrize(("name", "text", "meant"), GOOD, ids=lambda given: str(given))
def test_text_is_read_as_the_annotation_allows(core: Path, name: str, text: str, meant: Value) -> None:
    found = value(of(core, f"model.{name}"), text)
    assert found == meant
    assert type(found) is type(meant)
    if isinstance(meant, tuple):
        assert [type(item) for item in meant] == [type(item) for item in found or ()]  # type: ignore[union-attr]


BAD = [
    ("switch", "1", "model.switch=1: it takes true or false"),
    ("switch", "on", "model.switch=on: it takes true or false; write true"),
    ("switch", "No", "write false"),
    ("switch", "null", "it takes true or false"),
    ("count", "true", "it takes a whole number"),
    ("count", "1e6", "it takes a whole number; write 1000000"),
    ("count", "1.5", "it takes a whole number$"),
    ("count", "1_000", "it takes a whole number"),
    ("count", "", "model.count=: it takes a whole number"),
    ("epsilon", "true", "it takes a number"),
    ("epsilon", "1e999", "the number is too large for a float"),
    ("epsilon", "nan", "NaN is equal to nothing"),
    ("title", "1", "it takes text"),
    ("kind", "ful", "it takes full or selective; did you mean full"),
    ("generation", "4", "it takes 2, 3 or null"),
    ("generation", "true", "it takes 2, 3 or null"),
    ("modules", "core_attn", r"it takes a list in brackets, each item text or null; write \[core_attn\]"),
    ("modules", "[core_attn, 1]", "each item text"),
    ("window", "[4]", "a list of 2"),
    ("frequency", "[0, x]", "each item a whole number"),
    ("frequency", "[1] * 99999999", "a list of 99999999 items"),
    ("frequency", "[0]*[1]", "lists may be added and repeated"),
    ("frequency", "3*3", "lists may be added and repeated"),
    ("frequency", "[[0]*2]*2", "lists may be added and repeated"),
    ("frequency", "((((((*", "it is no list"),
    ("backend", "flush", "it takes flash or auto; did you mean flash"),
    ("dtype", "bf16", "it takes .*; did you mean bfloat16"),
    ("stages", "{a: b}", "mappings are not read"),
    ("stages", "&a [*a]", "aliases are not read"),
    ("stages", "[[[[[[[[[[[[1]]]]]]]]]]]]", "it is nested too deep"),
    ("stages", "[" * 3000, "it is not YAML"),
    ("stages", "[open", "it is not YAML"),
    ("stages", "!!python/name:os.system x", "is no value of a setting"),
    ("stages", "x" * 20_001, "the text has 20001 characters"),
    ("function", "silu", "no text can say; set it in a plugin"),
    ("whole", "null", "no text can say"),
    ("endless", "null", "no text can say"),
]


@pytest.mark.parametrize(("name", "text", "sentence"), BAD, ids=lambda given: str(given)[:30])
def test_other_text_is_refused_in_one_sentence(core: Path, name: str, text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as refused:
        value(of(core, f"model.{name}"), text)
    assert len(str(refused.value)) < 400
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("model.swich", "there is no setting 'model.swich'; the nearest that this megatron-core has: model.switch"),
        ("model.bucket_size", "ddp.bucket_size is one"),
        ("switch", "model.switch is one"),
        ("swich", "a setting begins with model., ddp., optimizer. or scheduler., such as model.switch"),
        ("modell.switch", "model.switch is one"),
        ("modell.swich", "such as model.switch"),
        ("optimizer.bucket_sise", "the nearest that this megatron-core has: ddp.bucket_size"),
        ("scheduler.optimizer", "this megatron-core has nothing like it"),
        ("model.mla_down_proj_fusion", "has no model.mla_down_proj_fusion; docs/fields.md says which releases"),
        ("mtp_hsm", "this megatron-core has no model.mtp_hsm; docs/fields.md says"),
        ("", "there is no setting ''"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(core: Path, name: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        find(declared(core), name)


def test_a_folder_without_the_classes_is_refused(tmp_path: Path, core: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        declared(tmp_path)
    other = tmp_path / "megatron" / "core"
    for name, text in FILES.items():
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_text(text.replace("class OptimizerParamScheduler", "class Scheduler"))
    with pytest.raises(UsageError, match="no class OptimizerParamScheduler with an __init__"):
        declared(other)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("model.switch", False),
        ("model.count", 4),
        ("model.epsilon", 1e-6),
        ("model.modules", ()),
        ("model.coefficient", 0.0),
        ("model.backend", "auto"),
        ("model.dtype", "float32"),
        ("model.silently_none", None),
        ("optimizer.size", 2**20),
        ("optimizer.scale", 2.0**32),
        ("optimizer.threshold", math.inf),
    ],
)
def test_a_default_is_a_value_of_its_field(core: Path, name: str, meant: Value) -> None:
    found = initial(of(core, name))
    assert found == meant
    assert type(found) is type(meant)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("scheduler.init_lr", "scheduler.init_lr has no default; give it a value"),
        ("optimizer.made", r"the default of optimizer.made, random\(\), is none that text can say"),
        ("optimizer.huge", "is none that text can say"),
    ],
)
def test_what_has_no_default_that_text_can_say_is_refused(core: Path, name: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        initial(of(core, name))


def test_no_megatron_core_at_all_is_something_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkout, "core", lambda: None)
    with pytest.raises(EnvironmentMissing, match="megatron-core is not installed"):
        here()
