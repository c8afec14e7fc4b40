"""If these break, a class of a user stands in for one of the package, and every model is scored or written by it."""

import pytest

from polymodal.errors import ConfigError
from polymodal.export.formats import FORMATS, Onnx
from polymodal.tasks.output import OUTPUTS
from polymodal.tasks.outputs import Labels


@pytest.mark.parametrize(("known", "parent"), [(OUTPUTS, Labels), (FORMATS, Onnx)])
def test_a_class_without_a_name_of_its_own_does_not_take_its_parents(known, parent):
    before = dict(known)
    with pytest.raises(ConfigError, match=r"abc\.Nameless: has no name of its own"):
        type("Nameless", (parent,), {})
    assert known == before


@pytest.mark.parametrize(("known", "parent"), [(OUTPUTS, Labels), (FORMATS, Onnx)])
def test_a_name_is_of_one_class_that_may_be_defined_again(known, parent):
    before = dict(known)
    with pytest.raises(ConfigError, match=f"Thief: the name '{parent.name}' is that of .*{parent.__name__}; give"):
        type("Thief", (parent,), {"name": parent.name})
    assert known == before
    first, second = (type("Mine", (parent,), {"name": "mine-alone", "__module__": m}) for m in ("__main__", "my_file"))
    with pytest.raises(ConfigError, match=r"Other: the name 'mine-alone' is that of my_file\.Mine"):
        type("Other", (parent,), {"name": "mine-alone"})
    assert known.pop("mine-alone") is second is not first
    assert known == before
