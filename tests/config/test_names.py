"""Names that become parts of paths lead nowhere else."""

from __future__ import annotations

import pytest

from ghostkv.config.experiment import load_config
from ghostkv.files.errors import ConfigError

PLACES = {
    "model": lambda name: {"model": {"name": name}},
    "domain": lambda name: {"texts": {"custom": [{"domain": name, "role": "codec", "path": "a.txt"}]}},
    "trace": lambda name: {"trace": {"domain": name, "path": "a.txt"}},
    "import": lambda name: {"capture": {"import": [{"folder": "x", "domain": name, "role": "codec"}]}},
    "task": lambda name: {"retrieval": {"tasks": [{"task": name, "length": 512, "contexts": 1}]}},
    "generator": lambda name: {"synthetic": {"generators": [{"name": name}]}},
    "codec": lambda name: {"sketch": {"codecs": [{"name": name, "bits": [1]}]}},
    "selector": lambda name: {"peers": {"selectors": [{"name": name}]}},
}


@pytest.mark.parametrize("name", ["../../etc", "/etc", "a/b", "..", "a\x00b", "{layer}"])
@pytest.mark.parametrize("place", PLACES)
def test_a_name_that_leads_elsewhere_is_refused(place, name):
    with pytest.raises(ConfigError):
        load_config(PLACES[place](name))
