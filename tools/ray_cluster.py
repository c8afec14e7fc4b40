"""A comparison on a Ray cluster of two nodes on this machine, one killed half way: its table is that of a local one.

    python tools/ray_cluster.py      # some minutes; needs polymodal[ray]

Prints what the comparison says, and "equal" if the tables are, to the digit, but for the seconds.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml
from PIL import Image

PORT = 6479
COMPARE = [sys.executable, "-m", "polymodal", "compare", "--methods", "penalty,exchange", "--seeds", "0,1"]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def data_set(folder: Path) -> Path:
    """A tiny data set of noise."""
    rng = np.random.default_rng(0)
    keys = [f"{i:04}" for i in range(10)]
    for name, channels in (("rgb", 3), ("grey", 1), ("label", 1)):
        (folder / name).mkdir(parents=True)
        for key in keys:
            high = 2 if name == "label" else 256
            values = rng.integers(0, high, (24, 32, channels), dtype=np.uint8)
            Image.fromarray(values.squeeze()).save(folder / name / f"{key}.png")
    spec = {
        "name": "noise",
        "modalities": {"rgb": {"folder": "rgb", "kind": "image"}, "grey": {"folder": "grey", "kind": "image"}},
        "target": {"folder": "label", "kind": "label", "ignore": 255, "classes": ["a", "b"]},
        "splits": {"train": "train.txt", "val": "val.txt"},
    }
    (folder / "train.txt").write_text("\n".join(keys[:8]))
    (folder / "val.txt").write_text("\n".join(keys[8:]))
    (folder / "dataset.yaml").write_text(yaml.safe_dump(spec))
    return folder


def node(home: Path, *words: str) -> subprocess.Popen[bytes]:
    """A node of its own, whose processes form a group, with one core."""
    command = [*RAY, "start", "--block", "--num-cpus=1", "--disable-usage-stats", *words]
    said = (home / f"node-{len(list(home.glob('node-*')))}.txt").open("wb")
    return subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)


def figures(out: Path) -> list[dict[str, str]]:
    """The table without its times."""
    rows = csv.DictReader((out / "table.csv").read_text().splitlines())
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def main() -> None:
    """Start the nodes, compare, kill one node, compare locally."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with TemporaryDirectory(prefix="ray-") as temporary:
        home = Path(temporary)
        settings = [
            *("--config", "recipes/folder.yaml", f"--data.root={data_set(home / 'set')}", "--data.batch_size=4"),
            *("--trainer.accelerator=cpu", "--trainer.max_epochs=60", "--trainer.check_val_every_n_epoch=10"),
            "--model.network_args={stem: 4, widths: [4, 4], decoder: 4}",
        ]
        nodes = [node(home, "--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={home / 'ray'}")]
        try:
            time.sleep(15)
            nodes.append(node(home, f"--address=127.0.0.1:{PORT}"))
            time.sleep(10)
            words = ["--ray", f"127.0.0.1:{PORT}", "--jobs", "2"]
            command = [*COMPARE, *settings, *words, "--out", str(home / "ray-out")]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as comparing:
                assert comparing.stdout is not None
                under_way = set()
                for line in comparing.stdout:
                    print(line, end="", flush=True)
                    if " epoch 5/60" in line:
                        under_way.add(line.partition("]")[0])
                    if len(under_way) == 2 and nodes[1].poll() is None:  # one of them is on the second node
                        print("-- killing the second node", flush=True)
                        os.killpg(nodes[1].pid, signal.SIGKILL)
                        nodes[1].wait()
            assert comparing.returncode == 0, comparing.returncode
        finally:
            for one in nodes:
                if one.poll() is None:
                    one.terminate()
                    one.wait(timeout=60)
        local = [*COMPARE, *settings, "--jobs", "2", "--out", str(home / "local")]
        subprocess.run(local, check=True, stdout=subprocess.DEVNULL)
        print(json.dumps(figures(home / "ray-out"), indent=1)[:600])
        print("equal" if figures(home / "ray-out") == figures(home / "local") else "DIFFERENT")


if __name__ == "__main__":
    main()
