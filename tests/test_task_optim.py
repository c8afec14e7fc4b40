"""What is trained how fast: a parameter that is forgotten stays random, one that is decayed by mistake dies."""

import pytest
import torch

from polymodal import fuse
from polymodal.errors import ConfigError
from polymodal.fusion import Exchange
from polymodal.models import create
from polymodal.surgery import Multimodal
from polymodal.tasks.optim import Optimiser, rate


def network() -> Multimodal:
    plain = create("rooms-unet", classes=3, stem=4, widths=(4, 4), decoder=4)
    return fuse(plain, ["rgb", "depth"], Exchange(), stems="private")


def test_every_trainable_parameter_is_in_one_group_once():
    net = network()
    net.network.get_submodule("head").bias.requires_grad_(False)
    listed = [id(p) for group in Optimiser().groups(net) for p in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in net.parameters() if p.requires_grad}


def test_scales_have_their_factor_and_no_decay_and_the_encoder_its_factor():
    """Decayed scales, or slow ones, reach the threshold for another reason than the penalty, or never."""
    net = network()
    groups = {
        g["name"]: g for g in Optimiser(lr=1e-2, encoder_factor=0.1, scales_factor=5, weight_decay=0.3).groups(net)
    }
    assert {id(p) for p in groups["scales"]["params"]} == {id(p) for p in net.scales().values()}
    rates = {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()}
    assert rates == {
        "encoder": (pytest.approx(1e-3), 0.3),
        "encoder without decay": (pytest.approx(1e-3), 0.0),
        "scales": (pytest.approx(5e-2), 0.0),
        "decoder": (pytest.approx(1e-2), 0.3),
        "decoder without decay": (pytest.approx(1e-2), 0.0),
    }
    undecayed = groups["encoder without decay"]["params"] + groups["decoder without decay"]["params"]
    assert all(parameter.ndim < 4 for parameter in undecayed)
    assert all(parameter.ndim >= 4 for name in ("encoder", "decoder") for parameter in groups[name]["params"])
    assert id(net.ensemble.alpha) in {id(parameter) for parameter in undecayed}


@pytest.mark.parametrize(
    ("schedule", "start", "middle", "end"),
    [
        ("constant", 1, 1, 1),
        ("cosine", 1, 0.5, 0),
        ("poly", 1, 0.5**0.9, 0),
        ("step", 1, 0.1, 0.01),
        ("onecycle", 0.04, 0.811745, 0),
    ],
)
def test_schedules_start_and_end_where_they_say(schedule, start, middle, end):
    factor = rate(schedule, (0.33, 0.67))
    assert [factor(t) for t in (0, 0.5, 1)] == pytest.approx([start, middle, end], abs=1e-6)


def test_onecycle_peaks_at_30_per_cent():
    assert rate("onecycle")(0.3) == pytest.approx(1)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_training_ends_at_the_schedules_end(name):
    optimiser, schedule = Optimiser(name=name, lr=1.0, schedule="poly").build(network(), 4)
    for _ in range(6):  # a step more than planned must not raise the rate, or make it complex
        optimiser.step()
        schedule.step()
    assert {group["lr"] for group in optimiser.param_groups} == {0.0}
    assert type(optimiser) is {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]


@pytest.mark.parametrize(
    "settings",
    [{"lr": 0}, {"scales_factor": -1}, {"weight_decay": -1}, {"milestones": [0.5, 30]}, {"lr": float("nan")}],
)
def test_settings_out_of_range_are_named(settings):
    with pytest.raises(ConfigError, match=f"optimiser.{next(iter(settings))}"):
        Optimiser(**settings)
