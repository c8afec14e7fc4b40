"""If these break, a network is another one on a GPU. With POLYMODAL_TEST_DEVICE=cpu they are rehearsed without."""

import copy
import os

import pytest
import torch

from polymodal import accelerate, export, fuse, models
from polymodal.fusion import DecodeOnce, Exchange

pytestmark = pytest.mark.cuda

EXCHANGE = Exchange(threshold=0.9, penalty=1e-3)
WAYS = {
    "exchange": {"fusion": EXCHANGE},
    "decode once": {"fusion": DecodeOnce(EXCHANGE)},
    "asymmetric": {"fusion": "asymmetric"},
    "low rank": {"fusion": EXCHANGE, "convolutions": {"rank": 2}},
    "independent": {"fusion": None, "convolutions": "private"},
}


@pytest.fixture
def device():
    chosen = os.environ.get("POLYMODAL_TEST_DEVICE", "cuda")
    if chosen == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(chosen)


def network(way):
    torch.manual_seed(0)
    plain = models.create("rooms-unet", classes=3, stem=4, widths=(8, 8), decoder=8)
    return fuse(plain, {"rgb": 3, "depth": 1}, **WAYS[way])


def images(samples=4):
    torch.manual_seed(1)
    return {"rgb": torch.randn(samples, 3, 32, 32), "depth": torch.randn(samples, 1, 32, 32)}


def to(tensors, device):
    return {name: tensor.to(device) for name, tensor in tensors.items()}


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_predictions_and_gradients_are_those_of_the_processor(way, gaps, device):
    one = network(way).double()
    other = copy.deepcopy(one).to(device)
    inputs = {name: image.double() for name, image in images().items()}
    present = {"depth": torch.tensor([True, False, True, True])} if gaps else None
    for net, place in ((one, "cpu"), (other, device)):
        given = None if present is None else to(present, place)
        predicted = net(to(inputs, place), present=given)
        loss = predicted.ensemble.square().mean() + net.fusion_loss()
        for name, output in predicted.per_modality.items():
            rows = slice(None) if given is None or name not in given else given[name]
            loss = loss + output[rows].square().mean()
        loss.backward()
    state = other.state_dict()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(state[name].cpu(), value, rtol=1e-8, atol=1e-8)
    gradients = dict(other.named_parameters())
    for name, parameter in one.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name].grad.cpu(), parameter.grad, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("way", WAYS)
def test_a_training_in_half_precision_learns(way, device):
    net = accelerate(network(way).to(device))
    inputs, target = to(images(), device), torch.randint(0, 3, (4, 32, 32), device=device)
    optimiser, losses = torch.optim.AdamW(net.parameters(), 1e-2), []
    for _ in range(12):
        with torch.autocast(device.type, torch.bfloat16):
            predicted = net(inputs)
        outputs = [predicted.ensemble, *predicted.per_modality.values()]
        loss = sum(torch.nn.functional.cross_entropy(output.float(), target) for output in outputs)
        optimiser.zero_grad()
        (loss + net.fusion_loss()).backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


def test_an_absorbed_network_predicts_what_the_network_does(device):
    net = network("exchange").eval().to(device)
    inputs = to(images(), device)
    with torch.inference_mode():
        torch.testing.assert_close(export.absorb(net)(inputs).ensemble, net(inputs).ensemble, rtol=1e-3, atol=1e-4)
