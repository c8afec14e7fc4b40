"""If these break, a shared model is not the one that was published, or loading it runs or changes something."""

import base64
import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

import polymodal
from fixtures_data import make_folder
from polymodal import Predictor, checkpoint
from polymodal.checkpoint import annotate
from polymodal.cli import main
from polymodal.errors import CheckpointError, ConfigError
from polymodal.runs.publish import CARD, _given, model_card
from polymodal.runs.validate import validate
from polymodal.tasks.protocol import Protocol
from predict_tools import write_scene
from test_predict import refused

NAME = "someone/rooms"
FILES = ["config.json", "model.safetensors"]


class Hub(ThreadingHTTPServer):
    """The endpoints of the Hub that are used, over revisions in memory."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, files):
        last = self.commits[list(self.commits)[-1]] if self.commits else {}
        revision = f"{len(self.commits) + 1:040x}"
        self.commits[revision] = last | files
        return revision


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass

    def send(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code):
        self.send({"error": "not found"}, 404, X_Error_Code=code, X_Error_Message="not found")

    def revision(self, asked):
        known = self.server.commits
        return list(known)[-1] if asked == "main" and known else asked if asked in known else None

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        self.server.asked.append(path)
        if path == f"/api/models/{NAME}":
            return self.send({"id": NAME, "modelId": NAME, "private": False})
        kind, _, rest = path.removeprefix(f"/api/models/{NAME}/").partition("/")
        if path.startswith(f"/{NAME}/resolve/"):
            asked, _, file = path.removeprefix(f"/{NAME}/resolve/").partition("/")
            files = self.server.commits.get(revision := self.revision(asked))
            if files is None:
                return self.missing("RevisionNotFound")
            if file not in files:
                return self.missing("EntryNotFound")
            digest = f'"{hashlib.sha256(files[file]).hexdigest()}"'
            return self.send(files[file], X_Repo_Commit=revision, ETag=digest)
        if path.startswith(f"/api/models/{NAME}/") and kind in ("revision", "tree"):
            revision = self.revision(rest.partition("/")[0])
            if revision is None:
                return self.missing("RevisionNotFound")
            files = self.server.commits[revision]
            if kind == "tree":
                listed = [
                    {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for file, data in files.items()
                ]
                return self.send(listed, X_Repo_Commit=revision)
            siblings = [{"rfilename": file} for file in files]
            return self.send({"id": NAME, "modelId": NAME, "sha": revision, "siblings": siblings})
        return self.missing("RepoNotFound")

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self):
        path = urlparse(self.path).path
        self.server.asked.append(path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/api/validate-yaml":
            return self.send({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.send({"url": f"{self.server.url}/{NAME}"})
        if path.startswith(f"/api/models/{NAME}/preupload/"):
            files = [file["path"] for file in json.loads(body)["files"]]
            told = [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in files]
            return self.send({"files": told})
        if path.startswith(f"/api/models/{NAME}/commit/"):
            lines = [json.loads(line) for line in body.splitlines()]
            files = {one["value"]["path"]: one["value"] for one in lines if one["key"] == "file"}
            revision = self.server.commit({name: base64.b64decode(one["content"]) for name, one in files.items()})
            url = f"{self.server.url}/{NAME}/commit/{revision}"
            return self.send({"commitUrl": url, "commitOid": revision, "success": True})
        return self.missing("RepoNotFound")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """As HF_ENDPOINT, HF_HUB_CACHE and HF_TOKEN set them."""
    server = Hub()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    yield server
    server.shutdown()
    server.server_close()


def files_of(folder):
    return {file: (folder / file).read_bytes() for file in FILES}


def test_what_was_published_is_what_is_loaded_pinned_or_not_and_without_network(model, hub, tmp_path, monkeypatch):
    address = polymodal.push_to_hub(model, NAME)
    assert address == f"hf://{NAME}@{1:040x}"
    assert sorted(hub.commits[f"{1:040x}"]) == sorted([CARD, *FILES])
    first = polymodal.load(f"hf://{NAME}")
    changed = {key: value + 1 for key, value in first.state_dict().items() if key == "ensemble.alpha"}
    first.load_state_dict(changed, strict=False)
    config = checkpoint.read_config(model)
    checkpoint.save(first, tmp_path / "other", network=config["network"], metadata=config["metadata"])
    hub.commit(files_of(tmp_path / "other") | {"evil.py": b"raise SystemExit", "pytorch_model.bin": b"pickle"})
    old, new = polymodal.load(address), polymodal.load(f"hf://{NAME}")
    assert torch.equal(new.ensemble.alpha, old.ensemble.alpha + 1)
    assert not any("evil" in path or ".bin" in path for path in hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    count = len(hub.asked)
    assert torch.equal(polymodal.load(address).ensemble.alpha, old.ensemble.alpha)
    assert len(hub.asked) == count


def test_an_address_stands_wherever_a_model_does(model, hub, tmp_path, capsys):
    hub.commit(files_of(model))
    address, files = f"hf://{NAME}", write_scene(tmp_path, "a")
    assert (Predictor(address).read(**files)["labels"] == Predictor(model).read(**files)["labels"]).all()
    words = ["predict", "--model", address, "--input", f"rgb={files['rgb']}", f"depth={files['depth']}"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 6
    assert main(["inspect", address]) == 0
    capsys.readouterr()
    assert "cannot be changed" in refused(["calibrate", address, "--root", tmp_path], capsys, tmp_path / "none")


def test_a_model_of_the_hub_is_scored_on_a_data_set_as_its_folder_is(model, hub, tmp_path):
    hub.commit(files_of(model))
    root = make_folder(tmp_path / "data", modalities=["rgb", "depth"], classes=3)
    scores = [validate(where, "val", str(root), Protocol()) for where in (model, Path(f"hf://{NAME}"))]
    assert scores[0]["predictions"] == scores[1]["predictions"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://rooms", "expected hf://user/name"),
        ("hf://a/b/c", "expected hf://user/name"),
        ("hf://someone/other", "cannot be loaded"),
        (f"hf://{NAME}@v9", "cannot be loaded"),
        (f"hf://{NAME}", "it has no model.safetensors"),
    ],
)
def test_what_is_no_model_there_is_refused_by_its_address(address, message, hub):
    hub.commit({"config.json": b"{}"})
    with pytest.raises(CheckpointError, match=message):
        polymodal.load(address)


def test_what_is_to_be_private_is_not_published_where_everybody_sees_it(model, hub):
    with pytest.raises(ConfigError, match="is there already, and everybody sees it"):
        polymodal.push_to_hub(model, NAME, private=True)
    assert not hub.commits


def test_a_card_that_a_person_wrote_stays(model, hub):
    hub.commit({CARD: b"# Mine"})
    polymodal.push_to_hub(model, NAME)
    assert hub.commits[f"{2:040x}"][CARD] == b"# Mine"


def test_nothing_is_sent_of_what_cannot_be_loaded(model, hub, tmp_path):
    for file, data in files_of(model).items():
        (tmp_path / file).write_bytes(data[:-1] if file == "model.safetensors" else data)
    with pytest.raises(CheckpointError):
        polymodal.push_to_hub(tmp_path, NAME)
    with pytest.raises(ConfigError, match="on the Hub already"):
        polymodal.push_to_hub(f"hf://{NAME}", NAME)
    with pytest.raises(ConfigError, match="expected user/name"):
        polymodal.push_to_hub(model, "rooms")
    assert hub.asked == []


def test_a_card_says_what_the_model_takes_and_how_to_use_it(model):
    card = model_card(model, NAME)
    assert 'polymodal.Predictor("hf://someone/rooms")' in card
    assert "predictor(depth=depth, rgb=rgb)" in card
    assert _given(["rgb", "near-ir"]) == '**{"rgb": picture_1, "near-ir": picture_2}', "else the example is no Python"
    assert "| depth | depth | 0.001 m | 1 |" in card
    assert huggingface_hub.ModelCard(card).data.library_name == "polymodal"


def test_a_card_says_what_is_a_control_and_a_model_of_the_package_has_one(model, tmp_path):
    """If this breaks, who finds a control on the Hub takes it for a model of two sensors."""
    folder = shutil.copytree(model, tmp_path / "model")
    annotate(folder, substitute={"depth": "noise"})
    assert "- a control, trained with: noise in the place of depth\n" in model_card(folder, NAME)
    assert "a control" not in model_card(Path("rooms"), NAME)
