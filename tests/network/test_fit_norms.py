"""Statistics for folded batch norm; torch's own batch norm says what they have to be."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from ssd34.cli.train_setup import checkpoint_from_onnx
from ssd34.deploy.export import ExportOptions, onnx_model
from ssd34.deploy.graph import save_model
from ssd34.network.fit_norms import fit_norms
from ssd34.network.from_onnx import has_unfolded_norm
from ssd34.network.ssd import SSD, arrays_of, load_weights
from tests.conftest import tiny_spec

BOTH = ("trunk.", "extras.")


@pytest.fixture
def folded(tiny_checkpoint, tmp_path) -> SSD:
    """A network whose batch norm went through a file."""
    save_model(onnx_model(tiny_checkpoint, ExportOptions()), tmp_path / "tiny.onnx")
    network = SSD(tiny_spec())
    load_weights(network, checkpoint_from_onnx(tmp_path / "tiny.onnx").weights, source="test")
    return network.eval()


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def outputs(network: SSD, pictures: Tensor, *, training: bool = False) -> Tensor:
    network.train(training)
    with torch.no_grad():
        return torch.cat([part.flatten(1) for part in network(pictures)], dim=1)


def test_a_batchs_own_statistics_then_give_the_same_as_the_file(folded, pictures):
    """Fitted to these pictures, batch norm computes on them what the file did in either mode;
    before, training mode made it another network."""
    before = outputs(folded, pictures)
    assert (outputs(copy.deepcopy(folded), pictures, training=True) - before).abs().max() > 0.5
    norms = {n: m for n, m in folded.named_modules() if isinstance(m, nn.BatchNorm2d)}
    folded.train()
    assert fit_norms(folded, BOTH, pictures.split(4)) == len(norms)
    assert folded.training
    assert {n: m for n, m in folded.named_modules() if isinstance(m, nn.BatchNorm2d)} == norms
    torch.testing.assert_close(outputs(folded, pictures), before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs(folded, pictures, training=True), before, atol=1e-3, rtol=0)
    assert not has_unfolded_norm(arrays_of(folded), "")


def test_only_the_parts_that_were_named(folded, pictures):
    trunk = {k: v for k, v in arrays_of(folded).items() if k.startswith("trunk.")}
    assert fit_norms(folded, ("extras.",), [pictures]) == 2 * len(folded.extras)
    now = arrays_of(folded)
    assert all((now[name] == array).all() for name, array in trunk.items())
    assert not has_unfolded_norm(now, "extras.")


def test_statistics_that_are_there_stay(tiny_checkpoint):
    network = SSD(tiny_spec())
    load_weights(network, tiny_checkpoint.weights, source="test")

    def none() -> Iterator[Tensor]:
        raise AssertionError("pictures were asked for")
        yield

    assert fit_norms(network, BOTH, none()) == 0
    for name, array in arrays_of(network).items():
        assert (array == tiny_checkpoint.weights[name]).all()


def test_without_a_picture_nothing_changes(folded):
    before = arrays_of(folded)
    assert fit_norms(folded, BOTH, []) == 0
    assert all((array == before[name]).all() for name, array in arrays_of(folded).items())


def test_an_interruption_leaves_the_network_as_it_was(folded, pictures):
    def stopped() -> Iterator[Tensor]:
        yield pictures
        raise KeyboardInterrupt

    before = outputs(folded, pictures)
    with pytest.raises(KeyboardInterrupt):
        fit_norms(folded, BOTH, stopped())
    assert torch.equal(outputs(folded, pictures), before)
