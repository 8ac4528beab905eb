"""What is kept and what goes: what runs left behind, and weights of candidates that were refused long ago."""
