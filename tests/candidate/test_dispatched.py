"""Rows between dispatch and combine: found in the reference by token and expert, and laid out by both."""

from __future__ import annotations

import torch

from validation.candidate.dispatched import Known, Rows, _boxes, _laid_out

CHOSEN = torch.tensor([[[0, 2], [1, 2], [0, 1]]])
"""One sequence of three positions, each with two of three experts."""
VALUES = torch.arange(12.0).view(1, 3, 2, 2)
KNOWN = Known(4, VALUES, CHOSEN)
"""The sequence is the fifth of the batch."""
BOX = ((4, 5), (0, 3), (0, 3), (0, 2))


def rows(*found: tuple[int, int, int]) -> Rows:
    sequence, position, expert = torch.tensor(found).unbind(1)
    return Rows(sequence, position, expert, (((4, 5), (0, 3)),), (0, 3))


def test_a_row_has_the_value_of_its_token_and_expert() -> None:
    """Whatever the order of the rows."""
    own = torch.full((3, 2), -1.0)
    assert KNOWN.of(rows((4, 2, 1), (4, 0, 0), (4, 0, 2)), own).tolist() == [[10, 11], [0, 1], [2, 3]]


def test_values_that_are_alike_for_all_experts_are_held_once() -> None:
    """What is dispatched is the token itself."""
    known = Known(4, VALUES[:, :, :1], CHOSEN)
    assert known.of(rows((4, 0, 0), (4, 0, 2)), torch.zeros(2, 2)).tolist() == [[0, 1], [0, 1]]


def test_a_row_that_the_reference_does_not_have_keeps_its_own_numbers() -> None:
    """A position behind the reference's last, and a token sent to an expert that it was not to go to."""
    own = torch.tensor([[7.0, 7.0], [8.0, 8.0]])
    assert KNOWN.of(rows((4, 3, 0), (4, 0, 1)), own).tolist() == own.tolist()


def test_what_is_right_lies_where_the_reference_has_it() -> None:
    """Rows in any order are laid out as the reference is, and a token where it was not to go shows."""
    right = rows(*[(4, position, int(expert)) for position in (2, 0, 1) for expert in CHOSEN[0, position]])
    values = KNOWN.of(right, torch.zeros(6, 2))
    assert torch.equal(_laid_out(values, right, BOX), KNOWN.laid_out(BOX))
    wrong = rows(*[(4, position, (int(expert) + 1) % 3) for position in (2, 0, 1) for expert in CHOSEN[0, position]])
    assert not torch.equal(_laid_out(values, wrong, BOX), KNOWN.laid_out(BOX))


def test_positions_of_a_sender_are_runs() -> None:
    """Zigzag context parallelism gives a rank two of them."""
    tokens = torch.tensor([[sequence, position] for position in (0, 1, 6, 7) for sequence in (2, 3)])
    assert list(_boxes(tokens)) == [((2, 4), (0, 2)), ((2, 4), (6, 8))]


def test_a_rank_whose_summand_is_elsewhere_keeps_its_own_of_rows_that_the_reference_does_not_have() -> None:
    """Of experts that are cut, one rank has all of the reference and the others nothing; of a filler each has its own part."""
    own = torch.tensor([[7.0, 7.0], [8.0, 8.0]])
    assert KNOWN.of(rows((4, 0, 2), (4, 3, 0)), own, elsewhere=True).tolist() == [[0.0, 0.0], [8.0, 8.0]]
