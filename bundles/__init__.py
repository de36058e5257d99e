"""The bundles as something to hand on: catalogue, packing, verification, installation and export."""
