"""What is to be predicted, as tensors; an image's values are scaled to -1..1 by a stated range, and back.

One linear rule for every kind of image, so that a generator with a tanh can reach all of it: the ends of
`TargetSpec.range` become -1 and 1, and what lies beyond them counts as the end.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from polymodal.data.content import honouring
from polymodal.data.inputs import ENDS, ROUNDING, UNITS, InputSpec, prepare_input, stored, where_measured
from polymodal.data.parts import CHANNELS, TargetSpec
from polymodal.data.spec import FILE, DatasetSpec
from polymodal.data.undeclared import warn_of_undeclared
from polymodal.errors import DataError

_LOOKED_AT = 8
"""So many files at most are searched for a value within the range; the first has one in most data sets."""


@dataclass(frozen=True)
class Truth:
    """A target of one sample, as its file holds it.

    Attributes:
        raw: (C, H, W); of labels (1, H, W), class numbers and the ignored value.
        meaning: What the values mean.
        file: Its name, for messages.
    """

    raw: np.ndarray
    meaning: TargetSpec
    file: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.raw.shape[-2], self.raw.shape[-1]

    def prepared(self) -> tuple[Tensor, Tensor | None]:
        """For evaluation: labels, int64 (H, W), and nothing beside them; or an image as of `prepare_target`."""
        if self.meaning.kind == "label":
            return torch.from_numpy(self.raw[0].astype(np.int64)), None
        return prepare_target(self.raw, self.meaning, self.file)


def nothing_of(target: TargetSpec, size: tuple[int, int]) -> Truth:
    """What a sample of a size holds of a target that it lacks: not a pixel that counts."""
    if target.kind == "label":
        return Truth(np.full((1, *size), target.ignore), target, f"no {target.name}")
    raw = np.full((target.channels, *size), np.nan, np.float32)
    return Truth(raw, replace(target, bits=None, invalid=None, stored=""), f"no {target.name}")


def settle_targets(spec: DatasetSpec) -> dict[str, TargetSpec]:
    """The targets by name, each as `settle_target` returns it.

    Raises:
        DataError: As of each.
    """
    return {name: settle_target(spec, target) for name, target in spec.targets.items()}


def settle_target(spec: DatasetSpec, target: TargetSpec) -> TargetSpec:
    """A target of a data set with its channels and its range; one of kind label as it is.

    The channels are those of the first file. Without a declared range, image is 0 to 1 (full scale) and normal -1 to 1;
    8-bit files of depth or raw hold at most 255 * scale, so 0 to that.

    Raises:
        DataError: When the file cannot be read or has channels that the kind cannot have, a range is needed and not
            declared, or predictions could not be written as PNG files that mean the same.
    """
    if target.kind == "label":
        return target
    key = next((key for key in spec.all_keys if not spec.lacks(target, key)), None)
    if key is None:
        raise DataError(
            f"{spec.store.where(FILE)}: targets.{target.name}: no sample has it. Leave it out, or add files."
        )
    file = spec.file(target, key)
    where = spec.store.where(file)
    content = spec.content(target, file)
    raw = content.channels(None, where)
    channels = raw.shape[0]
    needed = CHANNELS.get(target.kind, channels)
    if channels != needed:
        raise DataError(f"{where}: expected {needed} channel(s) for a target of kind {target.kind}, got {channels}.")
    low, high = target.range or (0, 1)
    fits = 0 <= low < high <= 1 if target.kind == "image" else target.kind == "normal"
    if not fits and raw.dtype.name not in ("bool", "uint8", "uint16"):
        raise DataError(
            f"{where}: predictions are written as PNG files, which cannot hold a target of kind "
            f"{target.kind} in {raw.dtype}. Store it with 8 or 16 bits, unsigned; depth and raw values in steps that "
            "`scale` declares, such as 0.001."
        )
    meant = honouring(target, content)
    check_ends(raw, meant, where)
    warn_of_undeclared(raw, InputSpec.of(meant, channels), spec.store.where(target.folder))
    span = target.range or ENDS.get(target.kind)
    if span is None:
        if raw.dtype != np.uint8:
            raise DataError(
                f"{spec.store.where(FILE)}: {target.folder}: a target of kind {target.kind} in {raw.dtype} files needs "
                f"a range, such as `range: [0, 10]`{f' in {target.unit}' if target.unit else ''}: it is scaled by it."
            )
        span = (0.0, 255 * target.scale)
    most = {"bool": 1, "uint8": 255}.get(raw.dtype.name, 65535) * target.scale if target.kind in UNITS else 1.0
    if span[1] > 2 * most:
        raise DataError(
            f"{spec.store.where(FILE)}: {target.folder}: the range reaches {span[1]:g}, and values in {raw.dtype} "
            f"files {most:g} at most, so all truth would lie near one end. State it in "
            f"{'the unit that `scale` leads to' if target.kind in UNITS else 'shares of full scale, 0 to 1'}."
        )
    settled = replace(target, channels=channels, range=span, stored=stored(raw) if target.kind in UNITS else "")
    bits = stored_bits(settled)
    room = 1 if bits == 16 else 4
    if channels > room:
        raise DataError(
            f"{where}: predictions are written as PNG files, which have up to four channels of 8 bits "
            f"or one of 16. Expected {room} channel(s) or fewer with {bits} bits, got {channels}."
        )
    if settled.kind in UNITS and all(_beyond(spec, settled, key) for key in _some(spec, settled)):
        raise DataError(
            f"{spec.store.where(FILE)}: {target.folder}: no value of the files that were looked at lies within the "
            f"target's range, {span[0]:g} to {span[1]:g}, so all truth would be one value. Mend `scale` or `range`."
        )
    return settled


def _some(spec: DatasetSpec, target: TargetSpec) -> list[str]:
    """A few of the samples that have a target."""
    keys = [key for key in spec.all_keys if not spec.lacks(target, key)]
    return keys[:: -(-len(keys) // _LOOKED_AT)]


def _beyond(spec: DatasetSpec, target: TargetSpec, key: str) -> bool:
    """Whether something was measured in a file, and all of that lies beyond the target's range."""
    file = spec.file(target, key)
    content, where = spec.content(target, file), spec.store.where(file)
    scaling = target_scaling(honouring(target, content))
    values, valid = prepare_input(content.channels(target.channels, where), scaling, where)
    return bool(valid.any()) and bool((values.abs() > 1 + ROUNDING)[valid.expand_as(values)].all())


