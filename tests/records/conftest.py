import sys
from pathlib import Path

# works under every import mode of pytest; tests/sinks does the same
sys.path.insert(0, str(Path(__file__).parent))
