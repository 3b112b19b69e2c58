"""The plugin's folder in nerfstudio's viewer."""
