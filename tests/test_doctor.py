"""The doctor says what a machine can run, whatever is missing from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from validation import checkout, cuda, doctor, loopback, machine
from validation.case import disk
from validation.case.errors import ExitCode, UsageError
from validation.run import importable, limits
from validation.run.options import parsed

TWO_GPUS = ["GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)", "GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-2)"]


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 GiB free, with no GPU and no cgroup."""
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_nvidia_smi", lambda *arguments: [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n")
    return tmp_path


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Makes those packages the only ones installed (`_` for `-`)."""
    names = {name.replace("_", "-"): number for name, number in versions.items()}
    for module in (machine, doctor):
        monkeypatch.setattr(module, "version", lambda package: names.get(package, machine.ABSENT))


def named(findings: list[doctor.Finding]) -> dict[str, doctor.Finding]:
    """The findings by name."""
    return {finding.name: finding for finding in findings}


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ranks import can be imported: nearly every test asks, and the answer takes seconds."""
    monkeypatch.setattr(importable, "problem", lambda: None)


# The report


def test_where_everything_is_installed_a_cpu_case_can_run() -> None:
    """This test's own environment is one: exit code 0, and no line that a CPU case needs says otherwise."""
    found, code = doctor.report()
    assert code == ExitCode.PASS
    assert not [finding for finding in found if finding.name in {*doctor.CPU_CASE, "gloo"} and finding.prevents]


def test_the_report_covers_what_the_guide_lists() -> None:
    """Nothing is left out for being absent."""
    wanted = {"python", "torch", "CUDA", "driver", "GPUs", "megatron-core", "transformers", "Transformer Engine"}
    wanted |= {"nox", "pytest", "junitparser", "CPU", "memory", "cache", "disk", "gloo", "nccl"}
    assert wanted <= set(named(doctor.findings()))


def test_with_nothing_installed_it_still_runs_and_says_what_that_prevents() -> None:
    """An isolated interpreter has no packages: every missing piece has its sentence, and the exit code is 3."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); from validation.doctor import main; sys.exit(main([]))"
    root = str(Path(doctor.__file__).parents[1])
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, root], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.ENVIRONMENT, done.stderr
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert lines["torch"].startswith("not installed - no case can run")
    assert lines["megatron-core"].startswith("not installed - there is no candidate")
    assert lines["Transformer Engine"].startswith("not installed - `--implementation te` cannot run; local and local-stock can")
    assert lines["Transformer Engine"].endswith("install requirements/te.txt after cuda.txt")
    assert lines["pyyaml"].startswith("not installed - no list of known bugs")
    assert "`. .nox/cpu/bin/activate` has it where nox has run" in lines["junitparser"]
    assert lines["apex"].startswith("not installed (optional: ")
    assert lines["triton"].startswith("not installed (optional: ")
    assert lines["flash-attn"].startswith("not installed (optional: ")
    assert lines["flash-attn-4"].startswith("not installed (optional: ")


@pytest.mark.parametrize("path", [False, True], ids=["installed", "a checkout"])
def test_what_megatron_core_needs_is_reported(path: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the exit code of whatever else is missing. What tries it is tests/run/test_importable.py."""
    monkeypatch.setattr(importable, "problem", lambda: "megatron-core 9.8.7 needs triton, which is not installed")
    monkeypatch.setattr(checkout, "facts", lambda: {"megatron-path": "LM"} if path else {})
    found, code = doctor.report()
    assert code == ExitCode.ENVIRONMENT
    finding = named(found)["megatron-core"]
    assert finding.value == machine.version("megatron-core") + (" (path LM)" if path else "")
    assert finding.prevents == "no case can run: megatron-core 9.8.7 needs triton, which is not installed"


def test_what_is_imported_is_not_tried_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is reported by itself."""
    monkeypatch.setattr(importable, "problem", lambda: pytest.fail("tried"))
    monkeypatch.setattr(doctor, "version", lambda name: machine.ABSENT if name == "numpy" else machine.version(name))
    assert named(doctor.findings())["megatron-core"].prevents == ""


@pytest.mark.parametrize("package", doctor.CPU_CASE)
def test_a_cpu_case_needs_each_of_these(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any one of them the exit code is 3."""
    monkeypatch.setattr(doctor, "version", lambda name: machine.ABSENT if name == package else machine.version(name))
    assert doctor.report()[1] == ExitCode.ENVIRONMENT


