"""From the capture to training batches: poses, pseudo views, low-resolution rays, photos."""
