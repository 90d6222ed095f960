"""What a machine with GPUs may lack, told from facts that are made up: there is no GPU here."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from validation import cuda, machine
from validation.case.errors import EnvironmentMissing
from validation.run import launch

SMI = "| NVIDIA-SMI {driver}    Driver Version: {driver}    {words}: {cuda}     |"
Installs = Callable[..., None]


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch) -> Installs:
    """Makes these the only packages and modules there are: `flash_attn="2.8"` is a package, `modules` can be imported."""

    def only(*modules: str, **versions: str) -> None:
        names = {name.replace("_", "-"): number for name, number in versions.items()}
        monkeypatch.setattr(cuda, "version", lambda package: names.get(package, machine.ABSENT))
        found = {name: SimpleNamespace(origin=name) for name in modules}
        monkeypatch.setattr("importlib.util.find_spec", lambda name: found.get(name))

    return only


@pytest.mark.parametrize(
    ("torchs", "drivers", "said"),
    [
        pytest.param("13.0", "13.0", None, id="the same"),
        pytest.param("12.8", "13.1", None, id="a newer driver runs older CUDAs"),
        pytest.param("12.8", "12.2", None, id="minor versions do not matter"),
        pytest.param("13.0", None, None, id="what nvidia-smi does not say is left to torch"),
        pytest.param("13.0", "12.9", "runs CUDA up to 12.9 and torch .* is built for CUDA 13.0", id="a driver too old"),
        pytest.param(None, "13.0", "is a CPU build, which no GPU case can run on", id="a CPU build of torch"),
    ],
)
def test_torch_and_the_driver_must_fit(
    monkeypatch: pytest.MonkeyPatch, torchs: str | None, drivers: str | None, said: str | None
) -> None:
    monkeypatch.setattr(cuda, "torchs_cuda", lambda: torchs)
    monkeypatch.setattr(cuda, "drivers_cuda", lambda: drivers)
    monkeypatch.setattr(cuda, "nvml", lambda: None)
    if said is None:
        cuda.check("nccl")
        return
    with pytest.raises(EnvironmentMissing, match=said):
        cuda.check("nccl")


ABSENT = machine.Unasked("libnvidia-ml.so.1: cannot open shared object file: No such file or directory", there=False)
MISMATCH = machine.Unasked("Driver/library version mismatch", there=True)


@pytest.mark.parametrize(
    ("found", "transport", "said"),
    [
        pytest.param(None, "nccl", "", id="it answers"),
        pytest.param(ABSENT, "staged", "", id="a container without it can share its GPUs"),
        pytest.param(
            ABSENT, "nccl", "NVIDIA_DRIVER_CAPABILITIES=compute,utility; --transport staged runs", id="and has no NCCL"
        ),
        pytest.param(
            MISMATCH, "nccl", "(Driver/library version mismatch); after an update of the driver restart", id="updated"
        ),
        pytest.param(
            MISMATCH, "staged", "`nvidia-smi` says whether it is right; --transport gloo", id="whatever the transport"
        ),
    ],
)
def test_a_driver_that_cannot_be_asked(found: machine.Unasked | None, transport: str, said: str) -> None:
    """NCCL opens NVML; torch goes on without it."""
    told = cuda.unasked(found, transport)
    assert (told is None) if not said else said in (told or "")


def test_nvml_is_asked_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its library is missing, or what it says is not that all is well, its own words are kept."""
    shut = []

    class Words:
        def __call__(self, code: int) -> bytes:
            return {18: b"Driver/library version mismatch"}[code]

    def answering(code: int) -> SimpleNamespace:
        return SimpleNamespace(nvmlInit_v2=lambda: code, nvmlShutdown=lambda: shut.append(code), nvmlErrorString=Words())

    monkeypatch.setattr("ctypes.CDLL", lambda name: answering(0))
    assert machine.nvml() is None
    monkeypatch.setattr("ctypes.CDLL", lambda name: answering(18))
    assert machine.nvml() == MISMATCH
    assert shut == [0]

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert machine.nvml() == ABSENT


@pytest.mark.parametrize(("words", "told"), [("CUDA Version", "13.0"), ("CUDA UMD Version", "13.1"), ("Something else", None)])
def test_the_driver_s_cuda_stands_in_the_first_lines_of_nvidia_smi(
    monkeypatch: pytest.MonkeyPatch, words: str, told: str | None
) -> None:
    line = SMI.format(driver="580.159.04", words=words, cuda=told or "13.0")
    monkeypatch.setattr(machine, "_nvidia_smi", lambda *arguments: ["+-----+", line])
    assert machine.drivers_cuda() == told


@pytest.mark.parametrize(
    ("written", "told"),
    [("cuda: Optional[str] = '13.0'", "13.0"), ('cuda = "12.8"', "12.8"), ("cuda: Optional[str] = None", None), ("", None)],
)
def test_the_cuda_of_torch_is_read_without_importing_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, written: str, told: str | None
) -> None:
    (tmp_path / "version.py").write_text(f"__version__ = '2.11.0'\n{written}\nhip = None\n", encoding="utf-8")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    assert machine.torchs_cuda() == told


def test_the_torch_of_this_environment_says_of_itself_what_is_read() -> None:
    import torch

    build = torch.version.cuda
    assert machine.torchs_cuda() == (".".join(build.split(".")[:2]) if build else None)


