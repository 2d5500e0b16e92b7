"""Column types and their names."""

import pytest

import ringmill as rm
from ringmill.types import from_name

ALL = [
    *(rm.bool_, rm.utf8, rm.binary, rm.float32, rm.float64),
    *(rm.int8, rm.int16, rm.int32, rm.int64, rm.uint8, rm.uint16, rm.uint32, rm.uint64),
    *(rm.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
    rm.list_(rm.float64),
    rm.list_(rm.timestamp("ms")),
]


@pytest.mark.parametrize("data_type", ALL, ids=str)
def test_a_type_is_found_by_its_name_and_shows_how_it_is_written(data_type):
    assert from_name(data_type.name) == data_type
    assert from_name(data_type.name, is_nullable=True) == rm.nullable(data_type)
    assert eval(repr(data_type), {"ringmill": rm}) == data_type
    assert str(rm.nullable(data_type)) == f"nullable {data_type}"


@pytest.mark.parametrize(
    "name", ["", "float", "timestamp", "timestamp[m]", "list[utf8]", "list[bool]", "list[list[int8]]", "list[]"]
)
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r"not a type|list items must be"):
        from_name(name)


def test_mistakes_in_types_are_named():
    with pytest.raises(ValueError, match="must be one of s, ms, us, ns, got 'm'"):
        rm.timestamp("m")
    with pytest.raises(ValueError, match="list items must be non-null numbers or timestamps, got utf8"):
        rm.list_(rm.utf8)
    with pytest.raises(ValueError, match="got nullable int8"):
        rm.list_(rm.nullable(rm.int8))
    with pytest.raises(TypeError, match=r"list_\(\) takes a ringmill type"):
        rm.list_(float)
    with pytest.raises(TypeError, match=r"nullable\(\) takes a ringmill type"):
        rm.nullable(float)