def test_what_the_operating_system_withholds_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No loopback, few open files, a full disk: each with what would help, and the exit code is 3."""
    assert not [finding for finding in doctor._allowed() if finding.prevents]
    monkeypatch.setattr(loopback, "problem", lambda: "Network is unreachable")
    monkeypatch.setattr(limits, "hard_limit", lambda: 16)
    monkeypatch.setattr(limits, "available_threads", lambda: 20)
    monkeypatch.setattr(disk, "_free", lambda folder: 0)
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path))
    found, code = doctor.report()
    assert code == ExitCode.ENVIRONMENT
    assert doctor.conclusion(found).startswith("No case can run here; see above: loopback, open files, ")
    prevents = {finding.name: finding.prevents for finding in found}
    assert "`ip link set lo up`" in prevents["loopback"]
    assert "may have 16; raise that limit" in prevents["open files"]
    assert "20 more may be started here" in prevents["threads"]
    assert prevents["room for references"].endswith("name another folder with PLUMBLINE_CACHE")
    assert prevents["room for temporary files"].endswith("name another folder with TMPDIR")


@pytest.mark.parametrize("package", ["nox", "transformer-engine"])
def test_a_cpu_case_does_not_need_these(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are reported, and the exit code stays 0."""
    monkeypatch.setattr(doctor, "version", lambda name: machine.ABSENT if name == package else machine.version(name))
    found, code = doctor.report()
    assert code == ExitCode.PASS
    assert any("cannot" in finding.prevents for finding in found)


def test_a_torch_that_cannot_be_imported_is_reported_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing CUDA libraries raise OSError, and the first line of that is what helps."""
    monkeypatch.setitem(sys.modules, "torch", None)
    (finding,) = doctor._torch()
    assert "cannot be imported (import of torch halted" in finding.value
    assert finding.prevents.startswith("no case can run")


def test_transformer_engine_without_its_pytorch_part_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It installs well, and fails at the first import."""
    installed(monkeypatch, transformer_engine="2.11.0")
    finding = doctor._transformer_engine()
    assert finding.value == "2.11.0 without its PyTorch part"
    assert "install transformer-engine[pytorch]" in finding.prevents


def test_a_transformer_engine_that_cannot_be_imported_is_told_with_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that it needs is missing, say; or it was built for another torch."""
    installed(monkeypatch, transformer_engine="2.11.0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(cuda, "why_not_imported", lambda module: "OSError: libcudnn.so.9: no such file")
    finding = doctor._transformer_engine()
    assert finding.value == "2.11.0 cannot be imported (OSError: libcudnn.so.9: no such file)"
    assert finding.prevents.startswith("`--implementation te` cannot run")


def test_the_cache_is_told_with_its_size_its_limit_and_its_references(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of two references of one case only one counts; files of others are none of the cache's."""
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path))
    monkeypatch.setenv("PLUMBLINE_CACHE_LIMIT", "20GB")
    for name in ("0" * 24 + "-00000000", "0" * 24 + "-11111111", "1" * 24 + "-22222222", "mine"):
        (tmp_path / "references" / name).mkdir(parents=True)
        (tmp_path / "references" / name / "probes.safetensors").write_bytes(b"x" * 10**6)
    assert str(doctor._cache()) == f"cache: {tmp_path}, 3.0 MB of 20.0 GB, 2 references"


def test_a_cache_without_locks_forgets_nothing_and_that_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path))
    monkeypatch.setattr("validation.cache.locks.work", lambda folder: False)
    assert "nothing can be forgotten there: its file system has no locks" in doctor._cache().prevents
    assert doctor.report()[1] == ExitCode.PASS