def check_ends(raw: np.ndarray, target: TargetSpec, where: str) -> None:
    """Refuse floating-point values that would be cut off at an end of full scale, and half a truth with them."""
    if target.kind not in ENDS or raw.dtype.kind != "f":
        return
    known = where_measured(raw, InputSpec.of(target, len(raw)))
    values = raw if known is None else raw[:, known[0]]
    least, most = values.min(initial=0), values.max(initial=0)
    low, high = ENDS[target.kind]
    above = most > high + ROUNDING
    if above or least < low - ROUNDING:
        reach = f"reach {most:g}" if above else f"fall to {least:g}"
        raise DataError(
            f"{where}: its values {reach}, and {target.kind}s in {raw.dtype} count from {low:g} to {high:g}. Scale "
            "them to that, or store them with 8 or 16 bits."
        )


def stored_bits(target: TargetSpec) -> int:
    """The bits, 8 or 16, of the PNG files that predictions are written to.

    Depth and raw have those that their values need; one channel of another kind has those that dataset.yaml declares,
    and several have 8.

    Args:
        target: As `settle_target` returns it.
    """
    if target.kind in ("depth", "raw"):
        assert target.range is not None, "settle_target comes first"
        return 16 if target.bits == 16 or max(target.range) / target.scale > 255 else 8
    return 16 if target.bits == 16 and target.channels == 1 else 8


def target_scaling(target: TargetSpec) -> InputSpec:
    """How files of the target become -1..1: the range as mean and standard deviation of an input.

    Args:
        target: As `settle_target` returns it.
    """
    assert target.range is not None, "settle_target comes first"
    low, high = target.range
    return replace(
        InputSpec.of(target, target.channels),
        mean=((low + high) / 2,) * target.channels,
        std=((high - low) / 2,) * target.channels,
        stored=target.stored,
    )


def prepare_target(raw: np.ndarray, target: TargetSpec, file: str) -> tuple[Tensor, Tensor]:
    """A file's content as a target.

    Args:
        raw: (C, H, W) as `read_array` gives it.
        target: As `settle_target` returns it.
        file: Its name, for messages.

    Returns:
        float32 (C, H, W) from -1 to 1, 0 where there is no truth, and the bool mask (1, H, W) of where there is.

    Raises:
        DataError: When the channels or the type of the file are not those of `target`.
    """
    values, valid = prepare_input(raw, target_scaling(target), file)
    return values.clamp_(-1, 1), valid


def restore_target(scaled: Tensor, target: TargetSpec) -> Tensor:
    """The inverse of the scaling: values from -1 to 1 as values in the target's unit (image: 0 to 1).

    Args:
        scaled: (..., C, H, W).
        target: As `settle_target` returns it.
    """
    assert target.range is not None, "settle_target comes first"
    low, high = target.range
    return torch.lerp(torch.full_like(scaled, low), torch.full_like(scaled, high), (scaled + 1) / 2)
