"""What a later stage would refuse is refused before hours of training."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.errors import ConfigError


def test_pretext_refuses_the_layer_that_extract_would(
    run_stage: Callable[..., None], run_directory: RunDirectory
) -> None:
    extract = {"model": "resnet8_small", "layer": "res6"}
    later = {"stages": ["pretext", "extract"], "extract": extract}
    with pytest.raises(ConfigError, match=r"^extract\.layer: got res6, which SmallResNet does not"):
        run_stage("pretext", {}, **later)
    assert not run_directory.backbone("pretext").exists()
    run_stage("pretext", {}, extract=extract)  # another submission's
    assert run_directory.backbone("pretext").exists()
