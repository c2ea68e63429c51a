"""What is quoted arrives through Hydra's grammar as it was."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from saev.runs.planning import Job
from saev.runs.quoting import quote

ODD = st.text(st.sampled_from("ab\\\"' ,=[]{}()ü$@#%*"), min_size=1, max_size=12).filter(lambda text: "${" not in text)


@pytest.fixture(scope="module")
def parser():
    return OverridesParser.create()


@settings(deadline=None)
@given(text=ODD)
def test_any_string_survives(parser, text):
    assert parser.parse_override(f"key={quote(text)}").value() == text


@settings(deadline=None)
@given(first=ODD, second=ODD)
def test_variants_survive(parser, first, second):
    job = Job([], [[f"sae.a={first}", f"b={second}"], [f"b={first}"]])
    found = parser.parse_override(job.overrides[-1]).value()
    assert found == job.variants
