"""What MLflow keeps: runs, registry, ledger, gold, models, checkpoints. May import the contract, vision, gate."""
