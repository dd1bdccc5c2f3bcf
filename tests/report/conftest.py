import sys
from pathlib import Path

# The synthetic runs are shared with the tests of comparisons.
sys.path.insert(0, str(Path(__file__).parents[1] / "compare"))
