"""The losses under torch.compile, torch.func, copies and DistributedDataParallel."""

import copy
import pickle

import pytest
import torch

from hyperfocal.labels import SparseLabels
from hyperfocal.losses import FocalLoss, GBCELoss, SampledSoftmaxLoss, SoftmaxLoss
from loss_cases import LOSSES, dense, fused, make, value_and_gradients

CASES = {
    "weighted": lambda: LOSSES["focal, weighted"](13, chunk_labels=4),
    "distribution-balanced": lambda: LOSSES["distribution-balanced"](13, chunk_labels=4),
    "user's": lambda: LOSSES["user's"](13, chunk_labels=4),
    "softmax": lambda: LOSSES["softmax, all"](13, chunk_labels=4),
    "each row": lambda: FocalLoss(reduction="none", chunk_labels=4),
    "reference": lambda: FocalLoss(backend="reference"),
    "sampled softmax": lambda: SampledSoftmaxLoss(6, generator=torch.Generator()),
    "gbce": lambda: GBCELoss(6, distribution=[1.0 + label for label in range(13)], generator=torch.Generator()),
}
COMPILED = ("weighted", "softmax", "each row", "sampled softmax")
every_case = pytest.mark.parametrize("build", CASES.values(), ids=CASES)


def call(loss, hidden, weight, bias, labels, mask):
    """Return twice the summed loss, from the same draws of a sampled loss."""
    return 2 * loss(1 * hidden, weight, bias, labels, mask).sum()


def run(program, loss, *inputs):
    if hasattr(loss, "generator"):
        loss.generator.manual_seed(0)
    return value_and_gradients(program, loss, *inputs)


@pytest.mark.parametrize("build", [CASES[name] for name in COMPILED], ids=COMPILED)
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own compiler does that
class TestCompile:
    @pytest.fixture(autouse=True)
    def afresh(self):
        torch._dynamo.reset()

    def test_one_graph_and_the_same_numbers(self, build):
        """Without a break in the caller; then for another number of labels, without a mask, and under autocast."""
        hidden, weight, bias, labels, mask = make("odd", dtype=torch.float32)
        loss = build()
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        fewer = SparseLabels.from_lists([[1], [], [5, 6], [], []], num_labels=13)
        for sparse in ((labels, mask), (fewer, None)):
            inputs = (hidden, weight, bias, *sparse)
            torch.testing.assert_close(run(compiled, loss, *inputs), run(call, loss, *inputs))
        with torch.autocast("cpu", torch.bfloat16):
            inputs = (hidden, weight, bias, labels, mask)
            torch.testing.assert_close(run(compiled, loss, *inputs), run(call, loss, *inputs))

    def test_a_compiler_that_changes_nothing(self, build):
        inputs = make("odd")
        loss = build()
        compiled = torch.compile(call, fullgraph=True, backend="eager")
        torch.testing.assert_close(run(compiled, loss, *inputs), run(call, loss, *inputs))


@every_case
class TestFunc:
    def test_grad(self, build):
        *tensors, labels, mask = make("odd")
        loss = build()
        _, *expected = run(call, loss, *tensors, labels, mask)
        detached = [tensor.detach() for tensor in tensors]
        program = torch.func.grad(lambda *inputs: call(loss, *inputs, labels, mask), argnums=(0, 1, 2))
        if hasattr(loss, "generator"):
            loss.generator.manual_seed(0)
        torch.testing.assert_close(list(program(*detached)), expected)

    def test_vjp_by_a_factor(self, build):
        *tensors, labels, mask = make("odd")
        loss = build()
        _, *expected = run(call, loss, *tensors, labels, mask)
        if hasattr(loss, "generator"):
            loss.generator.manual_seed(0)
        detached = [tensor.detach() for tensor in tensors]
        value, back = torch.func.vjp(lambda *inputs: call(loss, *inputs, labels, mask), *detached)
        torch.testing.assert_close(list(back(torch.full_like(value, 3))), [3 * gradient for gradient in expected])


@pytest.mark.parametrize("loss", [FocalLoss(), SoftmaxLoss()], ids=repr)
def test_jacrev_of_a_scalar_loss(loss):
    """Here the incoming gradient is a batch of vmap, whose numbers cannot be read."""
    *tensors, labels, mask = make("odd")
    _, *expected = value_and_gradients(dense, loss, *tensors, labels, mask)
    program = torch.func.jacrev(lambda *inputs: loss(*inputs, labels, mask), argnums=(0, 1, 2))
    torch.testing.assert_close(list(program(*(tensor.detach() for tensor in tensors))), expected)


class TestCopies:
    @pytest.mark.parametrize("build", [*LOSSES.values(), lambda n: SampledSoftmaxLoss(5), lambda n: GBCELoss(5)])
    def test_a_copy_is_found_under_a_number_of_its_own(self, build):
        loss = build(13)
        others = [copy.deepcopy(loss), copy.copy(loss)]
        if "Squared" not in repr(loss):
            others.append(pickle.loads(pickle.dumps(loss)))
        assert len({loss.number, *(other.number for other in others)}) == 1 + len(others)
        inputs = make("odd")
        values = []
        for each in (loss, *others):
            torch.manual_seed(0)
            values.append(fused(each, *inputs))
        assert all(torch.equal(value, values[0]) for value in values)

    def test_a_copy_outlives_the_first(self):
        loss = copy.deepcopy(FocalLoss(3))
        inputs = make("odd")
        torch.testing.assert_close(loss(*inputs), dense(FocalLoss(3), *inputs))


def train_in_a_process(rank, folder):
    """Go backward twice through half of the rows, and save the gradients that DDP has averaged."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(Model())
    data, labels = some_data()
    half = torch.arange(4) + 4 * rank
    for _ in range(2):
        model(data[half], labels.select(half)).backward()
    torch.save([parameter.grad for parameter in model.parameters()], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def some_data():
    data = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    return data, SparseLabels.from_lists([[row, 3 * row % 20] for row in range(8)], num_labels=20)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.head = torch.nn.Linear(5, 3), torch.nn.Linear(3, 20)
        self.loss = FocalLoss(2, 0.25, chunk_labels=8, reduction="batch")

    def forward(self, data, labels):
        return self.loss(self.encoder(data), self.head.weight, self.head.bias, labels)


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(tmp_path):
    torch.multiprocessing.spawn(train_in_a_process, (str(tmp_path),), nprocs=2)
    model = Model()
    for _ in range(2):
        model(*some_data()).backward()
    for rank in range(2):
        gradients = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(gradients, [parameter.grad for parameter in model.parameters()])
