from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from embedway.cluster.joined_answers import Said, joined, joined_metrics

ONE = """# HELP a_total Things.
# TYPE a_total counter
a_total{kind="x{y}"} 1.0
a_total{kind="z"} 2.0
# HELP b Others.
# TYPE b gauge
b 3.0
"""
TWO = ONE.replace("2.0", "5.0") + "# HELP c More.\n# TYPE c gauge\nc{} 7.0 1700000000\n"


def test_the_samples_of_all_servers_stand_in_their_families() -> None:
    text = joined_metrics({"one": ONE, "two": TWO})
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families.keys() == {"a", "b", "c"}
    assert text.count("# TYPE a_total counter") == 1
    a = {(sample.labels["server"], sample.labels["kind"]): sample.value for sample in families["a"].samples}
    assert a == {("one", "x{y}"): 1, ("one", "z"): 2, ("two", "x{y}"): 1, ("two", "z"): 5}
    assert [(sample.labels, sample.value) for sample in families["c"].samples] == [({"server": "two"}, 7)]


def test_what_one_replica_refuses_is_refused() -> None:
    said = [Said("one", 200, {}, b"done"), Said("two", 403, {"x": "y"}, b"no")]
    assert joined("/flush_cache", said) == (403, {"x": "y"}, b"no")
    assert joined("/flush_cache", said[:1]) == (200, {}, b"done")


@pytest.mark.parametrize("path", ["/server_info", "/get_server_info"])
def test_a_server_s_state_is_the_first_one_s_with_all_beside_it(path: str) -> None:
    said = [Said(name, 200, {}, b'{"pid": %d}' % i) for i, name in enumerate(("one", "two"))]
    _, _, body = joined(path, said)
    assert body == b'{"pid":0,"servers":{"one":{"pid":0},"two":{"pid":1}}}'
