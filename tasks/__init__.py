"""The stages of the pipeline and the service: the Python package inside the images."""
