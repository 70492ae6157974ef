"""Results in blocks.

Fixtures
--------
interrupted     the path of a result whose first four of six blocks are finished
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import streamed

if TYPE_CHECKING:
    pass
from interrupted import failing_at, plan_for, shard_names


@pytest.fixture
def interrupted(tmp_path):
    """A path whose first four of six blocks are finished."""
    path = tmp_path / "x.h5ad"
    with pytest.raises(ValueError, match="enough"):
        streamed.run(path, plan_for(path), before=failing_at(4, ValueError("enough")))
    assert len(shard_names(path)) == 4
    return path
