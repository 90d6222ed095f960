"""A launch script says its flags when it runs with stand-ins, and trains nothing."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.processes import still_there
from validation.case.errors import EnvironmentMissing, UsageError
from validation.cli import main
from validation.recipe import capture, read, watch
from validation.recipe.recipe import Recipe

FLAGS = "--num-layers 4 --hidden-size 128 --num-attention-heads 4 --moe-layer-freq '([0]*1+[1]*3)' --bf16"
SIX = f"--nproc_per_node 2 --nnodes 3 train.py {FLAGS}"
"""Three nodes of two."""
TRAIN = "import time; time.sleep(60); open('trained', 'w').close()\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a program that would leave `trained` behind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path


def recipe_text(folder: Path, script: str, *, shell: str = "bash", number: int | None = None) -> str:
    """What is captured of a script; nothing may have trained."""
    (folder / "run.sh").write_text(script)
    captured = capture.capture([shell, "run.sh"], 60.0)
    assert not (folder / "trained").exists(), "the script has trained"
    return capture.written(capture.chosen(captured, number, f"{shell} run.sh"), captured, f"{shell} run.sh")


def read_back(folder: Path, text: str) -> Recipe:
    """The captured text, read as `recipe show` reads it."""
    (folder / "captured").write_text(text)
    return read.read(folder / "captured", "0.16.1")


SCRIPTS = {
    "torchrun with arrays": f"ARGS=({FLAGS})\nDIST=(--nproc_per_node 2 --nnodes 3)\n"
    'torchrun "${DIST[@]}" train.py "${ARGS[@]}"',
    "a variable": f'RUN="torchrun --nproc-per-node=2 --nnodes=3"\n$RUN train.py {FLAGS}',
    "eval": f'CMD="torchrun --nproc_per_node 2 --nnodes 3 train.py {FLAGS.replace(chr(39), chr(92) + chr(34))}"\neval $CMD',
    "a module": f"python -m torch.distributed.run {SIX}",
    "an older module": f"python3 -u -m torch.distributed.launch --nproc_per_node=2 --nnodes=3 train.py {FLAGS}",
    "srun bash -c": f'srun -N 3 --ntasks-per-node=1 bash -c "torchrun {SIX}"',
    "srun python": f"srun --nodes=3 --ntasks-per-node=2 -l python train.py {FLAGS}",
    "srun with a container": "srun -n 6 --container-image nv/pytorch:25.09 --container-workdir=/opt/megatron -J swift "
    f"python -u train.py {FLAGS}",
    "exec": f"exec torchrun {SIX}",
    "env": f"env A=1 torchrun {SIX}",
    "nohup in the background": f"nohup torchrun {SIX} > log 2>&1 &",
    "a pipe": f"set -o pipefail\ntorchrun {SIX} 2>&1 | tee log",
    "a function": f'run() {{ torchrun --nproc_per_node 2 --nnodes 3 train.py "$@"; }}\nrun {FLAGS}',
    "a subshell": f"( cd . && torchrun {SIX} )",
    "another PATH": f"export PATH=/usr/bin:/bin\ntorchrun {SIX}",
    "an absolute python": f"{sys.executable} -m torch.distributed.run {SIX}",
    "an absolute python in a variable": f"PY={sys.executable}\n$PY -m torch.distributed.run {SIX}",
    "an absolute torchrun that is not here": f"/opt/conda/bin/torchrun {SIX}",
    "a folder of an environment": f'VENV=/opt/venv\n"$VENV/bin/torchrun" {SIX}',
    "PYTHONPATH replaced": f"export PYTHONPATH=/a\nexec {sys.executable} -m torch.distributed.run {SIX}",
    "ray": "pkill -9 python\nray start --head\n"
    f"ray job submit --address=x -- python3 train.py --actor-num-nodes 3 --actor-num-gpus-per-node 2 {FLAGS}",
    "which": f"$(which torchrun) {SIX}",
    "a script of another folder": f"cd /\npython -m torch.distributed.run {SIX}",
    "set -eu": f"set -eux\nN=$(python -c 'print(1 + 1)')\ntorchrun --nproc_per_node $N --nnodes 3 train.py {FLAGS}",
    "BASH_REMATCH, $_ and PIPESTATUS": "true 3 | (exit 2)\n[[ ${PIPESTATUS[1]} == 2 ]] && [[ 'n=2' =~ =(.) ]] && echo 3 > log\n"
    + f"echo 3; torchrun --nnodes $_ --nproc_per_node ${{BASH_REMATCH[1]}} train.py {FLAGS}",
    "standard input": f"N=$(python - <<'E'\nprint(2)\nE\n)\ntorchrun --nproc_per_node $N --nnodes 3 train.py {FLAGS}",
    "a login shell": f'bash -lc "torchrun {SIX}"',
    "an environment": f"conda activate x\nconda run -n x --no-capture-output torchrun {SIX}",
    "another user": f"sudo -E torchrun {SIX}",
    "mpirun": 'mpirun -np 6 --bind-to none -x A bash -c "numactl --cpunodebind=0 python -u train.py '
    f'--distributed-timeout-minutes 1$OMPI_COMM_WORLD_LOCAL_RANK {FLAGS}"'.replace("$", "\\$"),
    "an option of torchrun without a value": f"torchrun --node_rank $NOBODY --nproc_per_node 2 --nnodes 3 train.py {FLAGS}",
    "deepspeed": f"deepspeed --num_gpus 2 --num_nodes 3 train.py {FLAGS}",
    "a heredoc for sbatch": 'F="FLAGS"\nexport CMD="python train.py $F"\n'.replace("FLAGS", FLAGS.replace("'", ""))
    + "sbatch --segment=2 <<E\n#!/bin/bash\n#SBATCH --nodes=3\n#SBATCH --ntasks-per-node=2\n"
    + "srun -l bash -c \\\\\\${CMD} | tee log\nE",
    "a heredoc for bash": f"bash <<'E'\ntorchrun {SIX}\nE",
    "lines for sbatch": "#!/bin/bash\n#SBATCH -N 3\n#SBATCH --ntasks-per-node=2\n"
    + f"[ $SLURM_NNODES = 3 ] && screen -dmS swift srun -l python train.py {FLAGS}",
    "tmux for a job of PBS": f'echo "torchrun {SIX}" > job\ntmux new-session -d -s swift "qsub -l select=3 job"',
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_way_to_start_a_training(folder: Path, name: str) -> None:
    """Six ranks, five flags with their quotes, and no training."""
    recipe = read_back(folder, recipe_text(folder, SCRIPTS[name]))
    assert recipe.values["model.num_layers"] == 4
    assert recipe.values["model.moe_layer_freq"] == (0, 1, 1, 1)
    assert recipe.world == 6
    assert not [flag for flag in recipe.unknown if not flag.text.startswith("--actor")]


def test_a_script_of_sh(folder: Path) -> None:
    """Without bash, PATH and every Python's sitecustomize hold."""
    text = f"torchrun --nproc_per_node 2 train.py {FLAGS}"
    assert read_back(folder, recipe_text(folder, text, shell="sh")).world == 2
    text = f"{sys.executable} train.py {FLAGS}"
    assert read_back(folder, recipe_text(folder, text, shell="sh")).values["model.num_layers"] == 4


