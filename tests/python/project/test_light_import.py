"""R's process imports torch only where a function needs it: see ``scvibridge.r.reticulate``."""

import subprocess
import sys


def test_what_r_calls_imports_no_torch():
    code = (
        "import scvibridge.r.reticulate, sys; print(sorted({'torch', 'scvi'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
