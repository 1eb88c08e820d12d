"""The description at /openapi.json against what the API does, by generated requests. Needs nothing.

Commands are left out: what they run is up to the guest, and the guest here is this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.contract.fake_platform import fake_platform

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with fake_platform(tmp_path_factory.mktemp("platform")) as address:
        yield address


def test_the_api_does_what_it_says(platform: tuple[str, str]) -> None:
    url, key = platform
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json").exclude(path_regex="/exec")
    tried = []
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]
        tried.append(operation.label)
        _try(operation, key)
    assert len(tried) > 15


def _try(operation: Any, key: str) -> None:
    @given(case=operation.as_strategy())
    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def attempt(case: schemathesis.Case[Any]) -> None:
        response = case.call(headers={"Authorization": f"Bearer {key}"})
        if response.status_code == 501:
            assert response.json()["code"] == "not_built"
            return
        case.validate_response(response, checks=CHECKS)
        if response.status_code >= 400:
            assert set(response.json()) == {"error", "code", "request_id"}

    attempt()
