"""et_pipeline: from a Hugging Face language model to a verified ExecuTorch bundle for a phone."""

from pathlib import Path

__version__ = "0.1.0"

_HERE = Path(__file__).parent
# In a wheel the config tree lies inside the package, in a checkout beside it.
CONF = next(folder for folder in (_HERE / "conf", _HERE.parent / "conf") if folder.is_dir())
