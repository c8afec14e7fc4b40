"""Networks that leave Python: files that predict what the network does, or no file at all."""

import contextlib
import copy
import io
import json
import sys
from collections.abc import Callable
from functools import partial, partialmethod
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from core_tools import assert_equal, assert_same_state, randomize_norms
from fixtures_data import Described
from polymodal import Exchange, checkpoint, export, fuse, models
from polymodal.cli import main
from polymodal.costs import Cost
from polymodal.errors import CheckpointError, ConfigError, DataError, ExportError
from polymodal.export import formats, half
from polymodal.export.sizes import name_sizes
from polymodal.fusion import Aggregation
from polymodal.runs.evaluation import save_model
from polymodal.runs.predict import predict

FILES = {"onnx": ["net.onnx"], "pt2": ["net.pt2"], "openvino": ["net.xml", "net.bin"]}
"""What is written of each format, the file that is asked for first."""


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def need(format: str) -> None:
    kind = formats.FORMATS[format]
    for package in kind.packages:
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'polymodal[{kind.extra}]'")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of a small network that exchanges."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    arguments = {"classes": 3, "stem": 4, "widths": [6], "decoder": 6}
    net = fuse(models.create("rooms-unet", **arguments), {"depth": 1, "rgb": 3}, Exchange(share=0.5))
    facts = {"seconds": 1.0, "epochs": 1, "seed": 0}
    save_model(randomize_norms(net).eval(), "rooms-unet", arguments, Described(), facts, folder / "model")
    return folder


@pytest.fixture(scope="module")
def said(run, tmp_path_factory):
    """The folder of its network as ONNX, plain and folded, and what was said by the commands."""
    need("onnx")
    folder = tmp_path_factory.mktemp("exported") / "new"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        for name, words in (("plain", []), ("folded", ["--fold"])):
            assert main(["export", str(run), str(folder / f"{name}.onnx"), *words]) == 0
    return folder, said.getvalue()


@pytest.fixture(scope="module")
def files(said):
    """Its files, by whether it is folded."""
    folder, _ = said
    return {False: folder / "plain.onnx", True: folder / "folded.onnx"}


def tiny() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    return randomize_norms(fuse(network, ["a", "b"], Exchange(threshold=0.6), sites="1")).eval()


def refused(words, capsys):
    """The one message of a command that must end with status 2."""
    assert main([str(word) for word in words]) == 2
    message = capsys.readouterr().err
    assert message.startswith("polymodal: ")
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize("folded", [False, True])
def test_session_predicts_what_the_network_does_for_any_batch_and_size(run, files, folded):
    """If this breaks, a deployed network gives other numbers, or takes one size alone."""
    net, session = checkpoint.load(run / "model"), export.Session(files[folded], threads=1)
    assert session.modalities == {"depth": 1, "rgb": 3}
    assert session.outputs == ("depth", "rgb", "ensemble")
    assert session.absorbed == folded
    for batch, size in ((1, (31, 45)), (2, (64, 40))):
        inputs = {"rgb": torch.randn(batch, 3, *size), "depth": torch.randn(batch, 1, *size)}
        with torch.no_grad():
            expected = net(inputs)
        found = session({name: image.numpy() for name, image in inputs.items()})
        for name, output in {**expected.per_modality, "ensemble": expected.ensemble}.items():
            assert_equal([torch.from_numpy(found[name])], [output], 1e-4, name)


def test_file_names_its_inputs_and_outputs_and_says_how_to_prepare_them(run, files):
    """If this breaks, nobody can use the file without the folder that it came from."""
    import onnxruntime

    session = onnxruntime.InferenceSession(files[True], providers=["CPUExecutionProvider"])
    assert [put.name for put in session.get_inputs()] == ["depth", "rgb"]
    assert [put.name for put in session.get_outputs()] == [
        f"prediction_{name}" for name in ("depth", "rgb", "ensemble")
    ]
    described = json.loads(session.get_modelmeta().custom_metadata_map["polymodal"])
    assert described["metadata"] == checkpoint.read_config(run / "model")["metadata"]
    assert described["step"] == 1


