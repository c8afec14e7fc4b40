"""The methods that `polymodal compare` knows: each is a recipe with a few settings changed."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from polymodal.errors import ConfigError
from polymodal.fusion import Fusion
from polymodal.fusion.base import class_path, is_own, known_fusions
from polymodal.report.render import share
from polymodal.runs.overrides import Around

ABLATION = "ablation"
BASELINES = "baselines"
SHARED_AGGREGATION = "shared-aggregation"
EXTENSIONS = "extensions"
EXCHANGES = "exchanges"
OWN = "own"
ALL = "all"
PRIVATE_NORMS = {"model.norms": "private", "model.convolutions": "shared"}
EXCHANGE = PRIVATE_NORMS | {"model.fusion.within": "part", "model.fusion.share": None}
"""The recipe's own exchange, as the paper says."""

SHARE = 0.5
"""What is exchanged where a share is set by hand: in the middle, so that it favours nobody."""

RANK = 8
"""Of the private part of convolutions, where there is one."""

CEN = "Wang et al. 2020, arXiv 2011.05005"
ASYMFUSION = "Wang et al. 2020, arXiv 2108.05009"
TOKENFUSION = "Wang et al. 2022, arXiv 2204.08721"
CHANGER = "Fang et al. 2022, arXiv 2209.08290"
EXCHANGE_IS_ALL = "Dong et al. 2026, arXiv 2601.07805"

AGGREGATIONS = {
    "concat": "Features are concatenated and brought back to one stream by a 1×1 convolution",
    "average": "Features are averaged into one stream",
    "attention": "Features are fused into one stream by the self-attention of an SSMA block (Valada et al., IJCV 2020)",
}
STAGES = {
    "early": "after the first third of the encoder's stages",
    "middle": "after the second third of the encoder's stages",
    "late": "after the last stage of the encoder",
    "all": "after every stage of the encoder",
}
"""Where networks of their own meet, as a recipe's `sites` calls it."""


@dataclass(frozen=True)
class Method:
    """One way to treat the modalities, as a change of a recipe.

    Attributes:
        title: What tables call it.
        about: What it is, in a sentence, with its source.
        overrides: What it changes in a recipe, by dotted setting; a whole fusion is a dict of `class_path` and
            `init_args`, or None. A setting below `model.fusion` changes the recipe's own exchange.
        groups: The words that choose it along with others.
        matched: How it was scaled to cost what another does; empty where nobody asked for it.
    """

    title: str
    about: str
    overrides: Mapping[str, Any]
    groups: tuple[str, ...]
    matched: str = ""


def methods(modalities: Sequence[str]) -> dict[str, Method]:
    """All methods by name, in the order of tables.

    Args:
        modalities: Those of the recipe; the unimodal methods and the controls are named or made by them.

    Raises:
        ConfigError: There are fewer than two.
    """
    if len(modalities) < 2:
        raise ConfigError(
            f"data.modalities: expected two or more to compare how they are fused, got {', '.join(modalities)}."
        )
    rows = _ablation(modalities) | _exchanges() | _asymmetric() | _aggregation() | _alignment() | _extensions()
    rows |= _controls(modalities)
    own = _own()
    if taken := sorted(own.keys() & rows.keys()):
        raise ConfigError(
            f"the fusion {own[taken[0]].title!r} is called like a method that there is; give its class another `name`."
        )
    return rows | own


