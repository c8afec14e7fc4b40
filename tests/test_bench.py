"""Benchmarks: every figure is what it says it is, whatever else the machine does, and nothing is compared unequal."""

import json
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fixtures_data import make_folder
from polymodal import models
from polymodal.bench import Case, bench, bench_data, bench_scaling, timing
from polymodal.bench.case import Networks, check_size
from polymodal.bench.equality import equality
from polymodal.bench.memory import peak_memory
from polymodal.bench.timing import Timing, take_turns
from polymodal.bench.variants import BASES, Base, Variant, predictor, prepare
from polymodal.cli import main
from polymodal.errors import ConfigError
from polymodal.functional import own_parts

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from released import Peer, check_peer

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI.s args")

TRAINED = ["exchange", "plain", "apart", "no-exchange", "exchange+amp"]

TINY = {"stem": 4, "widths": [6, 6], "decoder": 4}
SMALL = ["--network", "rooms-unet", "--network-args", "stem=4", "widths=[6,6]", "decoder=4", "--classes", "3"]

FAKE = """
import torch
from torch import nn


class Network(nn.Module):
    def __init__(self, classes, modalities):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)
        self.bn2_0, self.bn2_1 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, classes, 1)
        self.alpha = nn.Parameter(torch.ones(modalities))

    def load_state_dict(self, state):
        self.given = state

    def forward(self, images):
        weights = self.alpha.softmax(0)
        outputs = [self.head(norm(self.layer(x))) for norm, x in zip((self.bn2_0, self.bn2_1), images)]
        return [*outputs, sum(w * y.detach() for w, y in zip(weights, outputs))], weights


def refinenet(depth, classes, modalities, bn_threshold):
    return Network(classes, modalities)
"""


def small(**settings):
    return Case("rooms-unet", TINY, **{"classes": 3, "size": (24, 32), "batch": 2} | settings)


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """A folder with the interface of the released code, beside a network small enough to test with."""
    (tmp_path / "CEN" / "semantic_segmentation" / "models").mkdir(parents=True)
    (tmp_path / "CEN" / "semantic_segmentation" / "models" / "model.py").write_text(FAKE)
    create = models.create
    monkeypatch.setattr(models, "create", lambda name, classes: create("rooms-unet", classes=classes, **TINY))
    return tmp_path / "CEN"


def released(**settings):
    return Case(**{"network": "refinenet", "classes": 3, "size": (24, 32), "batch": 2} | settings)


@pytest.fixture
def networks(tmp_path):
    return lambda **settings: Networks(small(**settings), tmp_path)


def clock(monkeypatch, costs):
    """A clock that each candidate advances by its costs in turn; notes the order."""
    order, now = [], [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def step(name):
        left = iter(costs[name])

        def run():
            order.append(name)
            now[0] += next(left)

        return run

    return {name: step(name) for name in costs}, order


def test_candidates_take_turns_and_none_is_always_first(monkeypatch):
    """Whoever always follows the largest candidate finds a cold cache."""
    steps, order = clock(monkeypatch, {name: [1.0] * 9 for name in "abc"})
    told = []
    times = take_turns(steps, 3, 2, lambda name, round_: told.append((name, round_)))
    assert "".join(order) == "aabbcc" + "abc" + "bca" + "cab"
    assert told[:2] == [("a", 0), ("a", 0)]
    assert told[6:9] == [("a", 1), ("b", 1), ("c", 1)]
    assert {name: own.seconds for name, own in times.items()} == dict.fromkeys("abc", (1.0,) * 3)


def test_the_warm_up_is_not_timed(monkeypatch):
    steps, _ = clock(monkeypatch, {"a": [50.0, 1.0, 3.0]})
    assert take_turns(steps, 2, 1, lambda name, round_: None)["a"].seconds == (1.0, 3.0)


def test_a_machine_that_slows_down_half_way_changes_no_ratio(monkeypatch):
    """A training beside the benchmark must not make one candidate look better than another."""
    load = np.array([1, 1, 1, 9, 9])
    steps, _ = clock(monkeypatch, {"slow": [0, *(2.0 * load)], "fast": [0, *(0.5 * load)]})
    times = take_turns(steps, 5, 1, lambda name, round_: None)
    assert times["fast"].speed(times["slow"]) == pytest.approx(4)
    assert times["slow"].speed(times["slow"]) == 1


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12))
def test_median_and_quartiles_are_those_of_the_rounds(seconds):
    own = Timing(tuple(seconds), tuple(seconds))
    assert own.median == pytest.approx(np.median(seconds))
    assert own.quartiles == pytest.approx(tuple(np.percentile(seconds, [25, 75])))


