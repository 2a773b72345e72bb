from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from golden_runs import seeded_model
from small import PREBUILT, export_small

from etam_edge.spec import Pooling

BundleMaker = Callable[[str, int, str], Path]
SmallBundleMaker = Callable[[Pooling], Path]


@pytest.fixture(scope="session")
def seeded_bundle(tmp_path_factory: pytest.TempPathFactory) -> BundleMaker:
    """Bundles of seeded official variants by (variant, seed, form), exported once a run."""
    made: dict[tuple[str, int, str], Path] = {}

    def make(variant: str, seed: int, form: str = "") -> Path:
        if (variant, seed, form) not in made:
            pytest.importorskip("torch")
            from etam_edge.exporters.export import export_bundle
            from etam_edge.spec import GraphSizes

            model = seeded_model(variant, seed, form)
            path = tmp_path_factory.mktemp("bundles") / f"{variant}.{form or 'seeded'}"
            export_bundle(model, path, GraphSizes(), {"name": f"seeded weights {seed} {form}", "sha256": ""})
            made[variant, seed, form] = path
        return made[variant, seed, form]

    return make


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> SmallBundleMaker:
    """Bundles of the small model by pooling, exported once a run, or those in ETAM_EDGE_TEST_BUNDLES."""
    made: dict[Pooling, Path] = {}

    def make(pooling: Pooling) -> Path:
        if PREBUILT:
            return Path(PREBUILT) / pooling.value
        if pooling not in made:
            pytest.importorskip("torch")
            made[pooling] = export_small(pooling, tmp_path_factory.mktemp("small") / pooling.value)
        return made[pooling]

    return make
