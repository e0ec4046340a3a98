"""The run folder on disk: manifest, segments, resume, streamed assembly."""