def _ablation(modalities: Sequence[str]) -> dict[str, Method]:
    shared = {"model.fusion": None, "model.convolutions": "shared"}
    rows: dict[str, tuple[str, str, dict[str, Any]]] = {
        f"{name}-alone": (f"{name} alone", f"One network of {name} alone.", shared | {"data.modalities": [name]})
        for name in modalities
    }
    rows |= {
        "independent": (
            "independent networks",
            f"Nothing is shared: a network for each modality, with the learned ensemble ({CEN}).",
            {"model.fusion": None, "model.norms": "private", "model.convolutions": "private"},
        ),
        "shared-norms": (
            "shared convolutions and norms",
            f"One network with one set of norms takes all modalities, with the learned ensemble ({CEN}).",
            shared | {"model.norms": "shared"},
        ),
        "private-norms": (
            "shared convolutions, private norms",
            f"One network takes all modalities, each with norms of its own; nothing is exchanged ({CEN}).",
            PRIVATE_NORMS | {"model.fusion": None},
        ),
        "penalty": (
            "L1 penalty, no exchange",
            f"As private-norms, with the recipe's λ on disjoint parts of the scales; nothing is exchanged ({CEN}).",
            EXCHANGE | {"model.fusion.threshold": 0.0},
        ),
        "exchange": (
            "exchange in disjoint parts",
            f"As penalty; channels with a scale below the recipe's θ, each modality's in its own part, come from the "
            f"others ({CEN}, eq. 6).",
            EXCHANGE,
        ),
        "exchange-all": (
            "exchange on all channels",
            f"As exchange, wherever a scale is below θ, inside the modality's part or not ({CEN}; its released code).",
            EXCHANGE | {"model.fusion.within": "all"},
        ),
        "exchange-random": (
            f"exchange of a random {share(SHARE)}",
            f"As private-norms; {share(SHARE)} of each modality's part, drawn once whatever the scales, comes from the "
            "others: the control for the choice by scales.",
            PRIVATE_NORMS | {"model.fusion": _fusion("RandomExchange", share=SHARE)},
        ),
        "exchange-share": (
            f"exchange of the smallest {share(SHARE)}",
            f"As exchange, but it is always the {share(SHARE)} smallest scales of each modality's part, whatever their "
            "size, whose channels come from the others.",
            EXCHANGE | {"model.fusion.share": SHARE},
        ),
    }
    return {
        name: Method(title, about, overrides, (ABLATION, BASELINES) if name == "exchange" else (ABLATION,))
        for name, (title, about, overrides) in rows.items()
    }


def _exchanges() -> dict[str, Method]:
    """Other exchanges than that of channels by their scales."""
    every = EXCHANGE | {"model.fusion.penalty": 0.0, "model.fusion.within": "all", "model.fusion.every": 2}
    changer = {"model.sites": "all", "model.fusion.axis": ["none", "column", "channel", "channel"]}
    layers = {
        "model.sites": "encoder",
        "model.fusion.every": 1,
        "model.fusion.axis": ["none", "channel", "none", "channel"],
    }
    rows: dict[str, tuple[str, str, dict[str, Any]]] = {
        "exchange-max": (
            "exchange, the largest of the others",
            "As exchange; of more than one other modality the largest value stands in, not the mean.",
            EXCHANGE | {"model.fusion.others": "max"},
        ),
        "exchange-every": (
            "exchange of every second channel",
            f"At the sites of exchange, every second channel comes from the others, whatever the scales ({CHANGER}).",
            every,
        ),
        "changer": (
            "ChangerEx: columns, then channels",
            f"Behind four stages nothing, every second column, twice every second channel is exchanged ({CHANGER}).",
            every | changer,
        ),
        "layer-exchange": (
            "exchange of whole layers",
            f"Of four maps the decoder reads every second one of the other modalities ({EXCHANGE_IS_ALL}).",
            every | layers,
        ),
        "token-exchange": (
            "exchange of tokens",
            f"Behind attention, tokens with a low learned score come from the others ({TOKENFUSION}), with λ of its "
            "code; for transformers.",
            _everywhere(_fusion("TokenExchange", penalty=6e-6)),
        ),
    }
    return {name: Method(title, about, overrides, (EXCHANGES,)) for name, (title, about, overrides) in rows.items()}


def _asymmetric() -> dict[str, Method]:
    rows = {
        "asymmetric": ("AsymFusion: shuffle and shift", "Channel shuffle and pixel shift", {}),
        "shuffle": ("channel shuffle", "Of AsymFusion the channel shuffle alone", {"shift": False}),
        "shift": ("pixel shift", "Of AsymFusion the pixel shift alone", {"shuffle": False}),
    }
    return {
        name: Method(
            title,
            f"{about}, in the last block of every stage, with shared convolutions and private norms ({ASYMFUSION}).",
            _everywhere(_fusion("Asymmetric", **settings)),
            (BASELINES,),
        )
        for name, (title, about, settings) in rows.items()
    }


def _aggregation() -> dict[str, Method]:
    rows = {}
    for operation, about in AGGREGATIONS.items():
        for stage, where in STAGES.items():
            own = _own_networks(_fusion("Aggregation", operation=operation), stage)
            rows[f"{operation}-{stage}"] = Method(
                f"{operation}, {stage}", f"{about} {where}, with networks of their own before.", own, (BASELINES,)
            )
            rows[f"{operation}-{stage}-shared"] = Method(
                f"{operation}, {stage}, shared convolutions",
                f"{about} {where}, with shared convolutions and private norms before.",
                own | {"model.convolutions": "shared"},
                (SHARED_AGGREGATION,),
            )
    return rows