def test_file_names_no_folder_of_whoever_wrote_it(files):
    """If this breaks, who publishes a model publishes the paths of their machine, and the file grows by half."""
    source = str(Path(export.__file__).parent).encode()
    for file in files.values():
        assert source not in file.read_bytes()


def test_masks_of_a_file_are_those_of_the_run(run, files, tmp_path):
    """If this breaks, `predict` says something else of an exported network than of the network itself."""
    numbers = np.random.default_rng(0)
    Image.fromarray(numbers.integers(0, 256, (37, 50, 3), np.uint8)).save(tmp_path / "rgb.png")
    Image.fromarray(numbers.integers(0, 4000, (37, 50)).astype(np.uint16)).save(tmp_path / "depth.png")
    words = ["--input", f"rgb={tmp_path / 'rgb.png'}", f"depth={tmp_path / 'depth.png'}"]
    for name, model in {"run": run, "plain": files[False], "folded": files[True]}.items():
        assert main(["predict", "--model", str(model), *words, "--out", str(tmp_path / name)]) == 0
    for file in (tmp_path / "run").iterdir():
        mask = np.array(Image.open(file))
        for name in ("plain", "folded"):
            assert (np.array(Image.open(tmp_path / name / file.name)) == mask).mean() > 0.999
    with pytest.raises(ConfigError, match=r"no input for depth.*depth, rgb.*model folder"):
        predict(files[True], {"rgb": tmp_path / "rgb.png"}, tmp_path / "out", subset=True)


def test_example_of_the_documentation_runs(run, files, monkeypatch):
    """If this breaks, who deploys without this library prepares the inputs in another way than it was trained with."""
    text = (Path(__file__).parents[1] / "docs" / "deployment.md").read_text(encoding="utf-8")
    example = next(block for block in text.split("```python\n")[1:] if "onnxruntime" in block).partition("```")[0]
    monkeypatch.chdir(files[True].parent)
    (files[True].parent / "net.onnx").write_bytes(files[True].read_bytes())
    numbers = np.random.default_rng(0)
    names = {"rgb": numbers.integers(0, 256, (3, 37, 50)), "depth": numbers.integers(1, 4000, (1, 37, 50))}
    exec(example, names)
    inputs = {
        "rgb": (torch.from_numpy(names["rgb"]) / 255 - 0.5).float() / 0.2,
        "depth": (torch.from_numpy(names["depth"]) * 0.001 - 2.0).float(),
    }
    with torch.no_grad():
        expected = checkpoint.load(run / "model")({name: image[None] for name, image in inputs.items()}).ensemble
    assert (names["mask"] == expected.argmax(1).numpy()).mean() > 0.999


def test_saving_is_told(said):
    """If this breaks, a user does not know what absorbing was good for."""
    folder, shown = said
    assert "multiply-accumulates" in shown
    beside = {"net.onnx"}  # the copy that the documentation's example reads
    assert {file.name for file in folder.iterdir()} - beside == {"folded.onnx", "plain.onnx"}
    cost = Cost(parameters=5, macs=7)
    assert "(0.0%)" in str(export.Saving(cost, cost))
    assert "(-14.3%)" in str(export.Saving(cost, Cost(parameters=9, macs=6)))


def test_a_format_of_ones_own_is_known_by_its_name(monkeypatch):
    """If this breaks, a format in a user's file is none for `export --format`, whatever it imports."""
    monkeypatch.setattr(formats, "FORMATS", dict(formats.FORMATS))

    class Listing(formats.Format):
        name = "listing"
        ending = ".txt"

        def write(self, program, file, description):
            raise NotImplementedError

    assert isinstance(formats.format_for("listing", Path("net.txt")), Listing)
    with pytest.raises(ExportError, match=r"there is no 'list'; there are onnx, pt2, openvino, listing"):
        formats.format_for("list", Path("net.txt"))


