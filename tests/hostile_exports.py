"""Exported files that lie about themselves, each made of a sound one."""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from polymodal.data import InputSpec, TargetSpec

_INPUTS = {
    "rgb": InputSpec(kind="image", channels=3),
    "depth": InputSpec(kind="depth", channels=1, scale=0.001, unit="m", invalid=0.0),
}
_TARGET = TargetSpec(
    kind="label", folder="label", classes=("a", "b", "c"), colors=((0, 0, 0), (255, 0, 0), (0, 0, 255))
)
SOUND: dict[str, Any] = {
    "format": 2,
    "modalities": {"rgb": 3, "depth": 1},
    "outputs": ["rgb", "depth", "ensemble"],
    "step": 1,
    "size": None,
    "folded": True,
    "metadata": {
        "inputs": {name: spec.as_dict() for name, spec in _INPUTS.items()},
        "target": _TARGET.as_dict(),
        "size": None,
        "training": {},
    },
}
"""What the sound file would say of itself."""

HUGE = 2**62
DESCRIPTIONS: dict[str, Any] = {
    "outputs": ["x/../../../y", "depth", "ensemble"],
    "outputs 2": ["ensemble"] * 3,
    "outputs 3": ["rgb", "ensemble"],
    "outputs 4": ["RGB", "rgb", "depth", "ensemble"],
    "outputs 5": "ensemble",
    "outputs 6": None,
    "outputs 7": [1, 2, 3],
    "modalities": {"rgb": 3},
    "modalities 2": {"depth": 3, "rgb": 1},
    "modalities 3": {"rgb": 3, "depth": 1, "thermal": 1},
    "modalities 4": {"../../x": 3, "depth": 1},
    "modalities 5": {"rgb": HUGE, "depth": 1},
    "modalities 6": {"rgb": True, "depth": "1"},
    "modalities 7": [3, 1],
    "modalities 8": {f"m{number}": 3 for number in range(9999)},
    "modalities 9": {},
    "format": 3,
    "format 2": "2",
    "format 3": None,
    "step": HUGE,
    "step 2": 0,
    "step 3": 1.5,
    "size": [HUGE, HUGE],
    "size 2": [16],
    "size 3": [-1, 16],
    "size 4": {"a": 1},
    "folded": "yes",
    "metadata": None,
    "metadata 2": [1],
    "metadata 3": {},
    "metadata inputs": {"../x": SOUND["metadata"]["inputs"]["rgb"]},
    "metadata inputs 2": {"rgb": {"kind": "image", "channels": HUGE}},
    "metadata inputs 3": {"rgb": None, "depth": None},
    "metadata inputs rgb mean": [float("nan")] * 3,
    "metadata inputs rgb std": [0.0, 0.0, 0.0],
    "metadata inputs rgb std 2": [1.0] * 9999,
    "metadata inputs rgb suffix": "/../../x",
    "metadata inputs depth scale": -1,
    "metadata inputs depth unit": {"a": 1},
    "metadata target kind": "os.system",
    "metadata target classes": ["../a", "/b"],
    "metadata target classes 2": ["a"] * 50_000,
    "metadata target colors": [[0, 0, 0], [999, -1, 0]],
    "metadata target colors 2": [],
    "metadata target 2": None,
    "metadata size": [HUGE, HUGE],
    "metadata size 2": [0, 0],
}
"""What a description says in the place of something right; a number behind it tells those of one key apart."""

TEXTS = ("", "{", "null", "[]", "3", '"x"', "[" * 50_000, '{"format": 2, "format": 2}', f'{{"format": {"9" * 5000}}}')
"""What stands where a description should."""


def _outside(path: str, **where: int) -> Callable[[onnx.ModelProto], object]:
    """The weights of a layer in another file."""

    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": path, **where}.items():
            tensor.external_data.add(key=key, value=str(value))

    return change


def _shape(model: onnx.ModelProto) -> None:
    """Images of another size than any that is announced."""
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.ClearField("dim_param")
        side.dim_value = 7


def _text(model: onnx.ModelProto) -> None:
    """An input of texts."""
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.STRING


def _before(kind: str, *sizes: int, **attributes: Any) -> Callable[[onnx.ModelProto], object]:
    """An operator between an image and what takes it."""

    def change(model: onnx.ModelProto) -> None:
        graph, image = model.graph, model.graph.input[0].name
        for node in graph.node:
            node.input[:] = ["grown" if name == image else name for name in node.input]
        given = [helper.make_tensor("sizes", onnx.TensorProto.INT64, [len(sizes)], sizes)] if sizes else []
        graph.initializer.extend(given)
        names = ["sizes"] if kind == "ConstantOfShape" else [image, "sizes"][: 1 + bool(sizes)]
        graph.node.insert(0, helper.make_node(kind, names, ["grown"], **attributes))

    return change


def _loop(model: onnx.ModelProto) -> None:
    """One that goes on as long as it is told to."""
    flag = helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, [])
    count = helper.make_tensor_value_info("count", onnx.TensorProto.INT64, [])
    body = helper.make_graph([], "body", [count, flag], [flag])
    model.graph.initializer.append(helper.make_tensor("often", onnx.TensorProto.INT64, [], [HUGE]))
    model.graph.node.insert(0, helper.make_node("Loop", ["often", ""], [], body=body))


