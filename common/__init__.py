"""Code that the bundles share. It imports itself only relatively, so that a packed bundle can carry it renamed."""