def test_agreement_is_the_worst_of_all_predictions():
    """One modality that is wrong everywhere must not hide behind one that is right."""
    expected = {"rgb": torch.randn(2, 4, 3, 5), "depth": torch.randn(2, 4, 3, 5), "ensemble": torch.randn(2, 4, 3, 5)}
    found = {name: logits.clone() for name, logits in expected.items() if name != "ensemble"}
    assert equality(found, expected).classes == 1
    top = expected["depth"][1, :, 2, 3].argmax()
    found["depth"][1, (top + 1) % 4, 2, 3] = 8.0
    worse = equality(found, expected)
    assert worse.classes == pytest.approx(29 / 30)
    change = 8 - expected["depth"][1, (top + 1) % 4, 2, 3]
    assert worse.difference == pytest.approx(float(change / expected["depth"].abs().max()))


@pytest.mark.parametrize("broken", ["rgb", "depth"])
@pytest.mark.parametrize("side", ["found", "expected"])
def test_a_prediction_of_nan_shows(broken, side):
    """A variant that overflows is no fast one; nor is it the same as an eager network that overflows, too."""
    right = {"rgb": torch.randn(1, 4, 3, 5), "depth": torch.randn(1, 4, 3, 5)}
    logits = {side: {name: value.clone() for name, value in right.items()} for side in ("found", "expected")}
    logits[side][broken][0, 1, 2, 3] = torch.nan
    worst = equality(**logits)
    assert np.isnan(worst.difference)
    assert worst.classes == pytest.approx(14 / 15)
    both = {"depth": torch.full((1, 4, 3, 5), torch.nan)}
    assert equality(both, both).classes == 0


def test_a_share_of_the_penalised_channels_is_exchanged_and_no_other(networks):
    net = networks(modalities=3, share=0.5).exchange
    for name, scale in net.scales().items():
        below = scale.detach().abs() < net.fusion.threshold
        part = own_parts(*scale.shape)
        assert not below[~part].any(), name
        assert below.sum(1).tolist() == [1, 1, 1]


def test_all_networks_hold_the_same_values_and_modalities_differ(networks):
    """Were the networks different ones, their times would still look fine."""
    ours = networks(share=0.5)
    found = {base: predictor(Variant(base), ours)() for base in ("no-exchange", "plain", "apart", "exchange")}
    assert (len(found["plain"]), len(found["apart"])) == (1, 2)
    for base in ("plain", "apart"):
        for name, logits in found[base].items():
            torch.testing.assert_close(logits, found["no-exchange"][name])
    assert not torch.allclose(found["exchange"]["depth"], found["no-exchange"]["depth"])
    norm = ours.exchange.network.encoder.bn1
    assert not torch.equal(norm.weight[0], norm.weight[1])


@pytest.mark.parametrize("base", ["plain", "apart", "no-exchange", "exchange"])
@pytest.mark.parametrize("statistics", ["frozen", "batch"])
def test_a_training_step_trains_every_parameter(base, statistics, networks):
    """A step that leaves gradients out would be fast."""
    ours = networks(statistics=statistics)
    step = prepare(Variant(base), ours, "training")
    shared = ours.exchange if base == "exchange" else ours.without_exchange
    nets = {"plain": [ours.first], "apart": ours.unimodal}.get(base) or [shared.network]
    statistics_of = [net.get_buffer("encoder.bn1.running_mean") for net in nets]
    before = [mean.clone() for mean in statistics_of]
    step()
    for net in nets:
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters()), base
    moved = [not torch.equal(a, b) for a, b in zip(before, statistics_of, strict=True)]
    assert all(moved) if statistics == "batch" else not any(moved)


def test_what_makes_a_variant_faster_leaves_the_others_as_they_were(networks):
    """The eager network is what all are compared with; it must stay eager, in its own order of memory."""
    ours = networks()
    prepare(Variant("exchange", frozenset({"auto"})), ours, "inference")
    assert all(p.is_contiguous() for p in ours.exchange.parameters())


