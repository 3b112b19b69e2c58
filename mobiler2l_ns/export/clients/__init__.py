"""What a developer types to use a package."""