def _extensions() -> dict[str, Method]:
    rows: dict[str, tuple[str, str, dict[str, Any]]] = {
        "decode-once": (
            "exchange, decode once",
            "As exchange, inside the encoder; the decoder reads one map of all modalities at every scale.",
            EXCHANGE | {"model.fusion": Around("DecodeOnce")},
        ),
        "private-norms-decode-once": (
            "private norms, decode once",
            "As decode-once without exchange.",
            PRIVATE_NORMS | {"model.fusion": _fusion("DecodeOnce", within=_fusion("NoFusion"))},
        ),
        "exchange-low-rank": (
            f"exchange, private part of rank {RANK}",
            f"As exchange; every convolution has a private part of rank {RANK} for each modality.",
            EXCHANGE | {"model.convolutions": {"rank": RANK}},
        ),
        "decode-once-low-rank": (
            f"exchange, decode once, private part of rank {RANK}",
            f"As decode-once; every convolution of the encoder has a private part of rank {RANK} for each modality.",
            EXCHANGE | {"model.convolutions": {"rank": RANK}, "model.fusion": Around("DecodeOnce")},
        ),
    }
    return {name: Method(title, about, overrides, (EXTENSIONS,)) for name, (title, about, overrides) in rows.items()}


def _alignment() -> dict[str, Method]:
    return {
        f"align-{stage}": Method(
            f"alignment, {stage}",
            f"Independent networks whose features are drawn together by an MMD loss {where}.",
            _own_networks(_fusion("Alignment"), stage),
            (BASELINES,),
        )
        for stage, where in STAGES.items()
    }


def _controls(modalities: Sequence[str]) -> dict[str, Method]:
    first, *others = modalities
    replaced = " and ".join(others)
    return {
        "noise": Method(
            f"exchange, {replaced} replaced by noise",
            f"The control for a second stream without a second sensor: {replaced} is noise, in training and scoring.",
            {**EXCHANGE, "data.substitute": dict.fromkeys(others, "noise")},
            (BASELINES,),
        ),
        "copy": Method(
            f"exchange, {replaced} replaced by {first}",
            f"The control for a second stream without a second sensor: {replaced} is a copy of {first}.",
            {**EXCHANGE, "data.substitute": dict.fromkeys(others, first)},
            (BASELINES,),
        ),
    }


def _own() -> dict[str, Method]:
    """A row for every fusion of a user's own that is imported and needs no settings."""
    return {
        fusion.name: Method(
            fusion.name,
            f"{class_path(fusion)} with its defaults, with shared convolutions and private norms.",
            _everywhere({"class_path": class_path(fusion), "init_args": {}}),
            (OWN,),
        )
        for fusion in known_fusions()
        if is_own(fusion) and "<locals>" not in fusion.__qualname__ and not _needs_settings(fusion)
    }


def _needs_settings(fusion: type[Fusion]) -> bool:
    if not is_dataclass(fusion):
        return False
    return any(field.init and field.default is MISSING and field.default_factory is MISSING for field in fields(fusion))


def _fusion(name: str, **settings: Any) -> dict[str, Any]:
    return {"class_path": f"polymodal.fusion.{name}", "init_args": settings}


def _everywhere(fusion: dict[str, Any]) -> dict[str, Any]:
    """A fusion at all sites that it finds, of a network with private norms."""
    return PRIVATE_NORMS | {"model.sites": "auto", "model.fusion": fusion}


def _own_networks(fusion: dict[str, Any], stage: str) -> dict[str, Any]:
    return {"model.norms": "private", "model.convolutions": "private", "model.sites": stage, "model.fusion": fusion}


def imports(known: Mapping[str, Method]) -> list[str]:
    """The options of the command line by which the fusions of a user's own among methods are known."""
    paths = [method.overrides["model.fusion"]["class_path"] for method in known.values() if OWN in method.groups]
    return [word for module in sorted({path.rpartition(".")[0] for path in paths}) for word in ("--import", module)]


def choose(words: Sequence[str], known: Mapping[str, Method]) -> list[str]:
    """The names that words mean, each a method, a group or `all`, in the order of tables.

    Raises:
        ConfigError: A word is neither, or there is none.
    """
    groups = {group for method in known.values() for group in method.groups}
    unknown = [word for word in words if word not in known and word not in groups | {ALL}]
    if unknown or not words:
        raise ConfigError(
            f"--methods: {'expected at least one' if not words else 'unknown: ' + ', '.join(map(repr, unknown))}. "
            f"There are {', '.join(known)}; and the groups {', '.join(sorted(groups))} and {ALL}."
        )
    wanted = set(words)
    return [name for name, method in known.items() if wanted & {ALL, name, *method.groups}]
