"""The optimizer that orthogonalizes many small matrices together."""

import pytest
import torch

from imgrank.training.muon import Muon, orthogonalized


def matrices(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(*shape, generator=generator)) for shape in shapes]


def stepped(parameters, steps, **settings):
    """Return the parameters after steps with gradients that a seed decides."""
    optimizer = Muon(parameters, **settings)
    for step in range(steps):
        for number, one in enumerate(parameters):
            one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(100 * step + number))
        optimizer.step()
    return [one.detach() for one in parameters]


def test_singular_values_come_near_one_and_directions_stay():
    (wide,) = matrices((20, 50))
    (found,) = orthogonalized(wide.detach()[None] * 1e-3)
    values = torch.linalg.svdvals(found)
    assert 0.5 < values.min() < values.max() < 1.5
    u, _, v = torch.linalg.svd(wide.detach(), full_matrices=False)
    nearest = u @ v
    assert torch.nn.functional.cosine_similarity(found.flatten(), nearest.flatten(), dim=0) > 0.95


def test_matrices_of_one_shape_do_not_know_each_other():
    shapes = [(6, 10), (10, 6), (6, 10), (8, 8)]
    together = stepped(matrices(*shapes), 3, lr=0.1, weight_decay=0.1)
    for number, shape in enumerate(shapes):
        alone = matrices(*shapes)
        for other, one in enumerate(alone):
            one.requires_grad_(other == number)
        optimizer = Muon([alone[number]], lr=0.1, weight_decay=0.1)
        for step in range(3):
            alone[number].grad = torch.randn(shape, generator=torch.Generator().manual_seed(100 * step + number))
            optimizer.step()
        torch.testing.assert_close(alone[number].detach(), together[number], atol=1e-5, rtol=0)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 16)])
def test_steps_are_nearly_those_of_torchs_own(shape):
    (ours,), (theirs,), (start,) = matrices(shape), matrices(shape), matrices(shape)
    (ours,) = stepped([ours], 4, lr=0.05, weight_decay=0.1)
    optimizer = torch.optim.Muon([theirs], lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        theirs.grad = torch.randn(shape, generator=torch.Generator().manual_seed(100 * step))
        optimizer.step()
    moved, expected = (ours - start).detach(), (theirs - start).detach()
    assert (moved - expected).norm() < 0.03 * expected.norm()  # torch computes in bfloat16


def test_without_a_gradient_nothing_moves():
    first, second = matrices((4, 5), (4, 5))
    before = second.detach().clone()
    optimizer = Muon([first, second], lr=0.1)
    first.grad = torch.ones(4, 5)
    optimizer.step()
    assert torch.equal(second.detach(), before)


def test_its_state_goes_on_where_it_was_kept():
    whole = stepped(matrices((6, 9)), 3, lr=0.1)
    (one,) = matrices((6, 9))
    state = None
    for step in range(3):
        optimizer = Muon([one], lr=0.1)
        if state is not None:
            optimizer.load_state_dict(state)
        one.grad = torch.randn(6, 9, generator=torch.Generator().manual_seed(100 * step))
        optimizer.step()
        state = optimizer.state_dict()
    torch.testing.assert_close(one.detach(), whole[0], atol=0, rtol=0)
