"""What was photographed: photos, cameras, and where pseudo views may be taken from."""
