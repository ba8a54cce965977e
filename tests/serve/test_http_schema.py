"""Requests made up from the description of the interface: whatever comes, no fault of the program answers."""

import os

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import load_all_checks, not_a_server_error

from tests.serve.live_server import TOKEN

load_all_checks()
NUM_CASES = int(os.environ.get("MANYMASK_CASES", "4"))
"""Requests to each route; more by hand."""


def test_no_request_meets_a_fault(live):
    schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"})
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 25
    for operation in operations:
        if operation.path == "/api/events":  # it never ends
            continue

        def check(case):
            if case.path == "/api/improve" and isinstance(case.body, dict):
                case.body.pop("minutes", None)  # nothing is trained here
            answer = case.call(base_url=live.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
            case.validate_response(answer, checks=[not_a_server_error])
            if answer.status_code >= 400:
                assert isinstance(answer.json()["detail"], str)

        strategy = operation.as_strategy()
        run = settings(max_examples=NUM_CASES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        run(given(case=strategy)(check))()
    assert live.client.get("/health").status_code == 200
