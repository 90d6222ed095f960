"""What a case in lockstep keeps: a run that was cut goes on where it was, from files that are as they were written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from validation.cache import forget
from validation.candidate.kept_steps import KeptSteps, plan

CPU = torch.device("cpu")
STEPS = plan((0, 1, 2, 3))


def opened(folder: Path, key: str = "key") -> KeptSteps:
    found = KeptSteps.opened(folder, key, STEPS, CPU)
    assert found is not None
    return found


def run(folder: Path, until: int) -> None:
    """Take steps as far as `until`, each handing on a tensor of its own number."""
    kept = opened(folder)
    for number in range(kept.done, until):
        kept.put(f"step {number}", torch.full((2, 3), float(number), dtype=torch.bfloat16))
        kept.end({"number": number})
    kept.close()


def test_the_last_stage_goes_forward_and_back_at_once() -> None:
    """And every other one in two steps."""
    assert STEPS[:3] == (("forward", 0), ("forward", 1), ("forward", 2))
    assert STEPS[3:] == (("backward", 3), ("backward", 2), ("backward", 1), ("backward", 0))


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """With what each step has found, and what it has handed on."""
    run(tmp_path, until=3)
    kept = opened(tmp_path)
    assert (kept.done, kept.damaged) == (3, "")
    assert kept.findings() == [{"number": number} for number in range(3)]
    assert torch.equal(kept.get("step 1"), torch.full((2, 3), 1.0, dtype=torch.bfloat16))
    with pytest.raises(KeyError):
        kept.get("step 4")
    kept.close()


def test_what_no_step_needs_any_more_is_deleted(tmp_path: Path) -> None:
    """A stage's values when its gradients are there, its gradients behind the stage before; the last one's stay."""
    run(tmp_path, until=6)
    kept = sorted(path.name.partition("-")[2] for path in tmp_path.glob("*.safetensors"))
    assert kept == ["backward-1.safetensors", "backward-3.safetensors", "forward-0.safetensors"]


@pytest.mark.parametrize(
    ("until", "file", "left"),
    [
        (3, "001-forward-1.safetensors", 1),
        (3, "001-forward-1.json", 1),
        (3, "000-forward-0.json", 0),
        (6, "005-backward-1.safetensors", 1),  # without its own values, which are deleted, it begins one stage earlier
        (6, "000-forward-0.safetensors", 0),
        (6, "004-backward-2.json", 1),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_damage_is_found(until: int, file: str, left: int, damage: str, tmp_path: Path) -> None:
    """The run goes on before the step whose file is not as it was written, and says which one that is."""
    run(tmp_path, until)
    path = tmp_path / file
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:-7] if damage == "cut" else whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:])
    kept = opened(tmp_path)
    assert kept.done == left
    assert kept.damaged == "-".join(map(str, STEPS[left])) or damage == "gone"
    kept.close()
    run(tmp_path, until=7)
    kept = opened(tmp_path)
    assert [found["number"] for found in kept.findings()] == list(range(7))
    kept.close()


def test_another_key_begins_anew(tmp_path: Path) -> None:
    """Nothing of it is another case's."""
    run(tmp_path, until=3)
    kept = opened(tmp_path, key="another")
    assert kept.done == 0
    kept.close()


def test_two_do_not_use_a_folder_at_once(tmp_path: Path) -> None:
    """The second has to take another."""
    kept = opened(tmp_path)
    assert KeptSteps.opened(tmp_path, "key", STEPS, CPU) is None
    kept.close()


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    """By the next step at the latest."""
    kept = opened(tmp_path / "kept")
    kept.put("one", torch.zeros(2))
    (tmp_path / "kept" / ".000-forward-0.safetensors").mkdir()
    kept.end({})
    kept.put("two", torch.zeros(2))
    with pytest.raises((OSError, SafetensorError), match="directory"):
        kept.end({})
    with pytest.raises((OSError, SafetensorError), match="directory"):
        kept.close()


def test_what_a_cut_run_has_left_is_forgotten_as_references_are(tmp_path: Path) -> None:
    """It counts for the cache's limit, and stays while a run uses it."""
    (tmp_path / forget.REFERENCES).mkdir()
    folder = tmp_path / forget.LOCKSTEP / f"{1:024x}"
    run(folder, until=2)
    assert forget.contents(tmp_path).size > 0
    kept = opened(folder)
    assert forget.forget(tmp_path, 0).size > 0
    assert folder.exists()
    kept.close()
    assert forget.forget(tmp_path, 0).size == 0
    assert not folder.exists()
