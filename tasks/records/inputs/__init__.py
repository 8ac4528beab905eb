"""What stages read from MLflow beyond their parameters. May import the rest of records; never torch."""
