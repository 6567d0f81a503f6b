"""Whatever is sent is answered, and never as if something were wrong here."""

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.scripted import HERMES, serving


def test_no_request_is_our_failure():
    with serving("An answer.", template=HERMES) as (url, _):
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        operations = [each.ok() for each in schema.get_all_operations()]
        assert len(operations) == 8
        cases = st.one_of(operation.as_strategy() for operation in operations)

        @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
        @given(cases)
        def check(case):
            response = case.call(timeout=20)
            assert response.status_code < 500, response.text
            if response.status_code >= 400:
                assert response.json()["error"]["message"]

        check()
