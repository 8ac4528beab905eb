"""Image file formats: which are read, and how a file is made safe for its decoder. `data.images` puts them together."""
