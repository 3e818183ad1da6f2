import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgrank.errors import InputError, SettingsError
from imgrank.index.graph import arrays, empty_graph, from_arrays, search_width, validate
from tests.index.graphs import changed, same, small_graph

GRAPH = small_graph()


def test_a_right_graph_has_no_problems():
    assert validate(GRAPH, 6) == []
    assert validate(empty_graph(16, 200, 1), 0) == []
    assert validate(empty_graph(16, 200, 1), 10) == []
    assert GRAPH.upper_starts().tolist() == [0, 0, 2, 2, 3]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rows": changed(GRAPH.rows, 0, 6)}, "descriptor 6 of 6"),
        ({"rows": changed(GRAPH.rows, 0, 2**32 - 1)}, "descriptor 4294967295"),
        ({"rows": changed(GRAPH.rows, 0, 0)}, "twice"),
        ({"rows": GRAPH.rows[:3]}, "links0 has shape"),
        ({"levels": GRAPH.levels[:3]}, "levels has shape"),
        ({"levels": changed(GRAPH.levels, 0, 1)}, "upper_links has shape"),
        ({"levels": changed(changed(GRAPH.levels, 1, 1), 3, 2)}, "entry point's 1"),
        ({"levels": changed(changed(GRAPH.levels, 3, 0), 2, 1)}, "not on that level"),
        ({"links0": changed(GRAPH.links0, 0, 1, 4)}, "outside 0 to 3"),
        ({"links0": changed(GRAPH.links0, 0, 1, -2)}, "outside 0 to 3"),
        ({"links0": changed(GRAPH.links0, 0, 0, 0)}, "to itself"),
        ({"links0": changed(GRAPH.links0, 1, 1, -1)}, "padding before a link"),
        ({"links0": GRAPH.links0[:, :3]}, "links0 has shape"),
        ({"upper_links": changed(GRAPH.upper_links, 0, 0, 2**31 - 1)}, "outside 0 to 3"),
        ({"upper_links": changed(GRAPH.upper_links, 0, 0, 0)}, "not on that level"),
        ({"upper_links": changed(GRAPH.upper_links, 1, 0, 3)}, "not on that level"),
        ({"upper_links": changed(GRAPH.upper_links, 2, 0, 3)}, "to itself"),
        ({"entry_point": 4}, "entry point is node 4"),
        ({"entry_point": -1}, "entry point is node -1"),
        ({"entry_point": 3}, "entry point's 1"),
        ({"max_level": 3}, "max_level is 3"),
        ({"max_level": -1}, "max_level is -1"),
        ({"m": 3}, "has shape"),
        ({"m": 1}, "m is 1"),
        ({"m": 10**9}, "m is 1000000000"),
        ({"ef_construction": 0}, "ef_construction is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_every_kind_of_damage_is_named(changes, reason):
    assert reason in "; ".join(validate(small_graph(**changes), 6))


def test_an_empty_graph_has_no_entry_point():
    empty = empty_graph(4, 10, 1)
    assert validate(dataclasses.replace(empty, entry_point=0, max_level=0), 5) == ["an entry point without nodes"]


def test_more_nodes_than_descriptors():
    assert validate(GRAPH, 3) == ["4 nodes for 3 descriptors"]


def test_arrays_and_back():
    stored = arrays(GRAPH)
    assert {name: (array.dtype.name, array.shape) for name, array in stored.items()} == {
        "rows": ("uint32", (4,)),
        "levels": ("uint8", (4,)),
        "links0": ("int32", (4, 4)),
        "upper_links": ("int32", (3, 2)),
        **dict.fromkeys(("entry_point", "max_level", "m", "ef_construction", "seed"), ("int64", ())),
    }
    assert same(from_arrays(stored), GRAPH)
    assert type(from_arrays(stored).m) is int
    assert same(from_arrays(arrays(empty_graph(8, 9, 3))), empty_graph(8, 9, 3))


@pytest.mark.parametrize("name", list(arrays(GRAPH)))
def test_a_missing_or_ill_typed_array_is_refused(name):
    stored = arrays(GRAPH)
    with pytest.raises(InputError, match=name):
        from_arrays({key: array for key, array in stored.items() if key != name})
    with pytest.raises(InputError, match=name):
        from_arrays(stored | {name: stored[name].astype(np.float32)})
    with pytest.raises(InputError, match=name):
        from_arrays(stored | {name: stored[name][None]})


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_validate_says_safe_or_why_not_for_any_numbers(data):
    # Whatever the tables hold, either a reason is given or every link can be followed.
    name = data.draw(st.sampled_from(["rows", "levels", "links0", "upper_links"]))
    table = getattr(GRAPH, name).copy()
    limits = np.iinfo(table.dtype)
    flat = table.reshape(-1)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(flat) - 1))
        flat[at] = data.draw(st.one_of(st.integers(limits.min, limits.max), st.integers(0, 5)))
    graph = small_graph(**{name: table})
    if validate(graph, 6):
        return
    assert len(set(graph.rows.tolist())) == 4
    assert max(graph.rows) < 6
    starts = graph.upper_starts()
    for node in range(4):
        for level in range(graph.levels[node] + 1):
            links = graph.links0[node] if level == 0 else graph.upper_links[starts[node] + level - 1]
            for other in links[links != -1]:
                assert 0 <= other < 4
                assert other != node
                assert graph.levels[other] >= level


def test_search_width():
    assert [search_width(10, 0), search_width(100, 0), search_width(10, 50), search_width(10, 5)] == [128, 200, 50, 10]
    with pytest.raises(SettingsError, match="ef is -1"):
        search_width(10, -1)
