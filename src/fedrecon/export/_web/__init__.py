"""The page that shows an export, its runtime and its server."""
