"""The commands that a person calls. Nothing imports it."""
