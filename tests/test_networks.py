"""A sample of the networks of `tools/networks_sweep.py`, whose table is docs/networks.md."""

import re
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"

SITES = {  # how many of how many norms, and the first: behind the depthwise convolution, before attention and MLP
    "timm/test_convnext3": r"\d+ of \d+, `stages\.0\.blocks\.0\.norm`",
    "timm/swin_tiny_patch4_window7_224": r"24 of 29, `layers\.0\.blocks\.0\.norm1`",
    "smp/Segformer/mit_b0": r"16 of \d+, `encoder\.block1\.0\.norm1`",
    "timm/mobilevit_xxs": r"25 of 53, `stages\.0\.0\.conv2_kxk\.bn`",
    "timm/tnt_s_legacy_patch16_224": r"10 of 13, `blocks\.0\.norm_in`",
    "timm/efficientnet_b0_gn": r"15 of 49, `blocks\.1\.0\.bn2`",
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in list(SITES)[1:]]


@pytest.fixture(scope="module")
def sweep():
    sys.path.insert(0, str(TOOLS))
    try:
        import networks_sweep

        yield networks_sweep
    finally:
        sys.path.remove(str(TOOLS))


@pytest.mark.parametrize("name", ["timm/test_convnext3", *SLOW])
def test_each_modality_has_the_plain_networks_predictions(sweep, name):
    """If this breaks, a network that is said to work computes something else once fused, or exchanges elsewhere."""
    row = sweep.look(name)
    assert row.refused == ""
    assert row.exact <= sweep.TOLERANCE
    assert re.fullmatch(SITES[name], row.sites)


@pytest.mark.slow
def test_what_mixes_the_batch_is_refused_by_name(sweep):
    """If this breaks, modalities leak into each other through an attention over the batch."""
    assert "'stages.0.0.attn.attn.norm2' (LayerNorm)" in sweep.look("timm/csatv2").refused


def test_page_is_read_as_it_was_written(sweep):
    """If this breaks, who exports one network loses what docs/networks.md says of the others."""
    page = sweep.PAGE.read_text()
    assert sweep.page(list(sweep.said_by(page).values())) == page
