"""From a source of images to gold: reading, cleaning, splitting. May import nothing else of `tasks.vision`."""
