"""What all pages share: numbers as text, a colour for every modality, and how a template becomes HTML."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeGuard

from jinja2 import Environment, PackageLoader, StrictUndefined

HUES = 6  # modality colours in style.css


@dataclass(frozen=True)
class Bars:
    """One group of bars (name, CSS colour, per cent or None), with a colour swatch before its label or none."""

    label: str
    swatch: str | None
    bars: list[tuple[str, str, float | None]]


def render(template: str, **values: Any) -> str:
    """HTML from a template of this package, with the values escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    """Made once, as it keeps the templates that it compiled."""
    environment = Environment(
        loader=PackageLoader("polymodal.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (fixed, span, share, count, duration)
    environment.filters |= {function.__name__: function for function in filters}
    return environment


def hue(prediction: str, modalities: Sequence[str]) -> str:
    """A modality has one colour on all pages; the ensemble is drawn in ink."""
    return f"var(--m{list(modalities).index(prediction) % HUES})" if prediction in modalities else "var(--ink)"


def fixed(value: float | None, digits: int = 1) -> str:
    """A number with `digits` decimals, a dash where there is none."""
    return f"{value:.{digits}f}" if is_number(value) else "–"


def short(value: float | None) -> str:
    """A number with four digits that count, a dash where there is none."""
    return f"{value:.4g}" if is_number(value) else "–"


def listed(names: Iterable[str]) -> str:
    """Names as a sentence has them: a, b and c."""
    *most, last = [*names] or [""]
    return f"{', '.join(most)} and {last}" if most else last


def counted(samples: int | None, of: int | None) -> str | None:
    """How many scenes were scored, in words that say it where these are not all of the split.

    Args:
        samples: Those that were scored; None where nobody counted them.
        of: Those of the split; None in files of a time when all were scored.
    """
    if samples is None:
        return None
    return str(samples) if of is None or samples == of else f"the first {samples} of {of}"


def share(value: float | None) -> str:
    """A share 0..1 in per cent."""
    return f"{100 * value:.0f} %" if is_number(value) else "–"


def span(values: Sequence[float | None]) -> str:
    """Shares 0..1 from the smallest to the largest, in per cent."""
    known = [value for value in values if is_number(value)]
    low, high = share(min(known, default=None)), share(max(known, default=None))
    return high if low == high else f"{low.removesuffix(' %')}–{high}"


def count(value: float | None) -> str:
    """A large number in words people say: 351 k, 12.3 M."""
    if not is_number(value):
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:g}"


def duration(seconds: float | None) -> str:
    """Seconds as 41 s, 3 min 20 s or 2 h 5 min."""
    if not is_number(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def number(value: object) -> float | None:
    """The value where it is a finite number, else None."""
    return value if is_number(value) else None
