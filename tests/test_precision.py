"""If these break, a demo takes several times as long without bfloat16, or a recipe's wish is overruled."""

from types import SimpleNamespace

import pytest

from polymodal.runs import precision


@pytest.fixture(params=[True, False])
def knows(request, monkeypatch):
    monkeypatch.setattr(precision, "knows_bfloat16", lambda: request.param)
    return request.param


def test_a_demo_takes_float32_where_bfloat16_is_imitated_and_says_so(knows, capsys):
    assert precision.demo_precision() == (() if knows else ("--trainer.precision", "32-true"))
    assert ("float32" in capsys.readouterr().out) is not knows


@pytest.mark.parametrize(("asked", "said"), [("bf16-mixed", True), ("32-true", False), ("16-mixed", False)])
def test_a_recipe_is_obeyed_and_told_what_it_costs(knows, asked, said, capsys):
    precision.hint_at_precision(SimpleNamespace(precision=asked, is_global_zero=True))
    assert ("imitates" in capsys.readouterr().out) is (said and not knows)