def test_a_program_that_python_starts(folder: Path) -> None:
    """Code that runs to compute something cannot start a training, either."""
    code = "import subprocess, sys; subprocess.run([sys.executable, 'train.py'] + sys.argv[1:])"
    text = f'{sys.executable} -c "{code}" {FLAGS}'
    assert read_back(folder, recipe_text(folder, text)).values["model.num_layers"] == 4


@pytest.mark.parametrize(
    ("shell", "start"),
    [
        ("bash", "env -i {python} train.py"),
        ("bash", "PYTHONPATH=/x nohup {python} train.py"),
        ("bash", "unset PYTHONPATH PATH; exec {python} -u train.py"),
        ("sh", "{python} -I train.py"),
        ("sh", "PYTHONPATH=/x {python} -m train"),
    ],
)
def test_what_no_stand_in_reaches_is_ended(folder: Path, shell: str, start: str) -> None:
    """Neither PATH nor PYTHONPATH counts there: the process is seen, written down and ended before it has imported torch."""
    text = f"{start.format(python=Path(sys.executable).resolve())} {FLAGS}"
    written = recipe_text(folder, text, shell=shell)
    assert read_back(folder, written).values["model.num_layers"] == 4
    assert "not run, too" not in written


def test_a_process_that_was_ended_as_it_said_its_flags_is_one_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch sees no environment while a process starts or ends: whichever was first, there is one call."""
    read = watch._read
    monkeypatch.setattr(watch, "_read", lambda pid, name: [] if name == "environ" else read(pid, name))
    text = f"unset PYTHONPATH PATH; exec {Path(sys.executable).resolve()} train.py {FLAGS}"
    assert "not run, too" not in recipe_text(folder, text)


def test_a_process_that_has_gone_is_not_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command line was read before it ended, its environment after."""
    lines = iter([["python", "train.py"], [], []])
    monkeypatch.setattr(watch, "_read", lambda _pid, _name: next(lines))
    monkeypatch.setattr(os, "kill", lambda *_: None)
    looks = watch.Watch(os.getsid(0), folder)
    looks._look(str(os.getpid()))
    assert not looks.found


