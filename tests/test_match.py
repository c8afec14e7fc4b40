"""Methods at equal cost: every row has what the reference has, or the comparison does not begin."""

import json
from math import prod
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures_data import make_folder
from polymodal.costs import cost
from polymodal.errors import ConfigError
from polymodal.report.comparison import Comparison, Row, table
from polymodal.runs.compare import compare
from polymodal.runs.match import LEAST, MOST, WITHIN, _by_width, _nearest, _times, matched
from polymodal.runs.methods import methods
from polymodal.runs.overrides import applied
from polymodal.runs.prepared import Prepared, built
from polymodal.runs.training import recipe

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI.s args", "ignore:no channel is exchanged")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "set"
    return make_folder(folder, size=(72, 96), splits={"train": 2, "val": 2}, modalities=("rgb", "grey"))


def small(data):
    return [
        *(f"--data.root={data}", "--data.batch_size=2", "--trainer.accelerator=cpu", "--trainer.max_epochs=1"),
        *("--model.network_args={stem: 18, widths: [24, 40], decoder: 28}", "--data.augment.crop=[48, 64]"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "name", "how"), [("parameters", "independent", "width ×0.7"), ("macs", "rgb-alone", "images of 12")]
)
def test_a_method_has_what_the_reference_has(what, name, how, data):
    """The promise of the table: two networks of half the size each are not held against one that is twice as large."""
    settings = Prepared(["--config", str(recipe("folder")), *small(data)]).settings
    known = methods(["rgb", "grey"])
    shared = {}

    def build(name):
        return built(applied(settings, name, known[name].overrides), shared)

    def costs():
        task, read = build(name)
        size = next(iter(read.val_dataloader().dataset[0]["inputs"].values())).shape[-2:]
        return getattr(cost(task.fused.eval(), size), what)

    budget = getattr(cost(build("exchange")[0].fused.eval(), (72, 96)), what)
    assert abs(costs() - budget) > 0.2 * budget
    found = matched(what, "exchange", ["exchange", name], known, build)
    assert found["exchange"].overrides == known["exchange"].overrides
    assert found["exchange"].matched == "as it is"
    assert found[name].matched.startswith(how)
    known |= found
    assert abs(costs() - budget) <= WITHIN * budget
    if what == "macs":
        height, width = found[name].overrides["data.size"]
        crop = found[name].overrides["data.augment.crop"]
        assert width / height == pytest.approx(96 / 72, rel=0.02)
        assert crop == pytest.approx([48 * height / 72, 64 * height / 72], abs=1)
    json.dumps(found[name].overrides)


@given(st.lists(st.integers(3, 40), min_size=1, max_size=3), st.floats(0.3, 3.5))
def test_no_factor_is_nearer_than_the_one_that_is_chosen(values, factor):
    """If this breaks, a method is refused although a width of it would do."""

    def costs(scaled):
        return 7 * prod(scaled) + sum(scaled)

    budget = costs([value * factor for value in values])
    tried = [_times(values, LEAST + (MOST - LEAST) * i / 4000) for i in range(4001)]
    best = min(abs(costs(scaled) - budget) for scaled in tried)
    if best > WITHIN * budget:
        with pytest.raises(ConfigError, match=r"nothing is within 2 % of .*: the nearest has .* channels"):
            _nearest(values, costs, budget, "nothing", "channels")
    else:
        found, scaled = _nearest(values, costs, budget, "nothing", "channels")
        assert abs(costs(scaled) - budget) <= best
        assert scaled == _times(values, found)


def test_a_network_whose_width_is_not_free_is_refused_by_name():
    task = SimpleNamespace(network="smp/FPN", arguments={"encoder_name": "resnet18"})
    with pytest.raises(ConfigError, match=r"^x: the width of smp/FPN is not free.*Use --match macs"):
        _by_width(task, None, "parameters", 1, "x")


def test_what_no_width_reaches_is_refused_before_anything_trains(data, tmp_path):
    """If this breaks, hours are trained on methods that are not equal."""
    words = [*small(data), "--model.network_args={stem: 2, widths: [2, 2], decoder: 2}"]
    with pytest.raises(ConfigError, match=r"--match parameters: independent: no width of rooms-unet is within 2 %"):
        compare(
            recipe("folder"),
            ["exchange", "independent"],
            [0],
            tmp_path / "out",
            overrides=words,
            match="parameters",
        )
    assert not (tmp_path / "out").exists()


def test_the_table_says_how_a_method_was_scaled():
    rows = [
        Row(name, name, "", {0: {"predictions": {"ensemble": {"mean_iou": 50.0}}}}, matched=how)
        for name, how in (("a", "as it is"), ("b", "width ×0.71"))
    ]
    headings, lines = table(Comparison("set", "val", ["rgb"], rows, {}, ""))
    assert [line[headings.index("scaled")].text for line in lines] == ["as it is", "width ×0.71"]
