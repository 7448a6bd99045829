"""Tables, plots and statistics over run directories. Nothing here imports torch or opens a connection."""
