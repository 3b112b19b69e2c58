"""Pictures, rays, cells and points: geometry without a network."""