def opened(format: str, file: Path) -> tuple[dict, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]]:
    """What a file says of itself, and what runs it, both without this library."""
    if format == "pt2":
        extra = {"polymodal.json": ""}
        module = torch.export.load(file, extra_files=extra).module()
        return json.loads(extra["polymodal.json"]), module
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        about = session.get_modelmeta().custom_metadata_map["polymodal"]
        run, names = partial(session.run, None), [output.name for output in session.get_outputs()]
    else:
        import openvino

        core = openvino.Core()
        model = core.read_model(file)
        about = model.get_rt_info(["polymodal"]).astype(str)
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        names = [output.get_any_name() for output in compiled.outputs]
        run = lambda images: list(compiled(images).values())  # noqa: E731

    def predict(images: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = run({name: image.numpy() for name, image in images.items()})
        return {name: torch.from_numpy(output) for name, output in zip(names, found, strict=True)}

    return json.loads(about), predict


@pytest.mark.parametrize(
    ("format", "folded"), [("pt2", False), ("onnx", True), slow("pt2", True), slow("openvino", True)]
)
def test_file_runs_without_this_library(format, folded, tmp_path):
    """If this breaks, an exported file needs polymodal, predicts something else, or does not say how to use it."""
    need(format)
    net = tiny()
    written = export.save(
        export.absorb(net) if folded else net, tmp_path / FILES[format][0], format=format, metadata={"note": "é"}
    )
    assert written == [tmp_path / name for name in FILES[format]]
    assert sorted(written) == sorted(tmp_path.iterdir())
    about, predict = opened(format, written[0])
    assert about == {
        "format": 2,
        "modalities": {"a": 2, "b": 2},
        "outputs": ["a", "b", "ensemble"],
        "step": 1,
        "size": None,
        "folded": folded,
        "metadata": {"note": "é"},
    }
    inputs = {name: torch.randn(3, 2, 9, 14) for name in ("a", "b")}
    with torch.no_grad():
        found, expected = predict(inputs), net(inputs)
    assert_equal([found["prediction_ensemble"]], [expected.ensemble], 1e-5)
    assert_equal([found["prediction_b"]], [expected.per_modality["b"]], 1e-5)


def test_weights_that_onnx_keeps_beside_the_file_come_with_it(tmp_path, monkeypatch):
    """If this breaks, a large network is exported as a file without weights."""
    need("onnx")
    whole = torch.onnx.ONNXProgram.save
    apart = partialmethod(lambda made, file, external_data: whole(made, file, external_data=True))
    monkeypatch.setattr(torch.onnx.ONNXProgram, "save", apart)
    written = export.save(tiny(), tmp_path / "net.onnx")
    assert [file.name for file in written] == ["net.onnx", "net.onnx.data"]
    assert sorted(written) == sorted(tmp_path.iterdir())
    export.Session(written[0], threads=1)({name: torch.zeros(1, 2, 8, 8) for name in ("a", "b")})


@pytest.mark.parametrize("format", ["pt2", slow("onnx"), slow("openvino")])
def test_failed_check_writes_no_file(format, tmp_path, monkeypatch):
    """If this breaks, a wrong file takes the place of a good one."""
    need(format)
    monkeypatch.setattr(formats, "TOLERANCE", -1.0)
    for name in FILES[format]:
        (tmp_path / name).write_text("the good one")
    with pytest.raises(ExportError, match=r"does not predict what the network does: 'a'.*Nothing was written"):
        export.save(tiny(), tmp_path / FILES[format][0], format=format)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == dict.fromkeys(FILES[format], "the good one")


@pytest.mark.parametrize(
    ("names", "fusion", "wrong"),
    [
        (["ensemble", "b"], Exchange(), "ensemble"),
        (["a", "prediction_a"], Exchange(), "prediction_a"),
        (["a", "prediction_ensemble"], Aggregation("average"), "prediction_ensemble"),
        slow(["ensemble", "prediction_a"], Aggregation("average"), None),
    ],
)
def test_a_name_that_two_values_of_a_file_would_have_is_refused(names, fusion, wrong, tmp_path):
    """If this breaks, a prediction is silently that of another name, or the file cannot be opened."""
    network = models.create("rooms-unet", classes=3, stem=4, widths=[6], decoder=6)
    net = fuse(network, names, fusion, sites="auto" if isinstance(fusion, Exchange) else "late").eval()
    if wrong is None:
        assert export.save(net, tmp_path / "net.pt2", format="pt2")
        return
    with pytest.raises(ExportError, match=rf"modality '{wrong}': .*prediction_ensemble.*another name"):
        export.save(net, tmp_path / "new" / "net.pt2", format="pt2")
    assert not list(tmp_path.iterdir())


def test_a_name_that_no_reader_of_the_file_takes_is_refused_by_name(tmp_path):
    """If this breaks, the file is called damaged, and the size of the images is blamed."""
    with pytest.raises(ExportError, match="modality 'near ir': expected a name of up to 200 letters"):
        formats.Onnx().write(None, tmp_path / "net.onnx", {"modalities": {"near ir": 3}, "outputs": ["ensemble"]})


def test_metadata_that_json_does_not_know_are_refused_before_any_work(tmp_path, monkeypatch):
    """If this breaks, minutes pass, and then the size of the images is blamed."""
    monkeypatch.setattr(formats, "captured", None)
    with pytest.raises(ExportError, match="metadata: expected types that JSON knows, and Object of type object"):
        export.save(tiny(), tmp_path / "net.onnx", metadata={"classes": object()})


def test_saving_leaves_the_network_and_the_random_numbers_alone(tmp_path):
    """If this breaks, a training that exports now and then cannot be repeated."""
    net = tiny().train()
    before, state = copy.deepcopy(net), torch.get_rng_state()
    export.save(net, tmp_path / "net.pt2", format="pt2")
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_state(net, before)
    assert net.training


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("folded", [False, True])
def test_file_of_a_network_on_a_gpu_is_one_for_the_cpu(folded, tmp_path):
    """If this breaks, a file that was exported where a network was trained runs nowhere else."""
    net = tiny().cuda()
    file, *_ = export.save(export.absorb(net) if folded else net, tmp_path / "net.pt2", format="pt2")
    program = torch.export.load(file)
    assert {tensor.device.type for tensor in {**program.state_dict, **program.constants}.values()} == {"cpu"}
    assert next(net.parameters()).is_cuda


def test_unknown_format_wrong_ending_and_missing_package_are_named(run, tmp_path, capsys, monkeypatch):
    """If this breaks, a user waits for an export that cannot end well."""
    assert "there are onnx, pt2, openvino" in refused(["export", run, tmp_path / "n.tflite", "--format", "x"], capsys)
    assert "end in .pt2" in refused(["export", run, tmp_path / "n.onnx", "--format", "pt2"], capsys)
    for format, missing, extra in (("onnx", "onnxruntime", "export"), ("openvino", "openvino", "openvino")):
        for package in formats.FORMATS[format].packages:
            monkeypatch.setitem(sys.modules, package, None if package == missing else ModuleType(package))
        message = refused(["export", run, tmp_path / FILES[format][0], "--format", format], capsys)
        assert f"needs the package {missing}" in message
        assert f"pip install 'polymodal[{extra}]'" in message
    assert not list(tmp_path.iterdir())


def stamped(file: Path, description: str | None) -> Path:
    """A small ONNX file of somebody else's, with a description of polymodal or none."""
    from onnx import TensorProto, helper, save

    named, form = ("x", "prediction_ensemble"), ["batch", 1, "height", "width"]
    put = [helper.make_tensor_value_info(name, TensorProto.FLOAT, form) for name in named]
    graph = helper.make_graph([helper.make_node("Identity", named[:1], named[1:])], "identity", put[:1], put[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"somebody": "else"} | ({} if description is None else {"polymodal": description}))
    save(model, file)
    return file


def test_files_of_others_are_refused(tmp_path, monkeypatch):
    """If this breaks, any ONNX file ends in an error from inside ONNX Runtime, or in one that says nothing."""
    need("onnx")
    (tmp_path / "net.onnx").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="no network that `polymodal export` wrote, or it is damaged"):
        export.Session(tmp_path / "net.onnx")
    with pytest.raises(CheckpointError, match="no such file"):
        export.Session(tmp_path / "other.onnx")
    with pytest.raises(CheckpointError, match=r"`polymodal export` wrote: it has no description of polymodal\.$"):
        export.Session(stamped(tmp_path / "foreign.onnx", None))
    with pytest.raises(CheckpointError, match="or it is damaged: 'step'"):
        export.Session(stamped(tmp_path / "short.onnx", json.dumps({"format": 1})))
    with pytest.raises(CheckpointError, match=r"has format 4, .* up to 3: .*by a newer polymodal\. Update polymodal"):
        export.Session(stamped(tmp_path / "newer.onnx", json.dumps({"format": 4})))
    said = {"format": 1, "modalities": {"x": 1}, "outputs": ["ensemble"], "step": 4, "folded": False, "metadata": {}}
    stamped(tmp_path / "own.onnx", json.dumps(said))
    monkeypatch.setattr("onnxruntime.InferenceSession", Mock(side_effect=RuntimeError()))
    with pytest.raises(CheckpointError, match=r"or it is damaged: RuntimeError\(\)"):
        export.Session(tmp_path / "own.onnx")


