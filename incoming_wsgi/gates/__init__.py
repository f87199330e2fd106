"""Who may send what, and how much: what stands between a stranger and an upload."""
