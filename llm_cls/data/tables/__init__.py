"""The formats of table files, one module each, and what they share."""