def test_files_without_a_word_on_size_take_any(tmp_path):
    """If this breaks, the files that were written before sizes could be fixed must all be exported again."""
    need("onnx")
    said = {"format": 1, "modalities": {"x": 1}, "outputs": ["ensemble"], "step": 4, "folded": False, "metadata": {}}
    session = export.Session(stamped(tmp_path / "older.onnx", json.dumps(said)))
    assert (session.size, session.step) == (None, 4)


@pytest.mark.parametrize(
    "convert",
    [
        lambda image: image.requires_grad_(),
        lambda image: image.bfloat16(),
        lambda image: image.double().numpy(),
        lambda image: image.half().numpy(),
    ],
)
def test_session_takes_images_as_a_pipeline_has_them(files, convert):
    """If this breaks, a tensor that comes out of autocast or of a network ends in an error about NumPy."""
    session = export.Session(files[True], threads=1)
    inputs = {name: torch.full((1, count, 16, 16), 0.5) for name, count in session.modalities.items()}
    expected = session(inputs)
    found = session({name: convert(image) for name, image in inputs.items()})
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_images_that_do_not_fit_are_refused(files):
    """If this breaks, the user reads ONNX Runtime's words about a node in the middle of the graph."""
    session = export.Session(files[True], threads=1)
    for inputs, missing in (({"rgb": np.zeros((1, 3, 16, 16), np.float32)}, "depth"), ({}, "depth, rgb")):
        with pytest.raises(DataError, match=f"Missing modality {missing}: .*absorb the network anew") as told:
            session(inputs)
        assert "subset" not in str(told.value)
    with pytest.raises(DataError, match="Unknown modality 'colour'"):
        session({"colour": np.zeros((1, 3, 16, 16), np.float32)})
    for pixels, got in (
        (np.zeros((1, 3, 16, 16), np.uint8), "uint8"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.int64), "torch.int64"),
        (np.zeros((1, 3, 16, 16)).tolist(), "a list"),
    ):
        with pytest.raises(DataError, match=f"'rgb': expected .*got {got}"):
            session({"rgb": pixels, "depth": np.zeros((1, 1, 16, 16), np.float32)})
    with pytest.raises(DataError, match=r"'depth': expected an image \(batch, 1"):
        session({name: np.zeros((1, 3, 16, 16), np.float32) for name in ("depth", "rgb")})
    session.step = 32
    with pytest.raises(DataError, match=r"20x16 .*multiples of 32.*model folder"):
        session({"rgb": np.zeros((1, 3, 16, 20), np.float32), "depth": np.zeros((1, 1, 16, 20), np.float32)})


