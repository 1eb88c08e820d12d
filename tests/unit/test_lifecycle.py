"""The life cycle's table, looked at from all sides. Needs nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandastackd.errors import IllegalTransition
from pandastackd.lifecycle import TRANSITIONS, Event, State, advance


@given(st.lists(st.sampled_from(Event)))
def test_any_history_follows_the_table(events: list[Event]) -> None:
    state = State.CREATING
    for event in events:
        if event in TRANSITIONS[state]:
            state = advance(state, event)
            continue
        with pytest.raises(IllegalTransition) as refused:
            advance(state, event, sandbox_id="s1")
        for part in ("s1", str(event), str(state), *map(str, TRANSITIONS[state])):
            assert part in refused.value.message


def test_every_state_is_in_the_table_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(State)
    reached, edge = {State.CREATING}, [State.CREATING]
    while edge:
        for after in TRANSITIONS[edge.pop()].values():
            if after not in reached:
                reached.add(after)
                edge.append(after)
    assert reached == set(State)


def test_everything_can_be_deleted_and_nothing_follows() -> None:
    for state in set(State) - {State.DELETED}:
        assert advance(advance(state, Event.DELETE), Event.GONE) is State.DELETED
    assert TRANSITIONS[State.DELETED] == {}
