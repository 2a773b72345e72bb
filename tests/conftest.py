from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from goldens import seeded_state_dict

BundleMaker = Callable[[str, int, str], Path]


@pytest.fixture(scope="session")
def seeded_bundle(tmp_path_factory: pytest.TempPathFactory) -> BundleMaker:
    """Bundles of seeded weights by (variant, seed, form), exported once a run."""
    made: dict[tuple[str, int, str], Path] = {}

    def make(variant: str, seed: int, form: str = "") -> Path:
        if (variant, seed, form) not in made:
            torch = pytest.importorskip("torch")
            from etam_edge.exporters.export import export_bundle
            from etam_edge.model import EfficientTAM
            from etam_edge.spec import GraphSizes, find_spec

            model = EfficientTAM(find_spec(variant)).eval()
            weights = seeded_state_dict(variant, seed, form)
            model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
            path = tmp_path_factory.mktemp("bundles") / f"{variant}.{form or 'seeded'}"
            export_bundle(model, path, GraphSizes(), {"name": f"seeded weights {seed} {form}", "sha256": ""})
            made[variant, seed, form] = path
        return made[variant, seed, form]

    return make
