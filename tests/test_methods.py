"""The table of methods: each is the recipe with nothing changed but what its name says, and can be trained."""

from functools import cache

import pytest
import yaml

from polymodal.errors import ConfigError
from polymodal.fusion import DecodeOnce, Exchange
from polymodal.runs.compare import _check_networks
from polymodal.runs.methods import choose, imports, methods
from polymodal.runs.overrides import applied
from polymodal.runs.prepared import Prepared
from polymodal.runs.training import recipe

ABLATION = [
    "rgb-alone", "depth-alone", "independent", "shared-norms", "private-norms", "penalty", "exchange", "exchange-all",
    "exchange-random", "exchange-share",
]  # fmt: skip
BASELINES = [
    "exchange", "asymmetric", "shuffle", "shift",
    *(f"{operation}-{stage}" for operation in ("concat", "average", "attention", "align")
      for stage in ("early", "middle", "late", "all")),
    "noise", "copy",
]  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI.s args")
KNOWN = methods(["rgb", "depth"])


@cache
def rooms():
    return Prepared(["--config", str(recipe("rooms"))]).settings


def model_of(name):
    return applied(rooms(), name, KNOWN[name].overrides)["model"]["init_args"]


def test_the_groups_are_those_of_the_papers():
    assert choose(["ablation"], KNOWN) == ABLATION
    assert choose(["baselines"], KNOWN) == BASELINES
    assert choose(["all"], KNOWN) == list(KNOWN)
    extensions = ["decode-once", "private-norms-decode-once", "exchange-low-rank", "decode-once-low-rank"]
    assert choose(["extensions"], KNOWN) == extensions
    shared = [f"{name}-shared" for name in BASELINES if name.startswith(("concat", "average", "attention"))]
    assert choose(["shared-aggregation"], KNOWN) == shared
    assert set(KNOWN) == {*ABLATION, *BASELINES, *shared, *extensions, *choose(["exchanges"], KNOWN)}


def test_choosing_twice_trains_once_and_in_the_order_of_the_table():
    assert choose(["penalty", "independent", "penalty"], KNOWN) == ["independent", "penalty"]
    assert choose(["ablation", "exchange"], KNOWN) == ABLATION


def test_unknown_methods_are_listed_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"'magic'.*exchange-share.*ablation.*all"):
        choose(["exchange", "magic"], KNOWN)
    with pytest.raises(ConfigError, match="at least one"):
        choose([], KNOWN)


def test_every_modality_has_a_row_of_its_own():
    three = methods(["rgb", "depth", "normal"])
    assert list(three)[:4] == ["rgb-alone", "depth-alone", "normal-alone", "independent"]
    assert three["normal-alone"].overrides["data.modalities"] == ["normal"]
    assert three["noise"].overrides["data.substitute"] == {"depth": "noise", "normal": "noise"}
    assert three["copy"].overrides["data.substitute"] == {"depth": "rgb", "normal": "rgb"}
    with pytest.raises(ConfigError, match="two or more"):
        methods(["rgb"])


def test_exchange_is_the_recipe_itself():
    assert applied(rooms(), "exchange", KNOWN["exchange"].overrides) == rooms()


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("penalty", {"threshold": 0.0}),
        ("exchange-all", {"within": "all"}),
        ("exchange-share", {"share": 0.5}),
        ("noise", {}),
        ("copy", {}),
    ],
)
def test_variations_of_exchange_keep_the_recipes_own_lambda_and_theta(name, changed):
    """Else the rows of a table differ by more than they say."""
    own = rooms()["model"]["init_args"]["fusion"]["init_args"]
    assert model_of(name)["fusion"]["init_args"] == own | changed


def test_decode_once_keeps_the_recipes_own_exchange():
    """Else its row differs from that of exchange by more than where the decoder runs."""
    own = rooms()["model"]["init_args"]["fusion"]
    once = Prepared(["--config", yaml.safe_dump(applied(rooms(), "decode-once", KNOWN["decode-once"].overrides))])
    assert once.model.fusion == DecodeOnce(Exchange(**own["init_args"]))
    thin = applied(rooms(), "decode-once-low-rank", KNOWN["decode-once-low-rank"].overrides)["model"]["init_args"]
    assert (thin["convolutions"], thin["fusion"]["init_args"]) == ({"rank": 8}, {"within": own})


def test_what_cannot_be_varied_is_refused_with_a_remedy():
    without = applied(rooms(), "private-norms", KNOWN["private-norms"].overrides)
    with pytest.raises(ConfigError, match=r"'penalty'.*model.fusion is null.*Exchange"):
        applied(without, "penalty", KNOWN["penalty"].overrides)
    other = applied(rooms(), "asymmetric", KNOWN["asymmetric"].overrides)
    with pytest.raises(ConfigError, match=r"'copy'.*Asymmetric"):
        applied(other, "copy", KNOWN["copy"].overrides)
    with pytest.raises(ConfigError, match=r"'own' needs the setting data.colour"):
        applied(rooms(), "own", {"data.colour": 1})


