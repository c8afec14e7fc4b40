"""What a network exchanges, as its page shows it: by modality, by site and by the scales that decide it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from polymodal.report.arrays import Scales
from polymodal.report.charts import channel_strip, scale_histogram
from polymodal.report.render import hue

WIDE_SITE = 512  # channels; up to here a strip has 64 cells a row, beyond 128


def _others(modality: str, modalities: Sequence[str]) -> tuple[str, str]:
    """Name and colour of what replaces a channel of `modality`: of two the other one, else the mean of the others."""
    others = [name for name in modalities if name != modality]
    if len(others) == 1:
        return others[0], hue(others[0], modalities)
    return "the others", "var(--ink)"


def exchanged(scales: Scales) -> dict[str, Any]:
    """Everything the template shows of what a network exchanges, and of the scales that decide it."""
    modalities = scales.modalities
    keep = np.concatenate([site.keep for site in scales.sites], axis=1)
    part = np.concatenate([site.part for site in scales.sites], axis=1)
    widest = max(site.keep.shape[1] for site in scales.sites)
    columns = min(widest, 64 if widest <= WIDE_SITE else 128)
    directions = [
        {
            "to": name,
            "from": _others(name, modalities)[0],
            "own": hue(name, modalities),
            "others": _others(name, modalities)[1],
            "replaced": int((~keep[m]).sum()),
            "channels": keep.shape[1],
            "inside": float((~keep[m])[part[m]].mean()) if part[m].any() else None,
            "outside": float((~keep[m])[~part[m]].mean()) if not part[m].all() else None,
        }
        for m, name in enumerate(modalities)
    ]
    sites, idle = [], []
    for site in scales.sites:
        strips = []
        for m, direction in enumerate(directions):
            replaced, channels = int((~site.keep[m]).sum()), site.keep.shape[1]
            alt = f"{site.name}: {replaced} of {channels} channels of {direction['to']} come from {direction['from']}"
            svg = channel_strip(alt, site.keep[m], site.part[m], direction["own"], direction["others"], columns)
            strips.append({**direction, "replaced": replaced, "channels": channels, "svg": svg})
        if (~site.keep).any():
            sites.append({"name": site.name, "strips": strips})
        else:
            idle.append(site.name)
    return {
        "modalities": modalities,
        "directions": directions,
        "sites": sites,
        "idle": idle,
        "replaced": int((~keep).sum()),
        "threshold": scales.threshold,
        "share": scales.share,
        "first_epoch": int(scales.epochs[0]),
        "histograms": [(name, _histogram(scales, m)) for m, name in enumerate(modalities)],
    }


def _histogram(scales: Scales, m: int) -> Markup:
    end = np.concatenate([site.scale[-1, m] for site in scales.sites])
    start = np.concatenate([site.scale[0, m] for site in scales.sites])
    part = np.concatenate([site.part[m] for site in scales.sites])
    name = scales.modalities[m]
    return scale_histogram(name, hue(name, scales.modalities), start, end[part], end[~part], scales.threshold)
