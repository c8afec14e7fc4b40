"""How a network was made multimodal: said once by `fuse`, held by the network, and written beside its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from polymodal.errors import FusionError
from polymodal.fusion import Fusion, make_fusion

_OWN_OR_ONE = ("private", "shared")


@dataclass(frozen=True)
class FuseSettings:
    """What `fuse` found and did, which as its arguments makes the same network again: `fuse(plain, **vars(settings))`.

    Attributes:
        modalities: The channels of each modality, in order; None for those of the network, whatever they are.
        fusion: How modalities meet.
        sites: The dotted names of the plain network's layers at which they do.
        stems: `"repeat"` or `"private"` for each modality.
        norms: `"private"` or `"shared"`.
        convolutions: `"shared"`, `"private"`, or the `rank` of a private part and the `sites`, the names of the
            convolutions that have one.
        statistics: `"batch"`, or the names of the norms whose statistics are frozen.

    Raises:
        FusionError: When norms or convolutions are something else.
    """

    modalities: Mapping[str, int | None]
    fusion: Fusion
    sites: tuple[str, ...]
    stems: Mapping[str, str]
    norms: str = "private"
    convolutions: str | Mapping[str, Any] = "shared"
    statistics: Literal["batch"] | tuple[str, ...] = "batch"

    def __post_init__(self) -> None:
        if self.norms not in _OWN_OR_ONE:
            raise FusionError(f'norms: expected "private" or "shared", got {self.norms!r}.')
        if not isinstance(self.convolutions, Mapping) and self.convolutions not in _OWN_OR_ONE:
            raise FusionError(
                f'convolutions: expected "private" or "shared", or a rank such as {{"rank": 8}}, got '
                f"{self.convolutions!r}."
            )

    @property
    def low_rank(self) -> tuple[int, tuple[str, ...]]:
        """The rank of the private parts of convolutions, and the names of those that have one; 0 of none."""
        if not isinstance(self.convolutions, Mapping):
            return 0, ()
        return self.convolutions["rank"], tuple(self.convolutions["sites"])

    @property
    def private_stems(self) -> frozenset[str]:
        """The modalities that have a first convolution of their own."""
        return frozenset(name for name, way in self.stems.items() if way == "private")

    @property
    def frozen(self) -> frozenset[str]:
        """The names of the norms whose statistics are frozen."""
        return frozenset() if self.statistics == "batch" else frozenset(self.statistics)

    def as_config(self) -> dict[str, Any]:
        """The settings in types that JSON knows."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {**plain, "fusion": self.fusion.as_config()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The settings that `as_config` wrote. A user's own fusion is found if its module is imported.

        Raises:
            FusionError: When a setting is missing or out of its range, or the fusion cannot be made.
        """
        for field in fields(cls):
            if field.name not in config:
                raise FusionError(f"fuse.{field.name}: missing. Restore the file, or save again.")
        said: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in config.items()
        }
        return cls(**{**said, "fusion": _fusion(config["fusion"])})


def _fusion(config: Any) -> Fusion:
    try:
        said = dict(config)
        path = said.pop("class_path", None)
        fusion = make_fusion(said.pop("name"), class_path=path, settings=said)
    except (FusionError, KeyError, TypeError, ValueError) as error:
        raise FusionError(f"fuse.fusion cannot be made: {error}") from error
    # Of ours, all was written from the beginning; a user's own may have learned more since.
    if missing := _missing(fusion.as_config(), config):
        raise FusionError(f"fuse.fusion.{missing}: missing. Restore the file, or save again.")
    return fusion


def _missing(written: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    """The first setting of a fusion, or of one within it, that a configuration does not say; empty if it says all."""
    if "class_path" in said:
        return ""
    for key, value in written.items():
        if key not in said:
            return key
        if isinstance(value, Mapping) and "name" in value and (below := _missing(value, said[key])):
            return f"{key}.{below}"
    return ""
