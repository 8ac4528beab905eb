"""The stages of the pipeline and the service: the Python package inside the images."""

# Of commands that import much and are soon done. Python's own are 700, 10, 10: by them a sixth of a short stage's CPU
# time goes into looking through what its imports have just made.
GC_THRESHOLDS = (10_000, 10, 10)
