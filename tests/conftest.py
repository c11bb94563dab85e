"""Settings of every test process: one torch thread, no network, no forks of tokenizer threads."""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Read by torch when a test imports it, so tests that need no torch do not pay for loading it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