@pytest.mark.parametrize(("visible", "free"), [(None, [70, 10]), ("1", [10]), ("1,0", [10, 70]), ("", []), ("GPU-2", [70])])
def test_memory_is_that_of_the_visible_gpus(monkeypatch: pytest.MonkeyPatch, visible: str | None, free: list[int]) -> None:
    """One that is named by its identifier is taken for any: the count is right."""
    told = {"-L": ["GPU 0: A", "GPU 1: B"], "--query-gpu": ["NVIDIA H100, 81559, 71680", "NVIDIA H100, 81559, 10240"]}
    monkeypatch.setattr(machine, "_nvidia_smi", lambda first, *more: told[first.partition("=")[0]])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.free >> 30 for gpu in machine.visible_gpus()] == free
    assert {gpu.total >> 20 for gpu in machine.visible_gpus()} <= {81559}


def test_transformer_engine_must_be_there_with_its_pytorch_part(installs: Installs) -> None:
    installs()
    with pytest.raises(EnvironmentMissing, match=r"is not installed .*requirements/te.txt.*--implementation local"):
        cuda.find_transformer_engine()
    installs("transformer_engine", transformer_engine="2.11.0")
    with pytest.raises(EnvironmentMissing, match=r"2.11.0 is installed without its PyTorch part"):
        cuda.find_transformer_engine()
    installs("transformer_engine", "transformer_engine_torch", transformer_engine="2.11.0")
    cuda.find_transformer_engine()


def test_ranks_start_warm_unless_the_imports_would_use_the_gpu(installs: Installs, monkeypatch: pytest.MonkeyPatch) -> None:
    """flash-attn makes Transformer Engine ask for the compute capability at import, and flash-attn-4 uses the GPU itself."""
    monkeypatch.setenv("PLUMBLINE_TRANSPORT", "staged")
    monkeypatch.setattr(cuda, "nvml", lambda: None)
    installs("transformer_engine", transformer_engine="2.11.0")
    assert launch.start_method() == "forkserver"
    monkeypatch.setattr(cuda, "nvml", lambda: ABSENT)
    assert launch.start_method() == "spawn", "torch asks CUDA itself then, and no child can use it any more"
    monkeypatch.setattr(cuda, "nvml", lambda: None)
    for flash in ({"flash_attn": "2.8.3"}, {"flash_attn_4": "4.0.0b36"}):
        installs("transformer_engine", transformer_engine="2.20.2", **flash)
        assert launch.start_method() == "spawn"
    installs("transformer_engine", transformer_engine="2.20.2")
    for fused, method in (("1", "spawn"), ("0", "forkserver")):
        monkeypatch.setenv("NVTE_CUTEDSL_FUSED_GROUPED_MLP", fused)
        assert launch.start_method() == method, "fused grouped products make it ask for the compute capability at import"
    monkeypatch.setenv("PLUMBLINE_TRANSPORT", "gloo")
    assert launch.start_method() == "forkserver"


def test_why_a_module_cannot_be_imported_is_its_last_line() -> None:
    assert cuda.why_not_imported("json") is None
    assert cuda.why_not_imported("no_such_module") == "ModuleNotFoundError: No module named 'no_such_module'"


@pytest.mark.parametrize(
    ("fp8", "capability", "torchs", "said"),
    [
        pytest.param("none", (7, 0), "11.8", None, id="nothing in fp8"),
        pytest.param("delayed", (8, 9), "12.8", None, id="Ada has one scale a tensor"),
        pytest.param("blockwise", (9, 0), "13.0", None, id="Hopper has blocks"),
        pytest.param("delayed", (8, 0), "13.0", r"capability 8.9 .* these have 8.0; .* run in bf16", id="Ampere"),
        pytest.param("blockwise", (8, 9), "13.0", "capability 9.0", id="no blocks on Ada"),
        pytest.param(
            "blockwise", (9, 0), "12.8", "built for CUDA 12.9 or newer .* built for 12.8", id="a torch too old for blocks"
        ),
        pytest.param("blockwise", None, None, None, id="what nothing says is left to Transformer Engine"),
    ],
)
def test_fp8_needs_gpus_that_have_it(
    fp8: str, capability: tuple[int, int] | None, torchs: str | None, said: str | None
) -> None:
    found = cuda.fp8_problem(fp8, capability, torchs)
    assert (found is None) if said is None else re.search(said, found or "")


def test_the_compute_capability_is_that_of_the_oldest_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_nvidia_smi", lambda *_: ["9.0", "8.6", "[N/A]"])
    assert machine.compute_capability() == (8, 6)
    monkeypatch.setattr(machine, "_nvidia_smi", lambda *_: [])
    assert machine.compute_capability() is None


def test_what_does_not_change_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory that is free is asked each time."""
    asked: list[str] = []

    def answer(*arguments: str) -> list[str]:
        asked.append(arguments[0])
        return ["GPU 0: NVIDIA H200", "NVIDIA H200, 143771, 143000"]

    monkeypatch.setattr(machine, "_nvidia_smi", answer)
    for _ in range(2):
        assert machine.gpus_installed() == 1
        assert machine.driver() == "GPU 0: NVIDIA H200"
        assert [gpu.free >> 20 for gpu in machine.visible_gpus()] == [143000]
    assert sorted(asked) == ["--query-gpu=driver_version", *["--query-gpu=name,memory.total,memory.free"] * 2, "-L"]
