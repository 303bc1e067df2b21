"""What the description of an exported file says of the run."""

import json

from fedrecon.experiment.serving.export import privacy_of
from fedrecon.experiment.storage.digests import seal


def test_the_claim_of_privacy_is_the_ledger_that_the_run_recorded(tmp_path):
    assert privacy_of(tmp_path) == {"differential_privacy": False}
    result = tmp_path / "result.json"
    result.write_text(json.dumps(seal({"rounds": 1})))
    assert privacy_of(tmp_path) == {"differential_privacy": False}
    result.write_text(json.dumps(seal({"rounds": 1, "privacy": {"epsilon": 3.98, "delta": 1e-5}})))
    assert privacy_of(tmp_path) == {"differential_privacy": True, "epsilon": 3.98, "delta": 1e-5}
