"""A network in an ONNX file that takes images as cameras and files hold them, and returns class numbers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polymodal.data.inputs import UNITS, InputSpec
from polymodal.data.parts import TargetSpec
from polymodal.data.transforms import resize_inputs
from polymodal.errors import ExportError, first_line
from polymodal.export.session import DESCRIPTION, DESCRIPTION_FORMAT, RAW, Session, needed_package, output_name
from polymodal.export.trials import Size

_STORED = {"8-bit": "uint8", "integer": "uint16", "floating-point": "float32"}

_AGREE = 0.999
"""Share of the pixels whose class must be that outside of the graph; logits that are nearly equal may round apart."""

_NETWORK = "network/"
"""How the names of what was there before begin."""


def stored_types(specs: Mapping[str, InputSpec], target: TargetSpec) -> dict[str, str]:
    """The types of numbers that a file takes for each modality.

    Raises:
        ExportError: A modality, or what is predicted, is of a kind that has no raw form.
    """
    if not target.classes:
        raise ExportError(f"raw: class numbers are returned, and the target is of kind {target.kind}. Leave --raw out.")
    types = {}
    for name, spec in specs.items():
        kind = f"uint{spec.bits or 8}" if spec.kind not in UNITS else _STORED.get(spec.stored, "")
        if spec.kind == "label" or spec.resize is not None or kind not in (*_STORED.values(),):
            how = "another resolution than the others" if spec.resize is not None else f"kind {spec.kind}"
            raise ExportError(
                f"raw: {name}: of {how}, stored as {spec.stored or 'nothing known'}; expected images, normals, or "
                "numbers whose stored form is known, of one resolution. Leave --raw out."
            )
        types[name] = kind
    return types


def take_raw(file: Path, specs: Mapping[str, InputSpec], target: TargetSpec, size: Size | None) -> None:
    """Put what is done to images before a network, and to its predictions behind it, into its file.

    Before: scale, missing values, resizing to `size`, mean and standard deviation, as for `polymodal predict`. Behind:
    resizing to the image's own size, and the most probable class.

    Args:
        file: As `save` wrote it; it is replaced.
        specs: What the values mean, by modality.
        target: What is predicted.
        size: Height and width that the network was trained at; None for the image's own.

    Raises:
        ExportError: A modality or the target has no raw form, or the file does not predict what was predicted before.
    """
    onnx = needed_package("onnx", "raw images", "export")
    types = stored_types(specs, target)
    if file.with_name(f"{file.name}.data").exists():
        raise ExportError("raw: the network is too large for one file, which --raw needs. Leave it out.")
    network = Session(file)
    model = onnx.compose.add_prefix(onnx.load(file), _NETWORK)
    graph = _Graph(onnx, model)
    taken = [graph.image(name, types[name], specs[name], size) for name in network.modalities]
    small = len(target.classes) <= 256
    made = [
        graph.classes(output_name(name), next(iter(network.modalities)), "uint8" if small else "uint16")
        for name in network.outputs
    ]
    for own, ports in ((model.graph.input, taken), (model.graph.output, made)):
        del own[:]
        own.extend(ports)
    entry = next(entry for entry in model.metadata_props if entry.key == DESCRIPTION)
    free = {} if size is None else {"step": 1, "size": None}
    about = json.loads(entry.value) | {"format": DESCRIPTION_FORMAT, RAW: types} | free
    entry.value = json.dumps(about)
    place = file.with_name("raw.onnx")
    onnx.save(model, place)
    _compare(Session(place), network, specs, size)
    place.replace(file)


class _Graph:
    """Nodes around those of a network.

    Args:
        onnx: The package.
        model: The network, whose names have the prefix `_NETWORK`.
    """

    def __init__(self, onnx: Any, model: Any) -> None:
        self._onnx, self._graph = onnx, model.graph
        self._before, self._count = 0, 0

    def image(self, name: str, kind: str, spec: InputSpec, size: Size | None) -> Any:
        """What stands before the network for a modality; returns the input (B, C, H, W)."""
        x = self._add("Cast", name, to=self._type("float32"))
        valid = self._measured(x, spec, floats=kind == "float32")
        mean, std = (self._constant(np.array(of, np.float32)[None, :, None, None]) for of in (spec.mean, spec.std))
        if spec.kind in UNITS:
            x = self._add("Mul", x, self._constant(np.float32(spec.scale))) if spec.scale != 1 else x
        elif kind != "float32":
            x = self._add("Div", x, self._constant(np.float32(np.iinfo(kind).max)))
            if spec.kind == "normal":
                one = self._constant(np.float32(1))
                x = self._add("Sub", self._add("Mul", x, self._constant(np.float32(2))), one)
        if valid:
            x = self._add("Where", valid, x, mean)
        if size is not None:
            sides, smooth = self._constant(np.array(size, np.int64)), spec.kind != "depth"
            x = self._resized(x, sides, smooth=smooth)
            if valid:
                share = self._resized(self._add("Cast", valid, to=self._type("float32")), sides, smooth=smooth)
                half = self._constant(np.float32(0.5))
                if smooth:  # holes hold the mean, which is taken out of the pixels beside them
                    x = self._add("Div", self._add("Sub", x, mean), self._add("Max", share, half))
                    x = self._add("Add", x, mean)
                valid = self._add("Greater", share, half)
        x = self._add("Div", self._add("Sub", x, mean), std)
        if valid:
            x = self._add("Where", valid, x, self._constant(np.float32(0)))
        self._add("Identity", x, made=_NETWORK + name)
        return self._port(name, kind, ["batch", spec.channels, "height", "width"])

    def classes(self, name: str, image: str, kind: str) -> Any:
        """What stands behind a prediction; returns the output (B, H, W), of the size of an image."""
        self._before = len(self._graph.node)
        sides = self._add("Shape", image, start=2, end=4)
        logits = self._add(
            "Resize", _NETWORK + name, "", "", sides, mode="linear", coordinate_transformation_mode="half_pixel",
            axes=[2, 3],
        )  # fmt: skip
        self._add("Cast", self._add("ArgMax", logits, axis=1, keepdims=0), to=self._type(kind), made=name)
        return self._port(name, kind, ["batch", "height", "width"])

    def _measured(self, x: str, spec: InputSpec, *, floats: bool) -> str:
        """Where something was measured, (B, 1, H, W); empty where it always was."""
        missing = []
        if spec.invalid is not None and not np.isnan(spec.invalid):
            same = self._add("Equal", x, self._constant(np.float32(spec.invalid)))
            missing.append(self._over_channels("ReduceMin", same))
        if floats:
            odd = self._add("Or", self._add("IsNaN", x), self._add("IsInf", x))
            missing.append(self._over_channels("ReduceMax", odd))
        if not missing:
            return ""
        return self._add("Not", missing[0] if len(missing) == 1 else self._add("Or", *missing))

    def _over_channels(self, operator: str, x: str) -> str:
        number = self._add("Cast", x, to=self._type("uint8"))
        reduced = self._add(operator, number, self._constant(np.array([1], np.int64)), keepdims=1)
        return self._add("Cast", reduced, to=self._onnx.TensorProto.BOOL)

    def _resized(self, x: str, sides: str, *, smooth: bool) -> str:
        how: dict[str, Any] = {"axes": [2, 3], "coordinate_transformation_mode": "half_pixel"}
        if smooth:
            # What lies outside has no weight, as in torch and Pillow.
            return self._add("Resize", x, "", "", sides, mode="linear", antialias=1, exclude_outside=1, **how)
        return self._add("Resize", x, "", "", sides, mode="nearest", nearest_mode="round_prefer_ceil", **how)

    def _add(self, operator: str, *inputs: str, made: str = "", **attributes: Any) -> str:
        """Add a node; returns the name of what it makes."""
        name = made or self._name(operator)
        self._graph.node.insert(self._before, self._onnx.helper.make_node(operator, inputs, [name], **attributes))
        self._before += 1
        return name

    def _constant(self, value: np.ndarray | np.generic) -> str:
        name = self._name("constant")
        self._graph.initializer.append(self._onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def _name(self, what: str) -> str:
        self._count += 1
        return f"raw/{what}{self._count}"

    def _type(self, kind: str) -> int:
        return self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))

    def _port(self, name: str, kind: str, shape: list[str | int]) -> Any:
        return self._onnx.helper.make_tensor_value_info(name, self._type(kind), shape)


def _compare(made: Session, network: Session, specs: Mapping[str, InputSpec], size: Size | None) -> None:
    """Refuse a file that predicts other classes than the network behind the same steps in Python."""
    random = np.random.default_rng(0)
    sides = (network.step * 3, network.step * 4) if network.size is None else network.size
    if size is not None:
        sides = size[0] * 3 // 2 + 1, size[1] * 2 // 3 + 1
    raw = {name: _stored(spec, made.raw[name], sides, random) for name, spec in specs.items()}
    images, _ = resize_inputs(raw, specs, {name: name for name in specs}, size)
    try:
        found = made({name: image[None] for name, image in raw.items()})
        expected = network({name: image[None] for name, image in images.items()})
    except Exception as error:  # ONNX Runtime's, of no common class
        raise ExportError(f"raw: the file fails: {first_line(error)} Nothing was written. Leave --raw out.") from error
    for name, logits in expected.items():
        full = torch.nn.functional.interpolate(torch.from_numpy(logits), size=sides, mode="bilinear")
        agree = float((full.argmax(1).numpy() == found[name]).mean())
        if agree < _AGREE:
            raise ExportError(
                f"raw: the file predicts another class than the network for {1 - agree:.2%} of the pixels of {name!r}. "
                "Nothing was written. Leave --raw out."
            )


def _stored(spec: InputSpec, kind: str, sides: Size, random: np.random.Generator) -> np.ndarray:
    """An image (C, H, W) of numbers about as far apart as those of the training, some of them missing."""
    shape = (spec.channels, *sides)
    mean, std = (np.array(of)[:, None, None] for of in (spec.mean, spec.std))
    values = mean + std * random.standard_normal(shape)
    if spec.kind in UNITS:
        values = values / spec.scale
    elif kind != "float32":
        values = (values + 1) / 2 if spec.kind == "normal" else values
        values = values * np.iinfo(kind).max
    if kind != "float32":
        values = np.clip(np.rint(values), 0, np.iinfo(kind).max)
    if spec.invalid is not None:
        values[:, random.random(sides) < 0.1] = spec.invalid
    return values.astype(kind)
