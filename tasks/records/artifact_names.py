"""Names of artifact folders and tags, for modules that have neither numpy nor torch, such as the stage clean."""

from __future__ import annotations

GOLD = "gold"  # artifact folder of a prepare run
GOLD_RUN = "pipeline.gold_run_id"  # tag: the run whose gold it is
GOLD_SHA256 = "pipeline.gold_sha256"  # tag: digest of the gold's files; of a version: one or more
DECODED = "decoded"  # artifact folder of a prepare run that has not ended
CHECKPOINTS = "checkpoints"  # artifact folder of a run that trains
MODEL_URI = "pipeline.logged_model_uri"  # tag: of the model that a run logged