def _functions(model: onnx.ModelProto) -> None:
    """Words of which each stands for two of the one before."""
    model.opset_import.add(domain="own", version=1)
    for number in range(40):
        kind = {"op_type": f"f{number - 1}", "domain": "own"} if number else {"op_type": "Relu"}
        nodes = [
            helper.make_node(inputs=["x"], outputs=["y"], **kind),
            helper.make_node(inputs=["y"], outputs=["z"], **kind),
        ]
        imports = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
        model.functions.append(helper.make_function("own", f"f{number}", ["x"], ["z"], nodes, imports))
    _before("f39", domain="own")(model)


ENDLESS: dict[str, Callable[[onnx.ModelProto], object]] = {
    "a loop": _loop,
    "functions": _functions,
    "texts that grow": _before("StringConcat"),
    "samples": _before("RoiAlign", sampling_ratio=2**31 - 1),
    "a tile": _before("Tile", 1, 1, 2**20, 2**20),
    "an expansion": _before("Expand", 2**30, 3, 16, 24),
    "a constant": _before("ConstantOfShape", 2**20, 3, 2**20, 2**10),
}
"""Graphs that a few bytes make take all time or memory that there is."""

GRAPHS: dict[str, Callable[[onnx.ModelProto], object]] = {
    "weights of the system": _outside("/etc/passwd"),
    "weights above": _outside("../../../../../../etc/passwd"),
    "weights of a device": _outside("/dev/zero"),
    "weights beyond an end": _outside("good/dataset.yaml", offset=HUGE, length=HUGE),
    "weights from a negative place": _outside("good/dataset.yaml", offset=-5),
    "opset 999": lambda model: setattr(model.opset_import[0], "version", 999),
    "opset 1": lambda model: setattr(model.opset_import[0], "version", 1),
    "opset -1": lambda model: setattr(model.opset_import[0], "version", -1),
    "words of another": lambda model: model.opset_import.add(domain="evil", version=1),
    "a word of another": lambda model: setattr(model.graph.node[0], "domain", "evil"),
    "an unknown word": lambda model: setattr(model.graph.node[0], "op_type", "System"),
    "a later version": lambda model: setattr(model, "ir_version", 999),
    "no outputs": lambda model: model.graph.ClearField("output"),
    "outputs in another order": lambda model: model.graph.output.reverse(),
    "no inputs": lambda model: model.graph.ClearField("input"),
    "a circle": lambda model: model.graph.node[0].input.append(model.graph.output[0].name),
    "weights that lie": lambda model: model.graph.initializer[0].dims.append(HUGE),
    "a size of its own": _shape,
    "texts": _text,
    "no description": lambda model: model.ClearField("metadata_props"),
    "two descriptions": lambda model: model.metadata_props.append(model.metadata_props[0]),
} | ENDLESS


def write_exported(box: Path) -> list[str]:
    """Write all of them to a folder; their names."""
    contents = {"sound": sound(), "text": b"some words", "empty": b""}
    whole = contents["sound"]
    contents |= {f"cut {part}": whole[: len(whole) * part // 10] for part in (1, 5, 9)}
    contents["zeros"] = whole[:2000] + bytes(3000) + whole[5000:]
    texts = {f"text {number}": text for number, text in enumerate(TEXTS)}
    for name, text in ({path: _described(path) for path in DESCRIPTIONS} | texts).items():
        model = onnx.ModelProto.FromString(whole)
        model.metadata_props[0].value = text
        contents[name] = model.SerializeToString()
    for name, change in GRAPHS.items():
        model = onnx.ModelProto.FromString(whole)
        change(model)
        contents[name] = model.SerializeToString()
    for number, content in enumerate(contents.values()):
        (box / f"exported{number}.onnx").write_bytes(content)
    os.mkfifo(box / "pipe.onnx")
    (box / "folder.onnx").mkdir()
    (box / "device.onnx").symlink_to("/dev/zero")
    return [*(f"exported{number}.onnx" for number in range(len(contents))), "pipe.onnx", "folder.onnx", "device.onnx"]


def write_endless(name: str, path: Path) -> None:
    """Write one of those that `ENDLESS` names."""
    model = onnx.ModelProto.FromString(sound())
    ENDLESS[name](model)
    path.write_bytes(model.SerializeToString())


def sound() -> bytes:
    """An exported network of rgb and depth that is what it says."""
    model = onnx.load(Path(__file__).parent / "saved" / "folded.onnx")
    model.metadata_props[0].value = json.dumps(SOUND)
    content: bytes = model.SerializeToString()
    return content


def _described(path: str) -> str:
    """The sound description with another value in one place."""
    content = copy.deepcopy(SOUND)
    place: Any = content
    *above, last = path.rstrip(" 0123456789").split()
    for key in above:
        place = place[key]
    place[last] = DESCRIPTIONS[path]
    return json.dumps(content)
