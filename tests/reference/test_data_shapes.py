"""Data shapes: whatever a sequence holds, the reference is the plain model on each document by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from validation.case.case import Case
from validation.case.data import ALIGNED, DOCUMENTS, END, LEFT_PADDED, PACKED, PACKED_PADDED, PADDED, regions
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.tokens import of_file
from validation.case.training import OPTIONS, Training
from validation.reference.batch import Batch, make_batch, own_positions, real_in

if TYPE_CHECKING:
    from validation.reference.models import Models
    from validation.reference.record import Recording

MODEL = replace(TINY.model, num_hidden_layers=2, n_routed_experts=8)
CASE = Case("tiny", MODEL, Layout(), "fp64", "local", "gloo", 1234, 4, 2, 24, training=Training(data_shape=DOCUMENTS))


def of_shape(shape: str) -> Case:
    return replace(CASE, training=Training(data_shape=shape))


def documents_of(batch: Batch) -> Iterator[tuple[int, int, int]]:
    """The sequence of each document, where it begins and where it ends; padding is none."""
    documents = torch.zeros_like(batch.tokens) if batch.documents is None else batch.documents
    real = torch.ones_like(batch.mask) if batch.real is None else batch.real
    for row in range(len(documents)):
        for number in documents[row].unique():
            (found,) = ((documents[row] == number) & real[row]).nonzero(as_tuple=True)
            if len(found):
                yield row, int(found[0]), int(found[-1]) + 1


@pytest.mark.parametrize("seed", range(5))
def test_a_token_ends_each_document_and_does_not_count(seed: int) -> None:
    batch = make_batch(replace(CASE, seed=seed))
    for row, start, stop in documents_of(batch):
        assert END not in batch.tokens[row, start : stop - 1]
        assert stop == CASE.seq_length or batch.tokens[row, stop - 1] == END
        assert torch.equal(batch.labels[row, start : stop - 1], batch.tokens[row, start + 1 : stop])
    assert not batch.mask[batch.tokens == END].any()
    assert batch.mask.any()


@pytest.mark.parametrize("seed", range(5))
def test_every_batch_has_the_documents_that_faults_need(seed: int) -> None:
    """One that begins in the middle, one of a single token, and one that ends with the sequence."""
    found = list(documents_of(make_batch(replace(CASE, seed=seed))))
    assert {(row, CASE.seq_length // 2) for row in range(4)} <= {(row, start) for row, start, _ in found}
    assert any(stop - start == 1 for _, start, stop in found)
    assert any(stop - start > 2 for _, start, stop in found)


@pytest.mark.parametrize("shape", [PADDED, LEFT_PADDED])
@pytest.mark.parametrize("seed", range(5))
def test_padding_does_not_count(shape: str, seed: int) -> None:
    """One sequence has none, one has much, and a document's last token predicts its end."""
    batch = make_batch(replace(of_shape(shape), seed=seed))
    found = list(documents_of(batch))
    assert batch.real is not None
    assert torch.equal(batch.mask, batch.real)
    assert (batch.tokens[~batch.real] == END).all()
    assert found[0] == (0, 0, CASE.seq_length)
    assert found[-1][2] - found[-1][1] == CASE.seq_length // 4
    assert all((stop == CASE.seq_length) if shape == LEFT_PADDED else (start == 0) for _, start, stop in found)
    assert all(batch.labels[row, stop - 1] == END for row, start, stop in found if stop - start < CASE.seq_length)


def test_another_shape_is_another_reference() -> None:
    """And the same whatever the layout; a case says its shape in its name."""
    from validation.reference import store

    full = replace(CASE, training=Training())
    assert store.key(CASE) == store.key(replace(CASE, layout=Layout(tp=2))) != store.key(full)
    assert len({store.key(of_shape(shape)) for shape in OPTIONS["data_shape"]}) == len(OPTIONS["data_shape"])
    assert CASE.name == "tiny-single+documents-fp64-local-gloo"
    assert Case.from_json(CASE.to_json()) == CASE


def test_positions_are_counted_within_a_document() -> None:
    documents = torch.tensor([[0, 0, 0, 1, 2, 2], [0, 1, 1, 1, 1, 2]])
    assert own_positions(documents).tolist() == [[0, 1, 2, 0, 0, 1], [0, 0, 1, 2, 3, 0]]


def test_a_next_token_is_of_the_same_document() -> None:
    """What an MTP layer is given at a position, one and two further on; behind a document's end it is the filler, 0."""
    from validation.reference.mtp import _ahead

    documents = torch.tensor([[0, 0, 0, 1, 2, 2]])
    tokens = torch.tensor([[11, 12, 13, 14, 15, 16]])
    batch = Batch(tokens, tokens + 1, torch.tensor([[1, 1, 0, 0, 1, 1]]).bool(), documents)
    one, two = _ahead(batch, 1), _ahead(batch, 2)
    assert one.tokens.tolist() == [[12, 13, 0, 0, 16, 0]]
    assert one.labels.tolist() == [[13, 14, 0, 0, 17, 0]]
    assert one.mask.tolist() == [[True, False, False, False, True, False]]
    assert two.tokens.tolist() == [[13, 0, 0, 0, 0, 0]]


def test_what_is_padding_ahead_ends_with_its_document() -> None:
    """A position of an MTP layer is what its next token is; the filler behind a document counts as a token."""
    documents = torch.tensor([[0, 0, 0, 1, 1, 1]])
    real = torch.tensor([[1, 1, 0, 1, 0, 0]]).bool()
    batch = Batch(documents, documents, real, documents, real)
    last = TINY.model.num_hidden_layers - 1
    assert real_in(last, batch, TINY.model) is real
    found = [real_in(last + ahead, batch, TINY.model) for ahead in (1, 2)]
    assert [one.int().tolist() for one in found if one is not None] == [[[1, 0, 1, 0, 0, 1]], [[0, 1, 1, 0, 1, 1]]]


