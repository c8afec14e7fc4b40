"""What every test starts from: one thread and a fixed seed, so that results and timings can be repeated."""

import gc
import os
import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for what a test starts: each worker of the tests has one core

# What the libraries hold stays for good: looked through again and again for garbage, it takes a tenth of the time of
# the tests.
gc.disable()


def pytest_collection_finish():
    gc.freeze()
    gc.set_threshold(5000)
    gc.enable()


def pytest_sessionfinish():
    gc.unfreeze()  # else bindings tell of every function that the interpreter leaves at its end


# Examples run networks: a slow one is no defect, and the same examples every time keep the suite repeatable.
settings.register_profile(
    "polymodal",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("polymodal")


@pytest.fixture(autouse=True)
def seed():
    """Seed every generator before each test, so that no test depends on which ones ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of an untrained model of colour and depth; a module with another one makes its own."""
    from predict_tools import save  # imports the package, which not every test needs

    folder = tmp_path_factory.mktemp("run") / "model"
    torch.manual_seed(0)
    save(folder)
    return folder
