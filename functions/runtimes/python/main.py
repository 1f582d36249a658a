"""What edgefn starts for a python function: main.py MODULE:FUNCTION."""

import sys

# The SDK's folder is on the path for this one import only: what the author's
# code may import is set by edgefn._run.
sys.path.insert(0, __file__.rpartition("/")[0])
import edgefn._run  # noqa: E402

del sys.path[0]
edgefn._run.main(sys.argv)
