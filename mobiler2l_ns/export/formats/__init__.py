"""The formats of packages, a folder each."""
