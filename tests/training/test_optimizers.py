"""Row-wise Adagrad beside its formula written out, and beside torch's Adagrad where a row is one number."""

import math

import pytest
import torch
from torch import nn

from hyperfocal.errors import ConfigError
from hyperfocal.training.optimizers import RowwiseAdagrad

GRADIENTS = [[[3.0, 4.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 2.0]]]  # of two steps


def step_all(optimizer, parameter, gradients):
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()


def test_by_hand():
    parameter = nn.Parameter(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
    step_all(RowwiseAdagrad([parameter], 0.1), parameter, torch.tensor(GRADIENTS))
    first, second = math.sqrt((9 + 16) / 2), math.sqrt((9 + 16) / 2 + 1 / 2)
    expected = [[1 - 0.1 * 3 / first - 0.1 * 1 / second, 1 - 0.1 * 4 / first], [1.0, 1 - 0.1 * 2 / math.sqrt(4 / 2)]]
    torch.testing.assert_close(parameter.detach(), torch.tensor(expected))


@pytest.mark.parametrize("shape", [(7, 1), (7,), (7, 1, 1), ()])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_where_a_row_is_one_number_it_is_adagrad(shape, decay):
    generator = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(shape, generator=generator), torch.randn(20, *shape, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    step_all(RowwiseAdagrad([ours], 0.3, weight_decay=decay, eps=1e-3), ours, gradients)
    step_all(torch.optim.Adagrad([theirs], 0.3, weight_decay=decay, eps=1e-3), theirs, gradients)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape", [(5, 8), (5, 2, 4)])
def test_a_loop_over_rows(shape):
    generator = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(shape, generator=generator), torch.randn(9, *shape, generator=generator)
    parameter = nn.Parameter(start.clone())
    step_all(RowwiseAdagrad([parameter], 0.3), parameter, gradients)
    for row in range(shape[0]):
        total, weight = 0.0, start[row].double()
        for gradient in gradients[:, row].double():
            total += float(gradient.square().mean())
            weight = weight - 0.3 * gradient / (math.sqrt(total) + 1e-8)
        torch.testing.assert_close(parameter[row].double(), weight, rtol=1e-5, atol=1e-6)


def test_the_state_is_one_number_a_row_and_the_gradient_is_not_written_to():
    parameter = nn.Parameter(torch.ones(6, 50))
    optimizer = RowwiseAdagrad([parameter], weight_decay=0.1)
    parameter.grad = torch.ones(6, 50)
    optimizer.step()
    assert optimizer.state[parameter]["sum"].shape == (6,)
    assert parameter.grad.eq(1).all()


def test_a_closure_gives_the_loss():
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = RowwiseAdagrad([parameter], 0.1)

    def closure():
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4
    torch.testing.assert_close(parameter.detach(), torch.full((2, 2), 0.9))


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"eps": 0.0}, {"weight_decay": -1.0}])
def test_a_number_out_of_range(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=f"^{name} = "):
        RowwiseAdagrad([nn.Parameter(torch.ones(2))], **wrong)


def test_a_sparse_gradient():
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = RowwiseAdagrad(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ConfigError, match="dense gradients"):
        optimizer.step()