def test_a_limit_that_is_no_size_keeps_every_case_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor says so and goes on; the exit code is 3."""
    monkeypatch.setenv("PLUMBLINE_CACHE_LIMIT", "much")
    found, code = doctor.report()
    assert code == ExitCode.ENVIRONMENT
    assert "$PLUMBLINE_CACHE_LIMIT=much is no size" in named(found)["cache settings"].prevents


@pytest.mark.parametrize("name", ["PLUMBLINE_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_a_cache_that_safetensors_could_not_open_keeps_every_case_from_running(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its path is no UTF-8, or leads to one that is not: the doctor says so, and options mean nothing."""
    other = tmp_path / os.fsdecode(b"caf\xe9")
    other.mkdir()
    (tmp_path / "link").symlink_to(other)
    for variable in ("PLUMBLINE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for folder in (other, tmp_path / "link"):
        monkeypatch.setenv(name, str(folder))
        found, code = doctor.report()
        assert code == ExitCode.ENVIRONMENT
        assert "the cache's path is not UTF-8" in named(found)["cache settings"].prevents
        with pytest.raises(UsageError, match="not UTF-8"):
            parsed([])


def test_a_cache_that_a_run_would_refuse_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is a file, or below one, or where no file can be made even by root."""
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "cache", Path("/proc/cache")):
        monkeypatch.setenv("PLUMBLINE_CACHE", str(place))
        found, code = doctor.report()
        assert code == ExitCode.ENVIRONMENT
        assert named(found)["cache settings"].prevents.startswith(
            f"no case can run: the cache, $PLUMBLINE_CACHE: {place}: no file"
        )


def test_a_driver_too_old_for_this_torch_is_told_apart_from_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "drivers_cuda", lambda: "12.4")
    assert "runs CUDA up to 12.4" in doctor._cuda("13.0", usable=False).prevents
    monkeypatch.setattr(doctor, "drivers_cuda", lambda: "13.0")
    assert "until torch sees a GPU" in doctor._cuda("13.0", usable=False).prevents


def test_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """For a program that asks."""
    code = doctor.main(["--json"])
    as_json = json.loads(capsys.readouterr().out)
    assert doctor.main([]) == code
    *lines, last = capsys.readouterr().out.splitlines()
    assert last.startswith("Cases on the CPU can run here, and ")
    assert [f["name"] for f in as_json] == [line.split(":")[0] for line in lines]


def test_asking_does_not_initialise_cuda() -> None:
    """A process that has initialised CUDA cannot fork ranks: torch is told to ask NVML instead, before it is imported."""
    code = (
        "import os, sys; from validation import doctor; assert 'torch' not in sys.modules;"
        "doctor.importable.problem = lambda: None; doctor.findings(); import torch;"
        "sys.exit(torch.cuda.is_initialized() or os.environ['PYTORCH_NVML_BASED_CUDA_CHECK'] != '1')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_finding_is_one_line() -> None:
    """What is there has no second half."""
    assert str(doctor.Finding("nox", "1.0")) == "nox: 1.0"
    assert str(doctor.Finding("nox", "not installed", "it cannot run")) == "nox: not installed - it cannot run"


# The machine


def test_a_report_s_properties_are_all_text_and_absence_is_written_out() -> None:
    """JUnit properties have no None."""
    facts = machine.machine()
    assert set(facts) >= {
        "python",
        "torch",
        "transformers",
        "megatron-core",
        "transformer-engine",
        "platform",
        "cpu",
        "driver",
        "gpu",
    }
    assert all(isinstance(value, str) and value for value in facts.values())


@pytest.mark.parametrize(
    ("visible", "count"), [(None, 2), ("", 0), ("0", 1), ("1,0", 2), ("-1", 0), ("0,-1,1", 1), ("0,7", 1), ("GPU-2", 1)]
)
def test_only_visible_gpus_count(visible: str | None, count: int, proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA reads CUDA_VISIBLE_DEVICES: up to the first that is not there."""
    monkeypatch.setattr(machine, "_nvidia_smi", lambda *arguments: TWO_GPUS)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.gpus() == count


def test_gpus_are_counted_without_nvidia_smi(proc: Path) -> None:
    """The driver lists them too."""
    assert machine.gpus() == 0
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        (proc / "proc" / "driver" / "nvidia" / "gpus" / bus).mkdir(parents=True)
    assert machine.gpus() == 2


def test_a_driver_that_cannot_be_asked_is_told_where_there_are_gpus(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "nvml", lambda: machine.Unasked("libnvidia-ml.so.1: no such file", there=False))
    assert "NVML" not in named(doctor._graphics())
    (proc / "proc" / "driver" / "nvidia" / "gpus" / "0000:01:00.0").mkdir(parents=True)
    found = named(doctor._graphics())["NVML"]
    assert found.value == "libnvidia-ml.so.1: no such file"
    assert "--transport staged runs without it" in found.prevents


def test_no_gpu_prevents_gpu_cases_and_leads_to_the_cpu(proc: Path) -> None:
    """The line says what can run."""
    found = named(doctor._graphics())
    assert found["GPUs"].value == "none"
    assert "CPU cases (--transport gloo) can" in found["GPUs"].prevents


def test_equal_gpus_are_counted() -> None:
    """Eight lines of the same say less than one."""
    assert machine.counted(["A", "A", "B"]) == "2 x A; 1 x B"
    assert machine.counted([]) == "absent"


def test_memory_is_what_the_machine_has_left(proc: Path) -> None:
    """In bytes."""
    assert machine.available_memory() == 8 * 2**30


@pytest.mark.parametrize(
    ("limit", "used", "cache", "left"), [("4", 1, 0, 3), ("4", 3, 2, 3), ("max", 1, 0, 8), ("64", 1, 0, 8), ("1", 2, 0, 0)]
)
def test_a_container_s_limit_counts_where_it_is_smaller(limit: str, used: int, cache: int, left: int, proc: Path) -> None:
    """All in GiB; file cache inside the limit can be had back."""
    group = proc / "cgroup" / "runner" / "job"
    group.mkdir(parents=True)
    (proc / "proc" / "self" / "cgroup").write_text("4:memory:/old\n0::/runner/job\n")
    (group / "memory.max").write_text(f"{limit if limit == 'max' else int(limit) * 2**30}\n")
    (group / "memory.current").write_text(f"{used * 2**30}\n")
    (group / "memory.stat").write_text(f"anon 0\nfile {cache * 2**30}\n")
    assert machine.available_memory() == left * 2**30


def test_a_limit_further_up_counts_too(proc: Path) -> None:
    """The limit is often that of the pod and not of the process."""
    (proc / "cgroup" / "pod" / "job").mkdir(parents=True)
    (proc / "proc" / "self" / "cgroup").write_text("0::/pod/job\n")
    (proc / "cgroup" / "pod" / "memory.max").write_text(str(2**30))
    (proc / "cgroup" / "pod" / "job" / "memory.max").write_text("max\n")
    assert machine.available_memory() == 2**30
