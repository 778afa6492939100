"""planish.torch.prune: a network trained here on scanned digits, pruned, fine-tuned, pruned and exported again."""

import copy

import numpy as np
import pytest

import planish

torch = pytest.importorskip("torch")
datasets = pytest.importorskip("sklearn.datasets")
from digits import Digits, accuracy, digits, fit  # noqa: E402

from planish.torch import prune  # noqa: E402


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    train, test = digits()
    return fit(Digits(), train, epochs=12, rate=2e-3), train, test


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_half_of_the_channels_go_and_the_accuracy_stays(trained):
    network, train, test = trained
    before = accuracy(network, test)
    assert before > 0.96
    smaller = prune(network, train[0][:1], ratio=0.5, scope="layer", calibration=[train[0][:256]])
    assert parameters(smaller) < 0.35 * parameters(network)
    assert accuracy(fit(smaller, train, epochs=16, rate=2e-3, teacher=network), test) >= before - 0.005


def test_least_squares_beat_cutting_without_training(trained):
    network, train, test = trained
    options = {"ratio": 0.25, "calibration": [train[0][:256]]}
    adapted = accuracy(prune(network, train[0][:1], **options), test)
    cut = accuracy(prune(network, train[0][:1], criterion="l2", reconstruct=False, **options), test)
    assert adapted > cut


def test_gradients_say_which_channels_the_outputs_need():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 16, 1), torch.nn.ReLU(inplace=True), torch.nn.Conv2d(16, 4, 1))
    with torch.no_grad():
        network[0].weight.fill_(1)
        network[0].bias.fill_(1)
        network[2].weight[:, ::2] *= 1e-3  # what reads every other channel hardly does
    smaller = prune(
        network, torch.ones(1, 1, 4, 4), ratio=0.5, criterion="taylor", calibration=[torch.rand(8, 1, 4, 4)]
    )
    assert smaller[0].out_channels == 8
    assert smaller[2].weight.shape == (4, 8, 1, 1)
    with pytest.raises(planish.Error, match="needs calibration data"):
        prune(network, torch.ones(1, 1, 4, 4), ratio=0.5, criterion="taylor")


def test_the_module_is_the_graph(trained):
    network, train, _ = trained
    smaller, report = prune(
        network, train[0][:1], ratio=0.4, criterion="bn", keep=["stem"], return_report=True, multiple=4
    )
    rows = {row["layer"]: row for row in report["layers"]}
    assert rows["/inner/stem/Conv"]["channels"] == rows["/inner/stem/Conv"]["channels_before"]
    assert smaller.stem.out_channels == network.stem.out_channels
    assert smaller.blocks[0].middle.groups == smaller.blocks[0].middle.in_channels
    assert smaller.blocks[0].middle.groups < network.blocks[0].middle.groups
    # What was given is as it was; what came back can be pruned again, and exported.
    assert network.blocks[0].middle.groups == 96
    again = prune(smaller, train[0][:1], ratio=0.2, keep=["stem"], multiple=4)
    assert parameters(again) < parameters(smaller)
    x = train[0][:5]
    plan = planish.build(
        again.eval(), example_inputs=x, progress=False, optimization_level=1, samples=[{"x": x.numpy()}]
    )
    with torch.no_grad():
        expected = again(x).numpy()
    actual = planish.load(plan).run({"x": x.numpy()})
    # About twenty layers of float32 sums of a few hundred products each.
    np.testing.assert_allclose(
        next(iter(actual.values())), expected, rtol=0, atol=2000 * 2.0**-24 * np.abs(expected).max()
    )


def test_a_module_that_states_its_sizes_is_refused():
    class Stubborn(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(4, 32), torch.nn.Linear(32, 4)

        def forward(self, x):
            return self.second(self.first(x).view(-1, 32))

    with pytest.raises(planish.Error, match="does not run with fewer channels"):
        prune(Stubborn(), torch.ones(1, 4), ratio=0.5)


def test_equal_parameters_are_not_merged():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3),
        torch.nn.BatchNorm2d(32), torch.nn.ReLU(), torch.nn.Conv2d(32, 4, 3),
    ).eval()  # fmt: skip
    other = copy.deepcopy(network)
    smaller = prune(network, torch.ones(1, 1, 8, 8), ratio=0.5, scope="layer")
    assert smaller[1].num_features == 8
    assert smaller[4].num_features == 16
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), other.state_dict().values()))
