"""Group 3: SASRec's forward against the literal formula with full left padding."""

from __future__ import annotations

import math

import plain
import pytest
import torch
from torch import Tensor

from baselines.item_id import IdEncoder
from baselines.sasrec import SASRec
from ninerec_data import UsageError

LENGTH, DIM = 7, 12


pytestmark = pytest.mark.usefixtures("one_thread")


def model(*, heads: int = 2, layers: int = 2, seed: int = 0) -> SASRec:
    """A SASRec whose every parameter is random, LayerNorms and biases too."""
    torch.manual_seed(seed)
    made = SASRec(dim=DIM, max_length=LENGTH, layers=layers, heads=heads, dropout=0.1).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return made


def plain_weights(made: SASRec) -> dict[str, Tensor]:
    weights = {
        "position": made.position.weight,
        "norm.weight": made.norm.weight,
        "norm.bias": made.norm.bias,
    }
    for i, block in enumerate(made.blocks):
        weights |= {
            f"{i}.q": block.query.weight,
            f"{i}.k": block.key.weight,
            f"{i}.v": block.value.weight,
            f"{i}.o": block.out.weight,
            f"{i}.norm1.weight": block.attention_norm.weight,
            f"{i}.norm1.bias": block.attention_norm.bias,
            f"{i}.w1": block.wide.weight,
            f"{i}.b1": block.wide.bias,
            f"{i}.w2": block.narrow.weight,
            f"{i}.b2": block.narrow.bias,
            f"{i}.norm2.weight": block.ffn_norm.weight,
            f"{i}.norm2.bias": block.ffn_norm.bias,
        }
    return {name: value.detach() for name, value in weights.items()}


def left_padded(lengths: list[int], seed: int = 1) -> tuple[Tensor, Tensor]:
    """(B, L, D) vectors, zero at pads, and the (B, L) mask."""
    torch.manual_seed(seed)
    mask = torch.tensor([[slot >= LENGTH - n for slot in range(LENGTH)] for n in lengths])
    return torch.randn(len(lengths), LENGTH, DIM) * mask[..., None], mask


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("lengths", [[7, 1, 4], [7, 7], [3, 2, 1, 3]])
def test_forward_is_the_plain_formula(heads: int, lengths: list[int]) -> None:
    made = model(heads=heads)
    x, mask = left_padded(lengths)
    with torch.no_grad():
        expected = plain.sasrec(x, mask, plain_weights(made), heads)
        got = made(x, mask)
    assert got.shape == x.shape
    assert (got - expected)[mask].abs().max() < 1e-5
    assert (got - expected)[:, -1].abs().max() < 1e-5


@pytest.mark.parametrize("layers", [1, 3])
def test_any_number_of_blocks_is_the_plain_formula(layers: int) -> None:
    made = model(layers=layers)
    x, mask = left_padded([7, 2, 5])
    with torch.no_grad():
        expected = plain.sasrec(x, mask, plain_weights(made), 2)
        assert (made(x, mask) - expected)[mask].abs().max() < 1e-5


def test_leading_columns_of_pads_may_be_cut_away() -> None:
    """The newest item keeps the last slot: three columns read the last three positions."""
    made = model()
    x, mask = left_padded([3, 1, 2])
    with torch.no_grad():
        expected = plain.sasrec(x, mask, plain_weights(made), 2)[:, -3:]
        got = made(x[:, -3:], mask[:, -3:])
    assert (got - expected)[mask[:, -3:]].abs().max() < 1e-5


def test_gradients_are_those_of_the_plain_formula() -> None:
    made = model().double()
    x, mask = (t.double() if t.is_floating_point() else t for t in left_padded([7, 3]))
    goal = torch.randn(int(mask.sum()), DIM, dtype=torch.float64)
    names = plain_weights(made)
    leaves = {name: value.clone().requires_grad_() for name, value in names.items()}
    (plain.sasrec(x, mask, leaves, 2)[mask] * goal).sum().backward()
    (made(x, mask)[mask] * goal).sum().backward()
    ours = {
        "position": made.position,
        "norm.weight": made.norm,
        "0.q": made.blocks[0].query,
        "1.o": made.blocks[1].out,
        "1.w1": made.blocks[1].wide,
        "0.w2": made.blocks[0].narrow,
    }
    for name, module in ours.items():
        assert torch.allclose(module.weight.grad, leaves[name].grad, atol=1e-9), name