def test_a_script_that_is_executable(folder: Path) -> None:
    """`#!/usr/bin/env python3` finds the stand-in."""
    (folder / "train.py").write_text("#!/usr/bin/env python3\n" + TRAIN)
    (folder / "train.py").chmod(0o755)
    assert read_back(folder, recipe_text(folder, f"./train.py {FLAGS}")).values["model.num_layers"] == 4


def test_a_job_of_slurm(folder: Path) -> None:
    """Here sbatch runs its script here; nodes and tasks are those of its #SBATCH lines."""
    text = f"#!/bin/bash\n#SBATCH --nodes=3\n#SBATCH --ntasks-per-node=2\nsrun python train.py {FLAGS}\n"
    assert read_back(folder, recipe_text(folder, text, shell="sbatch")).world == 6
    text = (
        "#!/bin/bash\n#SBATCH -N 3\nhead=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)\n"
        f"srun torchrun --nnodes $SLURM_NNODES --nproc_per_node 2 --rdzv_endpoint $head:29500 train.py {FLAGS}\n"
    )
    assert read_back(folder, recipe_text(folder, text, shell="sbatch")).world == 6


def test_ranks_that_nobody_says_are_left_open(folder: Path) -> None:
    """Outside of a job srun would start one, and mpirun as many as a file of hosts has."""
    for start in ("srun -l", "mpirun --hostfile h"):
        assert read_back(folder, recipe_text(folder, f"{start} python train.py {FLAGS}")).world is None


def test_the_environment_that_a_script_sets(folder: Path) -> None:
    """Variables of CUDA, NCCL and Transformer Engine are part of the recipe; others are not."""
    text = recipe_text(folder, f"export NVTE_FUSED_ATTN=0 HOME_OF=x\nCUDA_DEVICE_MAX_CONNECTIONS=1 torchrun train.py {FLAGS}")
    assert read_back(folder, text).environment == (("CUDA_DEVICE_MAX_CONNECTIONS", "1"), ("NVTE_FUSED_ATTN", "0"))
    variables = '{"env_vars": {"OPEN_TRAINING_INT4_FAKE_QAT_FLAG": "1", "HOME_OF": "x"}}'
    for said in ("=", " "):
        text = recipe_text(folder, f"ray job submit --runtime-env-json{said}'{variables}' -- python3 train.py {FLAGS}")
        assert read_back(folder, text).environment == (("OPEN_TRAINING_INT4_FAKE_QAT_FLAG", "1"),)


def test_secrets_are_left_out(folder: Path) -> None:
    """A key that a script hands over is not written down."""
    text = recipe_text(folder, f"torchrun train.py {FLAGS} --wandb-key abc123 --hf_token=def --tokenizer-model /models")
    assert "abc123" not in text
    assert "def" not in text.partition("train.py")[2].replace("default", "")
    assert "--tokenizer-model /models" in text


def test_several_trainings_are_named(folder: Path) -> None:
    """Those of several nodes are one; of others one must be chosen."""
    alike = "".join(f"torchrun --node_rank {node} --nnodes 2 train.py {FLAGS}\n" for node in range(2))
    assert read_back(folder, recipe_text(folder, alike)).world == 2
    two = f"torchrun train.py {FLAGS}\ntorchrun train.py {FLAGS} --lr 1e-3\n"
    with pytest.raises(
        UsageError, match=r"choose with --call N: 1 is train\.py with 9 words; 2 is train\.py with 11 words \(--lr 1e-3\)"
    ):
        recipe_text(folder, two)
    assert "--lr 1e-3" in recipe_text(folder, two, number=2)
    with pytest.raises(UsageError, match="--call 3: the script starts 2"):
        recipe_text(folder, two, number=3)


