"""Ways to get from a voxel's data to a Gaussian potential on its latents."""