def test_a_later_item_changes_no_earlier_state() -> None:
    made = model()
    x, mask = left_padded([7, 5])
    for t in range(2, LENGTH):
        moved = x.clone()
        moved[:, t] += torch.randn(2, DIM)
        with torch.no_grad():
            before, after = made(x, mask), made(moved, mask)
        assert torch.equal(before[:, :t], after[:, :t])
        assert (before[:, t:] - after[:, t:]).abs().amax(-1).min() > 1e-4


def test_what_stands_at_pads_changes_no_state() -> None:
    made = model()
    x, mask = left_padded([4, 1, 6])
    noise = x + torch.randn_like(x) * ~mask[..., None] * 100
    with torch.no_grad():
        assert torch.equal(made(x, mask)[mask], made(noise, mask)[mask])


def test_a_sequence_of_pads_alone_gives_finite_states() -> None:
    made = model()
    x, mask = left_padded([0, 4])
    with torch.no_grad():
        assert torch.isfinite(made(x, mask)).all()


def test_a_states_row_does_not_depend_on_the_rest_of_the_batch() -> None:
    made = model()
    x, mask = left_padded([7, 2, 4])
    with torch.no_grad():
        together, alone = made(x, mask), made(x[1:2], mask[1:2])
    assert (together[1:2] - alone)[mask[1:2]].abs().max() < 1e-6


def test_dropout_acts_in_training_only() -> None:
    made = model()
    x, mask = left_padded([7, 7])
    with torch.no_grad():
        assert torch.equal(made(x, mask), made(x, mask))
        made.train()
        assert not torch.equal(made(x, mask), made(x, mask))


def test_no_dropout_makes_training_the_plain_formula() -> None:
    torch.manual_seed(0)
    made = SASRec(dim=DIM, max_length=LENGTH, dropout=0.0).train()
    x, mask = left_padded([7, 3])
    with torch.no_grad():
        expected = plain.sasrec(x, mask, plain_weights(made), 2)
        assert (made(x, mask) - expected)[mask].abs().max() < 1e-5


def test_attention_has_no_biases_and_the_feed_forward_is_four_times_as_wide() -> None:
    made = SASRec(dim=DIM, max_length=LENGTH)
    block = made.blocks[0]
    for part in (block.query, block.key, block.value, block.out):
        assert part.bias is None
    assert tuple(block.wide.weight.shape) == (4 * DIM, DIM)
    assert block.wide.bias is not None
    per_block = 4 * DIM**2 + 8 * DIM**2 + 5 * DIM + 4 * DIM
    assert sum(p.numel() for p in made.parameters()) == LENGTH * DIM + 2 * DIM + 2 * per_block


def test_weights_start_xavier_normal_and_biases_at_zero() -> None:
    torch.manual_seed(0)
    made = SASRec(dim=256, max_length=64)
    for weight in (made.blocks[0].query.weight, made.blocks[1].wide.weight, made.position.weight):
        expected = math.sqrt(2 / sum(weight.shape))
        assert weight.std().item() == pytest.approx(expected, rel=0.03)
        assert abs(weight.mean().item()) < expected / 20
    assert not made.blocks[0].wide.bias.any()
    assert torch.equal(made.norm.weight, torch.ones(256))


def test_a_dim_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(UsageError, match=r"dim \(12\) must be divisible by heads \(5\)"):
        SASRec(dim=12, max_length=LENGTH, heads=5)


def test_the_id_table_starts_xavier_normal() -> None:
    torch.manual_seed(0)
    weight = IdEncoder(n_items=999, dim=64).table.weight
    assert tuple(weight.shape) == (1000, 64)
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 1064), rel=0.02)
