"""The whole archive against its history: entries, checkpoints, the catalog row by row, sealed lines, the vault."""