def test_a_modality_alone_takes_what_is_said_of_it_by_name():
    """Else a recipe with a stem of depth's own has no row of rgb alone, which has no depth."""
    recipe_of_names = applied(rooms(), "exchange", {"model.stems": {"depth": "private"}})
    recipe_of_names["data"]["init_args"]["substitute"] = {"depth": "noise"}
    recipe_of_names["data"]["init_args"]["dropout"] = {"probability": {"rgb": 0.1, "depth": 0.1}, "rise": 2}
    alone = {name: applied(recipe_of_names, name, KNOWN[name].overrides) for name in ("rgb-alone", "depth-alone")}
    assert alone["rgb-alone"]["model"]["init_args"]["stems"] == {}
    assert alone["rgb-alone"]["data"]["init_args"]["substitute"] == {}
    assert alone["rgb-alone"]["data"]["init_args"]["dropout"] == {"probability": {"rgb": 0.1}, "rise": 2}
    assert alone["depth-alone"]["model"]["init_args"]["stems"] == {"depth": "private"}


def test_the_recipe_is_not_changed_by_applying_a_method():
    before = yaml.safe_dump(rooms())
    for name, method in KNOWN.items():
        applied(rooms(), name, method.overrides)
    assert yaml.safe_dump(rooms()) == before


QUICK = (
    "rgb-alone",
    "independent",
    "penalty",
    "exchange-random",
    "asymmetric",
    "attention-middle",
    "align-all",
    "copy",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in KNOWN]
)
def test_every_method_parses_against_the_rooms_recipe(name):
    changed = applied(rooms(), name, KNOWN[name].overrides)
    prepared = Prepared(["--config", yaml.safe_dump(changed)])
    assert prepared.settings == changed | {"model": prepared.settings["model"]}
    fusion = prepared.model.fusion
    exchange = getattr(fusion, "within", None) if isinstance(fusion, DecodeOnce) else fusion
    assert isinstance(exchange, Exchange) == ("model.fusion.within" in KNOWN[name].overrides)
    for key, value in ((changed["model"]["init_args"]["fusion"] or {}).get("init_args") or {}).items():
        assert key == "within" or getattr(fusion, key) == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    "kinds",
    [
        ("independent", "attention-middle"),
        pytest.param(("shared-norms", "exchange-random", "asymmetric", "align-all", "copy"), marks=pytest.mark.slow),
    ],
)
def test_a_network_of_each_kind_is_built_before_anything_trains(kinds):
    # Small, and without class weights, for which every label would be counted.
    plain = {"model.class_weights": None, "model.network_args": {"stem": 4, "widths": [4, 4, 4], "decoder": 4}}
    recipes = {name: applied(rooms(), name, plain | dict(KNOWN[name].overrides)) for name in kinds}
    assert _check_networks(recipes, named=[], of=len(recipes), data={}) == []


def test_a_network_that_cannot_be_built_is_refused_by_the_methods_name():
    wrong = applied(rooms(), "exchange", {"model.sites": ["nowhere*"]})
    with pytest.raises(ConfigError, match=r"method 'exchange' cannot be used with this recipe: .*nowhere"):
        _check_networks({"exchange": wrong}, named=["exchange"], of=1, data={})


@pytest.mark.parametrize(
    ("kinds", "refused"),
    [
        (("exchange", "shuffle", "shift"), ["shuffle", "shift"]),
        pytest.param(
            ("independent", "asymmetric", "shuffle", "shift", "concat-middle", "align-all"),
            ["asymmetric", "shuffle", "shift"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_of_a_group_what_the_translation_network_cannot_carry_is_left_out(kinds, refused, capsys):
    """If this breaks, baselines for translation cannot be compared, or one of them is missing without a word."""
    translation = Prepared(["--config", str(recipe("rooms-translation"))]).settings
    known = methods(translation["data"]["init_args"]["modalities"])
    small = {"model.network_args": {"filters": 2}}
    recipes = {name: applied(translation, name, small | dict(known[name].overrides)) for name in kinds}
    assert _check_networks(recipes, named=["baselines"], of=len(recipes), data={}) == refused
    assert "left out: the method 'shift' cannot be used with this recipe: An asymmetric" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="method 'shuffle' cannot be used"):
        _check_networks({"shuffle": recipes["shuffle"]}, named=["baselines", "shuffle"], of=len(recipes), data={})
    with pytest.raises(ConfigError, match="method 'shift' cannot be used"):
        _check_networks({"shift": recipes["shift"]}, named=["baselines"], of=1, data={})
    # Started again when the others' runs are finished, it must not fail.
    assert _check_networks({"shift": recipes["shift"]}, named=["baselines"], of=2, data={}) == ["shift"]


def test_a_fusion_of_ones_own_is_a_method_by_its_name(tmp_path, monkeypatch):
    """If this breaks, a new fusion cannot stand beside the others in a table without changing this package."""
    (tmp_path / "my_method.py").write_text(
        "from dataclasses import dataclass\nfrom polymodal.fusion import NormFusion\n\n"
        "@dataclass(frozen=True)\nclass Halve(NormFusion):\n    share: float = 0.5\n\n"
        "    def meet(self, x):\n        return x * self.share\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import my_method

    known = methods(["rgb", "depth"])
    assert choose(["own"], known) == ["halve"]
    assert imports(known) == ["--import", "my_method"]  # else the command on the page ends in an unknown method
    model = applied(rooms(), "halve", known["halve"].overrides)["model"]["init_args"]
    assert model["fusion"] == {"class_path": "my_method.Halve", "init_args": {}}
    monkeypatch.setattr(my_method.Halve, "name", "penalty")
    with pytest.raises(ConfigError, match="called like a method"):
        methods(["rgb", "depth"])