def test_other_programs_of_python_are_not_run(folder: Path) -> None:
    """They are named in the file."""
    text = recipe_text(folder, f"python preprocess.py --input x\ntorchrun train.py {FLAGS}")
    assert "# not run, too: python preprocess.py --input x" in text


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo nothing", "ended well and started no training"),
        ("set -e\ncat /no/such/file\ntorchrun train.py --num-layers 4", "ended with 1 .*Its last line: cat: /no/such/file"),
        ("set -u\ntorchrun train.py --num-layers $LAYERS", "ended with [0-9]+ .*LAYERS: unbound variable"),
        (
            "set -eo pipefail\nN=$(no-such-smi -L 2>/dev/null | wc -l)\ntorchrun train.py",
            "ended with 127 .*; it calls no-such-smi, which is not on this machine; if a flag depends on",
        ),
        (
            "python prepare.py",
            "started no training .*.prepare.py with 0 words.; .* in Python, it is not followed",
        ),
        ("set -x\necho 'FL must be false'\nexit 3", "ended with 3 .*Its last line: FL must be false$"),
        ("A=(--lr 1)\n--swiglu\nfalse", "it runs --swiglu as a command of its own: end the line before it with a backslash"),
        ("ssh node1 torchrun train.py", "ended well and started no training of Megatron-Core .ssh did nothing here.; "),
        ("torchrun train.py --lr 1", "started no training of Megatron-Core .train.py with 2 words."),
    ],
)
def test_a_script_that_starts_no_training(folder: Path, script: str, said: str) -> None:
    """One sentence with what it did instead, and its last line."""
    with pytest.raises(UsageError, match=said) as refused:
        recipe_text(folder, script)
    assert "\n" not in str(refused.value)


def test_a_script_that_does_not_end(folder: Path) -> None:
    """It is ended, with all that it has started."""
    (folder / "run.sh").write_text("tail -f /dev/null &\necho $! > child\nwait\n")
    waited = 0.5
    while not ((folder / "child").exists() and (folder / "child").read_text()):  # a busy machine has not even started it
        waited *= 2
        with pytest.raises(EnvironmentMissing, match=rf"did not end within {waited:.0f} s.*--timeout"):
            capture.capture(["bash", "run.sh"], waited)
    assert not still_there(int((folder / "child").read_text()))


def test_a_command_that_is_not_there(folder: Path) -> None:
    """The sentence says what would work."""
    with pytest.raises(UsageError, match="no-such-command is no program here"):
        capture.capture(["no-such-command"], 5.0)


def test_the_command_writes_what_show_reads(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`recipe capture -o FILE -- COMMAND`, then `recipe show FILE`."""
    (folder / "run.sh").write_text(f"no-such-smi -L\npython flags.py v3\ntorchrun --nproc_per_node 2 train.py {FLAGS}\nfalse\n")
    assert main(["recipe", "capture", "-o", "flags", "--", "bash", "run.sh"]) == 0
    told = capsys.readouterr()
    assert told.out == "flags: 9 words of train.py\ncompare it: python -m validation run --recipe flags\n"
    assert "warning: the script calls no-such-smi, which is not on this machine; " in told.err
    assert "warning: the script calls flags.py, which was not run; if a flag depends on what it prints, " in told.err
    assert "the script ended with 1, behind the training" in told.err
    assert main(["recipe", "show", "flags"]) == 0
    assert "model.num_layers = 4" in capsys.readouterr().out
    assert main(["run", "--recipe", "run.sh"]) == 2
    assert "recipe capture -o flags.txt -- bash run.sh writes them" in capsys.readouterr().err
    assert main(["recipe", "capture"]) == 2
    assert "needs the command that starts your training" in capsys.readouterr().err


def test_nothing_is_left_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder of a capture stays, and the environment of this process is as it was."""
    before = dict(os.environ)
    (folder / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))
    recipe_text(folder, f"torchrun train.py {FLAGS}")
    assert dict(os.environ) == before
    assert list((folder / "temporary").iterdir()) == []