@pytest.mark.parametrize("seed", range(5))
def test_padded_documents_among_packed_ones_end_at_places_that_ranks_can_cut(seed: int) -> None:
    """Each has tokens, then padding up to its end. Only what a document's token predicts of the same document counts."""
    batch = make_batch(replace(of_shape(PACKED_PADDED), seed=seed))
    assert batch.real is not None
    assert batch.documents is not None
    for row in range(4):
        ends = regions(replace(of_shape(PACKED_PADDED), seed=seed), row)
        assert all(end % ALIGNED == 0 for end in ends)
        assert [int(end) for end in (batch.documents[row].diff() != 0).nonzero() + 1] == list(ends[:-1])
    for row, start, stop in documents_of(batch):
        assert batch.real[row, start:stop].all()
        assert batch.tokens[row, stop - 1] == END
        assert torch.equal(batch.labels[row, start : stop - 1], batch.tokens[row, start + 1 : stop])
    assert (batch.tokens[~batch.real] == END).all()
    assert not batch.mask[batch.tokens == END].any()
    assert batch.mask.any()
    assert not batch.real.all()


@pytest.mark.parametrize("shape", [shape for shape in OPTIONS["data_shape"] if shape != PACKED_PADDED])
def test_the_documents_of_a_file_are_those_of_the_batch(shape: str, tmp_path: Path) -> None:
    """In every shape; what is longer than a sequence goes on in the next one, or with padding is left out."""
    path = tmp_path / "data.jsonl"
    path.write_text("[10, 11, 12, 13, 14]\n[20, 21]\n[30, 31, 32, 33, 34, 35, 36, 37, 38, 39]\n[40, 41]\n[50]\n[60, 61]\n")
    case = of_file(replace(of_shape(shape), batch_size=2, seq_length=8), path)
    batch = make_batch(case)
    tokens = {
        PADDED: [[10, 11, 12, 13, 14, 1, 1, 1], [20, 21, 1, 1, 1, 1, 1, 1]],
        LEFT_PADDED: [[1, 1, 1, 10, 11, 12, 13, 14], [1, 1, 1, 1, 1, 1, 20, 21]],
    }
    assert batch.tokens.tolist() == tokens.get(shape, [[10, 11, 12, 13, 14, 1, 20, 21], [1, 30, 31, 32, 33, 34, 35, 36]])
    assert batch.labels[0, -1] == END
    assert torch.equal(batch.mask, {PADDED: batch.tokens != 1, LEFT_PADDED: batch.tokens != 1}.get(shape, batch.mask))
    if shape in (DOCUMENTS, PACKED):
        assert [stop - start for _, start, stop in documents_of(batch)] == [6, 2, 1, 7]
        assert not batch.mask[batch.tokens == END].any()
    if shape == "full":
        assert batch.mask.all()


@dataclass(frozen=True)
class Computed:
    """What the reference has recorded of a batch, its gradients, and the model that made them."""

    batch: Batch
    models: Models
    recording: Recording
    gradients: dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=[DOCUMENTS, PACKED, PACKED_PADDED, PADDED, LEFT_PADDED])
def computed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Computed]:
    from validation.compare.precision import computing_in
    from validation.reference.checkpoint import Checkpoint
    from validation.reference.models import Models
    from validation.reference.sources import Precision
    from validation.reference.weights import save_weights

    case = replace(of_shape(request.param), batch_size=2, seq_length=16 if request.param == PACKED_PADDED else 12)
    path = Path(tmp_path_factory.mktemp("weights")) / "weights.safetensors"
    save_weights(case, path)
    batch = make_batch(case)
    with Checkpoint.open(path, MODEL) as checkpoint, computing_in("fp64"):
        models = Models.build(case, checkpoint, Precision(torch.float64, torch.float64), torch.device("cpu"))
        recording = models.record(batch, lambda step: None)
        gradients = {name: gradient.clone() for name, gradient in models.gradients().items()}
        yield Computed(batch, models, recording, gradients)


def test_each_document_is_computed_as_if_it_were_alone(computed: Computed) -> None:
    """Logits, loss and every parameter's gradient are those of the plain model, document by document."""
    from validation.reference.loss import token_losses

    hf, batch = computed.models.hf, computed.batch
    computed.models.forget_gradients()
    total = torch.zeros((), dtype=torch.float64)
    for row, start, stop in documents_of(batch):
        logits = hf(input_ids=batch.tokens[row : row + 1, start:stop], use_cache=False).logits
        torch.testing.assert_close(logits[0], computed.recording.forward["logits"][row, start:stop], rtol=0, atol=1e-12)
        losses = token_losses(logits, batch.labels[row : row + 1, start:stop])
        total = total + (losses * batch.mask[row, start:stop]).sum() / batch.mask.sum()
    assert float(total.detach()) == pytest.approx(float(computed.recording.forward["loss"]), rel=1e-13)
    torch.autograd.backward(total)
    for name, gradient in computed.models.gradients().items():
        torch.testing.assert_close(gradient, computed.gradients[name], rtol=0, atol=1e-12)


def test_transformers_makes_the_same_of_positions_that_restart(computed: Computed) -> None:
    """Its own way to several documents in a sequence: no mask, and positions that start again."""
    documents = computed.batch.documents
    for row, tokens in enumerate(computed.batch.tokens):
        positions = None if documents is None else own_positions(documents[row : row + 1])
        logits = computed.models.hf(input_ids=tokens[None], position_ids=positions, use_cache=False).logits
        torch.testing.assert_close(logits[0], computed.recording.forward["logits"][row], rtol=0, atol=1e-12)
