"""What is trained how fast: a parameter that is forgotten stays random, one that is decayed by mistake dies."""

from dataclasses import replace
from inspect import signature

import pytest
import torch

from polymodal import fuse
from polymodal.errors import ConfigError
from polymodal.fusion import Exchange
from polymodal.models import create
from polymodal.multimodal import Multimodal
from polymodal.tasks import Segmentation, Translation
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


def test_scales_and_ensemble_have_their_factors_and_no_decay_and_the_encoder_its_factor():
    """Decayed scales, or slow ones, reach the threshold for another reason than the penalty, or never; a slow ensemble
    holds on to modalities that are worth nothing."""
    net = network()
    setting = Optimiser(lr=1e-2, encoder_factor=0.1, scales_factor=5, ensemble_factor=20, weight_decay=0.3)
    groups = {group["name"]: group for group in setting.groups(net)}
    assert {id(p) for p in groups["scales"]["params"]} == {id(p) for p in net.scales().values()}
    assert [id(p) for p in groups["ensemble"]["params"]] == [id(net.ensemble.alpha)]
    rates = {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()}
    assert rates == {
        "encoder": (pytest.approx(1e-3), 0.3),
        "encoder without decay": (pytest.approx(1e-3), 0.0),
        "scales": (pytest.approx(5e-2), 0.0),
        "ensemble": (pytest.approx(2e-1), 0.0),
        "decoder": (pytest.approx(1e-2), 0.3),
        "decoder without decay": (pytest.approx(1e-2), 0.0),
    }
    undecayed = groups["encoder without decay"]["params"] + groups["decoder without decay"]["params"]
    assert all(parameter.ndim < 4 for parameter in undecayed)
    assert all(parameter.ndim >= 4 for name in ("encoder", "decoder") for parameter in groups[name]["params"])


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


STAGES = {"encoder": [4e-1, 2e-1, 1e-1], "decoder": [3.0, 2.0, 1.0]}


def test_stages_are_the_rates_of_equal_parts_of_the_training():
    """The papers' three stages; scales are trained as fast as the part that they are in, and everything decays."""
    net = network()
    setting = Optimiser(name="sgd", stages=STAGES, weight_decay=0.3, decay="all")
    optimiser, schedule = setting.build(net, 6)
    seen = []
    for _ in range(7):
        seen.append(tuple(round(group["lr"], 9) for group in optimiser.param_groups))
        optimiser.step()
        schedule.step()
    assert [group["name"] for group in optimiser.param_groups] == ["encoder", "decoder"]
    assert seen == [(0.4, 3.0)] * 2 + [(0.2, 2.0)] * 2 + [(0.1, 1.0)] * 3
    assert {group["weight_decay"] for group in optimiser.param_groups} == {0.3}
    of_encoder = {id(parameter) for parameter in optimiser.param_groups[0]["params"]}
    assert {id(scale) for scale in net.scales().values()} <= of_encoder
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(net.parameters()))


@pytest.mark.parametrize(("task", "lr"), [(Segmentation, 2e-4), (Translation, 4e-3)])
def test_a_rate_that_stages_take_the_place_of_is_refused(task, lr):
    """Else who lowers the rate of a recipe with stages, or searches it, trains with the same one every time."""
    usual = signature(task).parameters["optimiser"].default
    task(optimiser=replace(usual, stages=STAGES))
    task(optimiser=replace(usual, lr=lr))
    with pytest.raises(ConfigError, match=rf"optimiser.lr: {lr} would change nothing, as optimiser.stages says all"):
        task(optimiser=replace(usual, lr=lr, stages=STAGES))
    with pytest.raises(ConfigError, match=r"optimiser.schedule: poly would change nothing"):
        task(optimiser=replace(usual, schedule="poly", stages=STAGES))


def test_with_stages_norms_are_left_undecayed_unless_all_decay():
    groups = {group["name"]: group["weight_decay"] for group in Optimiser(stages=STAGES).groups(network())}
    assert groups == {
        "encoder": 1e-2,
        "encoder without decay": 0.0,
        "decoder": 1e-2,
        "decoder without decay": 0.0,
    }


def test_when_all_decays_the_scales_do():
    assert {group["weight_decay"] for group in Optimiser(decay="all").groups(network())} == {1e-2}


@pytest.mark.parametrize(("for_batch", "batch_size", "factor"), [(6, 12, 2), (6, 3, 0.5), (None, 12, 1), (6, None, 1)])
def test_rates_follow_the_batch_size_they_are_meant_for(for_batch, batch_size, factor):
    setting = Optimiser(lr=1e-2, scales_factor=5, for_batch=for_batch)
    optimiser, _ = setting.build(network(), 4, batch_size)
    rates = {group["name"]: group["lr"] for group in optimiser.param_groups}
    assert (rates["decoder"], rates["scales"]) == pytest.approx((1e-2 * factor, 5e-2 * factor))


@pytest.mark.parametrize(
    "settings",
    [
        {"stages": {"encoder": [1.0]}},
        {"stages": {"encoder": [1.0], "decoder": [1.0, 2.0]}},
        {"stages": {"encoder": [], "decoder": []}},
        {"stages": {"encoder": [0.0], "decoder": [1.0]}},
        {"for_batch": 0},
    ],
)
def test_stages_and_batch_sizes_that_cannot_be_are_named(settings):
    with pytest.raises(ConfigError, match=f"optimiser.{next(iter(settings))}"):
        Optimiser(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0},
        {"scales_factor": -1},
        {"ensemble_factor": 0},
        {"weight_decay": -1},
        {"milestones": [0.5, 30]},
        {"lr": float("nan")},
    ],
)
def test_settings_out_of_range_are_named(settings):
    with pytest.raises(ConfigError, match=f"optimiser.{next(iter(settings))}"):
        Optimiser(**settings)