@pytest.mark.parametrize(
    ("format", "weights"), [("pt2", "fp16"), slow("pt2", "bf16"), slow("onnx", "fp16"), slow("onnx", "bf16")]
)
def test_weights_of_16_bits_predict_as_the_network_that_was_rounded(format, weights, tmp_path):
    """If this breaks, a file of half the size predicts something else, or is no smaller."""
    need(format)
    kind = half.HALF[weights]
    plain = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 256, 1))
    net = randomize_norms(fuse(plain, {"a": 1, "b": 1}, None)).eval()
    file, whole = tmp_path / FILES[format][0], tmp_path / f"whole{FILES[format][0]}"
    export.save(net, file, format=format, weights=weights)
    export.save(net, whole, format=format)
    assert whole.stat().st_size - file.stat().st_size > 0.8 * 2 * 64 * 256
    images = {name: torch.randn(2, 1, 8, 12) for name in "ab"}
    expected = half.rounded(net, kind)(images).ensemble
    assert not torch.equal(expected, net(images).ensemble)
    _, predict_by = opened(format, file)
    found = predict_by(images)["prediction_ensemble"]
    torch.testing.assert_close(torch.as_tensor(found), expected, rtol=1e-4, atol=1e-5)


def test_weights_that_16_bits_do_not_hold_and_unknown_types_are_refused(run, tmp_path, capsys):
    """If this breaks, a file predicts infinities, or a user's type of weights is dropped in silence."""
    net = tiny()
    with torch.no_grad():
        next(net.parameters()).fill_(1e5)
    with pytest.raises(ExportError, match=r"weights: .*weight has values up to 1e\+05, more than .*float16 holds"):
        export.save(net, tmp_path / "net.pt2", format="pt2", weights="fp16")
    with pytest.raises(ExportError, match="expected fp16 or bf16, got 'fp8'"):
        export.save(net, tmp_path / "net.pt2", format="pt2", weights="fp8")
    words = ["export", run, tmp_path / "net.onnx", "--weights", "fp16", "--int8", "--calibrate", "train"]
    assert "--weights fp16: with --int8 weights have 8 bits" in refused(words, capsys)
    assert not list(tmp_path.iterdir())