@pytest.mark.parametrize(
    ("trained", "inference"),
    [
        (TRAINED, ["exchange+absorb"]),
        (["decode-once"], ["decode-once+files"]),
        pytest.param(
            [*TRAINED, "exchange+auto"],
            [
                "exchange+absorb",
                "exported+absorb",
                "exported+absorb+int8",
                "exported+absorb+files",
                "exported-decode-once+absorb",
            ],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_asked_variant_is_in_the_report(trained, inference, tmp_path, capsys):
    words = [*trained, *inference]
    options = ["--size", "32", "32", "--batch", "2", "--repeats", "2", "--no-memory", "--out", str(tmp_path / "out")]
    assert main(["bench", *SMALL, *options, "--variants", ",".join(words)]) == 0
    shown = capsys.readouterr().out
    assert shown == (tmp_path / "out" / "bench.md").read_text(encoding="utf-8")
    found = json.loads((tmp_path / "out" / "bench.json").read_text(encoding="utf-8"))
    assert [table["title"] for table in found["tables"]] == ["inference", "training"]
    for table, able in zip(found["tables"], (words, trained), strict=True):
        assert [row["variant"] for row in table["rows"]] == able
        assert all(len(row["seconds"]) == 2 and min(row["seconds"]) > 0 for row in table["rows"])
        assert table["rows"][0]["speed"] == 1
    for row in found["tables"][0]["rows"]:
        exact = not row["variant"].endswith(("+amp", "+int8", "+files"))
        assert row["difference"] <= 1e-5 if exact else 1e-5 < row["difference"] < 0.2
        assert row["same class"] == 1 if exact else row["same class"] > 0.8
    assert found["machine"]["threads"] == 1
    assert found["machine"]["torch"] == torch.__version__
    for word in words:
        assert len(re.findall(rf"^\| {re.escape(word)} \|", shown, re.M)) == 2 - (word in inference)
    assert "absorb" not in "".join(words) or re.search(r"^- absorbing: multiply-accumulates .* G to .* G", shown, re.M)


def test_memory_that_the_system_does_not_tell_is_missing_and_not_zero(monkeypatch):
    for module in ("network", "scaling"):
        monkeypatch.setattr(f"polymodal.bench.{module}.peak_memory", lambda *words: None)
    for report, columns in (
        (bench(small(), ["exchange", "no-exchange"], ["inference"], 1), ["memory", "memory ratio"]),
        (bench_scaling(small(modalities=1), "exchange", ["inference"], 1), ["memory"]),
    ):
        assert all(row[column] is None for row in json.loads(report.json())["tables"][0]["rows"] for column in columns)
        lines = [line for line in report.markdown().splitlines() if re.match(r"\| (exchange|no-exchange|1) \|", line)]
        assert lines
        assert all("| – | – |" in line for line in lines)


@pytest.mark.slow
def test_memory_is_what_a_training_step_keeps(tmp_path):
    """The figure counts activations: those that autograd keeps, by torch's own account, are its lower bound."""
    case = small(size=(192, 256), batch=8)
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        prepare(Variant("exchange"), Networks(case, tmp_path), "training")()
    activations = sum(size for _, size in kept.values())
    peak = peak_memory(case, Variant("exchange"), "training", tmp_path)
    assert activations > 2**25
    assert activations < peak < 2 * activations + 2**26


def test_scaling_measures_each_number_of_modalities():
    found = json.loads(bench_scaling(small(modalities=3), "exchange", ["inference"], 2, with_memory=False).json())
    rows = found["tables"][0]["rows"]
    assert [row["modalities"] for row in rows] == [1, 2, 3]
    assert rows[0]["relative"] == 1
    for row in rows:
        assert row["seconds per modality"] * row["modalities"] == pytest.approx(row["median"])
        ratios = [b / a / row["modalities"] for a, b in zip(rows[0]["seconds"], row["seconds"], strict=True)]
        assert row["relative"] == pytest.approx(1 / np.median([1 / ratio for ratio in ratios]))


def test_the_loader_is_measured_with_every_setting(tmp_path):
    root = make_folder(tmp_path / "set", splits={"train": 5, "val": 2}, modalities=("rgb", "grey"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: {class_path: polymodal.tasks.Segmentation}\n"
        f"data: {{class_path: polymodal.data.FolderData, init_args: {{root: {root}, batch_size: 2}}}}\n"
    )
    found = json.loads(bench_data(recipe, ["false", "true"], [0], 2, ["--data.augment.crop", "[16,16]"]).json())
    rows = found["tables"][0]["rows"]
    assert [row["settings"] for row in rows] == ["cache false, 0 workers", "cache true, 0 workers"]
    assert found["settings"]["samples"] == 4
    for row in rows:
        assert len(row["seconds"]) == 2
        assert row["samples per second"] == pytest.approx(4 / row["median"])


def test_the_peer_gets_our_values_by_its_names(peer, tmp_path):
    """A peer with other values would be compared with a network that exchanges other channels."""
    networks = Networks(released(), tmp_path)
    given = Peer(peer, networks).net.given
    ours = networks.exchange.state_dict()
    for m in range(2):
        norm = given[f"stages.0.0.bn2.bn_{m}.weight"]
        assert torch.equal(norm, ours["network.encoder.stages.0.0.bn2.weight"][m])
    assert torch.equal(given["alpha"], ours["ensemble.alpha"])


def test_the_peer_does_the_released_step(peer, tmp_path):
    made = Peer(peer, Networks(released(), tmp_path), 1e-2)
    made.train(True)
    net = made.net
    assert net.training
    assert not any(module.training for module in net.modules() if isinstance(module, nn.BatchNorm2d))
    outputs, _ = net(made.images)
    losses = []
    for output in outputs:
        known = made.target != 255
        log = output.log_softmax(1).gather(1, made.target.where(known, 0)[:, None])[:, 0]
        losses.append(-log[known].mean() + 2e-4 * (net.bn2_0.weight[:2].abs().sum() + net.bn2_1.weight[2:].abs().sum()))
    expected = torch.autograd.grad(sum(losses), list(net.parameters()))
    before = [parameter.detach().clone() for parameter in net.parameters()]
    made.step()
    for parameter, gradient, start in zip(net.parameters(), expected, before, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
        torch.testing.assert_close(parameter.detach(), start - 1e-2 * (gradient + 1e-5 * start))
    made.step()


def test_a_peer_that_predicts_something_else_shows(peer, monkeypatch):
    base = Base("the released code", (), like="exchange", check=partial(check_peer, peer), build=partial(Peer, peer))
    monkeypatch.setitem(BASES, "peer", base)
    found = json.loads(bench(released(), ["peer", "exchange"], repeats=1, with_memory=False).json())
    theirs, ours = found["tables"][0]["rows"]
    assert theirs["same class"] < 0.99
    assert ours["same class"] == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--variants", "exchange,fast"], r"no variant 'fast'; there are .*plain\[\+auto\]\[\+compile\]\[\+amp\]"),
        (["--variants", "peer+amp"], "no variant 'peer\\+amp'"),
        (["--variants", "no-exchange,no-exchange"], "'no-exchange' is named twice"),
        (["--variants", "exchange+auto+compile"], "\\+compile includes \\+auto"),
        (["--variants", "exported", "--task", "training"], "none of exported can be trained"),
        (["--device", "cuda:7"], "no device 'cuda:7' here; there are cpu"),
        (["--device", "warp"], "no device 'warp' here"),
        (["--repeats", "-1"], "--repeats: expected 1 or more, got -1"),
        (["--warmup", "-1"], "--warmup: expected 0 or more"),
        (["--modalities", "0"], "--modalities: expected 1 or more"),
        (["--size", "0", "32"], "--size: expected 1 or more"),
        (["--share", "1.5"], "--share: expected a share from 0 to 1, got 1.5"),
        (["--statistics", "batch", "--batch", "1"], "a norm learns nothing from a single sample"),
        (["--network-args", "stem"], "--network-args: expected KEY=VALUE, got 'stem'"),
        (["--network", "nonet"], "there is no network 'nonet'"),
        (["--network-args", "classes=3"], "use --classes"),
        (["--network-args", "name=x"], "rooms-unet: unexpected argument 'name'; it takes classes"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(words, told, capsys):
    usual = [*SMALL, "--size", "24", "32"]
    if words[0] in ("--size", "--network"):  # an option is given once
        at = usual.index(words[0])
        del usual[at : at + (3 if words[0] == "--size" else 2)]
    assert main(["bench", *usual, *words]) == 2
    error = capsys.readouterr().err
    assert re.search(told, error), error
    assert error.count("\n") == 1


def test_statistics_of_a_batch_of_one_are_no_matter_where_nothing_trains(tmp_path, capsys):
    words = ["--statistics", "batch", "--variants", "plain", "--repeats", "1", "--warmup", "0", "--no-memory"]
    assert main(["bench", *SMALL, "--size", "24", "32", "--task", "inference", *words]) == 0
    assert "statistics: batch" in capsys.readouterr().out


@pytest.mark.parametrize("tool", [[], ["scaling"], ["data", "--config", "recipe.yaml"]])
def test_a_file_in_place_of_the_folder_is_refused_before_anything_is_measured(tool, tmp_path, capsys):
    """Hours of measuring would end in an error instead of a table."""
    (tmp_path / "taken").write_text("mine")
    assert main(["bench", *tool, "--out", str(tmp_path / "taken")]) == 2
    assert "--out: expected a folder for bench.md" in capsys.readouterr().err


@pytest.fixture
def unbuilt(monkeypatch):
    """Fails when a network is built; there is a GPU, as far as the settings can tell."""
    monkeypatch.setattr(models, "create", lambda *words, **arguments: pytest.fail("built"))
    monkeypatch.setattr("polymodal.bench.case.check_device", lambda device: None)


def test_what_does_not_run_on_a_gpu_is_refused_before_anything_is_built(unbuilt):
    """A refusal after an hour of measuring would lose the hour."""
    with pytest.raises(ConfigError, match=r"'exported\+absorb' runs on the CPU alone; .* use --device cpu"):
        bench(small(device="cuda"), ["exchange", "exported+absorb"], ["inference"])
    with pytest.raises(ConfigError, match=r"'exported-decode-once\+int8' runs on the CPU alone"):
        bench(small(device="cuda"), ["exchange", "exported-decode-once+int8"], ["inference"])
    with pytest.raises(ConfigError, match=r"'exported' runs on the CPU alone"):
        bench_scaling(small(device="cuda"), "exported", ["inference"])


def test_scaling_refuses_what_it_cannot_scale(unbuilt):
    for variant in ("fast", "peer"):
        with pytest.raises(ConfigError, match=f"no variant '{variant}'"):
            bench_scaling(small(), variant)
    with pytest.raises(ConfigError, match="exported cannot be trained"):
        bench_scaling(small(), "exported", ["training"])


def test_the_peer_is_refused_where_it_cannot_be_compared(peer, tmp_path):
    nowhere = "no models/model.py in .*nowhere or its semantic_segmentation; expected .*git clone"
    for folder, case, told in (
        (tmp_path / "nowhere", released(), nowhere),
        (peer, released(modalities=3), "3 modalities"),
        (peer, released(network="rooms-unet"), "got rooms-unet"),
        (peer, released(arguments={"encoder_name": "resnet18"}), "encoder_name=resnet18"),
    ):
        with pytest.raises(ConfigError, match=told):
            Peer(folder, Networks(case, tmp_path))


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named"),
        ("print 'of Python 2'", "SyntaxError: Missing parentheses"),
        ("raise AssertionError", "AssertionError: ;"),
        ("def refinenet(*, depth): pass", "TypeError: refinenet"),
    ],
)
def test_released_code_that_breaks_is_named_with_its_file(code, told, peer, tmp_path):
    file = peer / "semantic_segmentation" / "models" / "model.py"
    file.write_text(f"{code}\n")
    with pytest.raises(ConfigError, match=f"{re.escape(str(file))} cannot be used: {told}.*git clone"):
        Peer(peer, Networks(released(), tmp_path))


def test_the_peers_warnings_are_its_own(peer, tmp_path, recwarn):
    """A filter that outlives the peer would hide the same warning of a user's own network."""
    file = peer / "semantic_segmentation" / "models" / "model.py"
    file.write_text(FAKE.replace("self.alpha.softmax(0)", "nn.functional.softmax(self.alpha)"))
    made = Peer(peer, Networks(released(), tmp_path))
    made.predict()
    made.step()
    assert not [one for one in recwarn if "Implicit dimension" in str(one.message)]
    with pytest.warns(UserWarning, match="Implicit dimension"):
        nn.functional.softmax(torch.ones(2))


def test_a_size_that_the_network_cannot_take_is_refused_before_anything_is_measured():
    with pytest.raises(ConfigError, match=r"--size 32 32: smp/PAN cannot take .* choose a larger one"):
        check_size(Case("smp/PAN", {"encoder_name": "resnet18"}, size=(32, 32)))


def test_networks_that_compute_while_they_are_built_are_measured():
    """If this breaks, the encoders of SegFormer and others cannot be measured."""
    assert check_size(Case("smp/Segformer", {"encoder_name": "mit_b0"}, classes=3, size=(32, 32))) > 0


@pytest.mark.parametrize("tool", [["scaling"], ["data", "--config", "recipe.yaml"]])
@pytest.mark.parametrize("options", [["--size", "9", "12"], ["--modalities", "2"], ["--out", "data"], ["--setting=1"]])
def test_options_before_the_tool_are_refused(tool, options, unbuilt, capsys):
    """They would be dropped: another network measured, at another size, and nothing written."""
    assert main(["bench", *options, *tool]) == 2
    assert f"bench {tool[0]}: expected its options behind it, got '{options[0]}' before it" in capsys.readouterr().err


def test_bench_data_refuses_what_is_no_number_of_workers(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("")
    assert main(["bench", "data", "--config", str(recipe), "--workers", "-1"]) == 2
    assert "--workers: expected numbers from 0 on" in capsys.readouterr().err