def test_weights_of_16_bits_are_refused_where_the_format_has_none(tmp_path, monkeypatch):
    """If this breaks, a file for OpenVINO has weights of 32 bits though others were asked for."""
    for package in formats.FORMATS["openvino"].packages:
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    with pytest.raises(ExportError, match=r"openvino has them in 32 bits alone; fp16 is for onnx or pt2"):
        export.save(tiny(), tmp_path / "net.xml", format="openvino", weights="fp16")


def test_free_sizes_of_a_file_have_names(files):
    """If this breaks, a runtime shows `s42` where it asks for the height of an image."""
    import onnx

    for file in files.values():
        graph = onnx.load(file).graph
        for image in graph.input:
            sizes = [size.dim_param or size.dim_value for size in image.type.tensor_type.shape.dim]
            assert (sizes[0], *sizes[2:]) == ("batch", "height", "width")


def test_sizes_in_steps_have_names():
    """If this breaks, what a network makes of its image's height has a name that nothing explains, or no file."""
    need("onnx")
    import onnx_ir as ir

    def value(name: str, *shape: int | str) -> ir.Value:
        return ir.Value(name=name, shape=ir.Shape(shape, frozen=True), type=ir.TensorType(ir.DataType.FLOAT))

    image, made = value("image", "s42", 3, "32*h", "32*w"), value("made", "2*s42", 5, "8*h", 7)
    node = ir.Node("", "Identity", [image], outputs=[made])
    name_sizes(ir.Model(ir.Graph([image], [made], nodes=[node]), ir_version=10))
    assert str(image.shape) == "[batch,3,height,width]"
    assert str(made.shape) == "[2*batch,5,8*(height/32),7]"
